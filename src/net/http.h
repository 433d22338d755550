/* net/http.h - one HTTP/1.1 exchange as a client. THE place of the safe defaults: http and https only, no redirects, no
 * cookies, no netrc, no proxy from the environment, no compression, certificates verified, no signals, no `Expect`,
 * headers counted. Nothing else in the project sets up a libcurl handle. */
#ifndef NET_HTTP_H
#define NET_HTTP_H

#include "deputy.h"
#include "net/loop.h"

struct http_transfer;

enum http_end {
    HTTP_COMPLETE, /* a whole, well-framed reply */
    HTTP_TIMEOUT,  /* connect_ms or total_ms passed */
    HTTP_DNS,
    HTTP_CONNECT, /* refused, or gone before the head of the reply was whole */
    HTTP_TLS,
    HTTP_PROTOCOL, /* not HTTP, or a head that contradicts itself */
    HTTP_CUT,      /* ended before it was complete, after the head */
    HTTP_LIMIT,    /* head over max_header_bytes, or over HEAD_FIELDS_MAX fields (net/head.h) */
    HTTP_WITHHELD, /* before_send said no: not a byte was sent */
    HTTP_STOPPED,  /* on_bytes asked to stop */
    HTTP_NO_MEMORY
};

struct http_result {
    enum http_end end;
    int status;        /* 0 when no whole head came. Meaningful only after `end` was looked at */
    bool connecting;   /* TIMEOUT: it was still connecting */
    bool unframed;     /* neither a length nor chunks said where the body ends (RFC 9112 section 6.3): the connection's
                          end did, and COMPLETE cannot be told from a cut */
    char message[160]; /* for people, without secrets and without the query of the URL; "" when COMPLETE */
};

struct http_span {
    const void *ptr;
    size_t len;
};

struct http_request {
    const char *method;           /* "GET", "HEAD", "POST", or another token (RFC 9110 section 9.1) */
    const char *url;              /* whole; copied; with user or password it is refused */
    const deputy_header *headers; /* copied; a name that is no token or a value with a control byte is refused. Fields
                                     that are the connection's own (Host, Content-Length, Connection, ...) and
                                     Accept-Encoding are left out */
    size_t n_headers;
    const char *bearer;       /* becomes Authorization, and the only one; checked by url_token_ok; copied; NULL: none */
    struct http_span body[3]; /* sent one after the other; BORROWED until on_end or http_cancel. With GET and HEAD
                                 nothing is sent */
    const char *ca_file;      /* NULL: the system's */
    const char *pinned_user_agent; /* NULL: "deputy/VERSION" */
    uint32_t connect_ms;           /* TCP and TLS; 0: no limit of its own */
    uint32_t total_ms;             /* 0: none */
    size_t max_header_bytes;       /* 0: 65536; counts every head, 1xx and trailers too */
    bool fresh;                    /* a connection of its own, closed afterwards (the probe) */
    bool anew;                     /* no connection that was kept; this one may be (a second attempt) */

    void *user;
    /* The connection stands, no byte of the request has left. false: withhold it (HTTP_WITHHELD). Called inside
     * libcurl: no I/O, no Lua. Called again when a kept connection turns out to be dead before any byte of a reply and
     * libcurl starts over on another one, which only a GET or HEAD may: else it ends as HTTP_CONNECT. NULL: always
     * send. */
    bool (*before_send)(void *user);
    /* The final head (1xx are swallowed). Called inside libcurl. headers live until it returns. May be NULL. */
    void (*on_head)(void *user, int status, const deputy_header *headers, size_t n_headers);
    /* The next bytes of the body. DEPUTY_OK, DEPUTY_PAUSE (none taken; after http_resume they come again, more may have
     * joined them), else stop (HTTP_STOPPED). Called inside libcurl. NULL: all are dropped. */
    int (*on_bytes)(void *user, const void *bytes, size_t len);
    /* Exactly once unless cancelled; never from inside http_start or libcurl. The transfer is gone already. */
    void (*on_end)(void *user, const struct http_result *result);
};

/* Starts an exchange. DEPUTY_OK, DEPUTY_EINVAL (a URL, header or token that cannot be sent: error says which),
 * DEPUTY_ENOMEM. May be called from inside a libcurl callback: adding to the multi is put off then. */
int http_start(struct loop *loop, const struct http_request *request, struct http_transfer **out, deputy_error *error);

/* Ends it now: no callback comes after this, and the body is not looked at any more. May be called from inside its own
 * callbacks but on_end. NULL is allowed. */
void http_cancel(struct http_transfer *transfer);

/* After DEPUTY_PAUSE, or inside the very on_bytes that is about to answer it. The bytes come from the loop, not from
 * inside this call. Without a pause it does nothing. */
void http_resume(struct http_transfer *transfer);

#endif
