/* http1/server.h - an HTTP/1.1 server on a uv loop (RFC 9110, RFC 9112): listener, connections, exchanges. It knows
 * nothing of LLMs.
 *
 * One thread, the loop's. A connection carries its exchanges one after the other; pipelined requests wait. A request is
 * handed over when its head and its whole body are there; the handler answers at once or later, in pieces if it likes.
 * What http-parser lets through and RFC 9112 forbids is refused with 400 and a closed connection: bare LF or CR, a
 * space before the colon, folded lines, NUL, Content-Length beside Transfer-Encoding, two lengths, a coding that is not
 * one `chunked`. */
#ifndef HTTP1_SERVER_H
#define HTTP1_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct http1_server;
struct http1_exchange;

struct http1_header {
    const char *name; /* as it came */
    const char *value;
};

/* Milliseconds and bytes; 0 takes the default in brackets. */
struct http1_limits {
    uint32_t
        header_ms;     /* [10000] for the whole head, from the connection or the last reply: absolute, whatever drips */
    uint32_t body_ms;  /* [60000] how long the next 64 KiB of a body, or its rest, may take */
    uint32_t write_ms; /* [60000] how long a reader may take nothing while bytes wait for it */
    size_t max_header_bytes;   /* [65536] more: 431 */
    unsigned max_headers;      /* [100]   more: 431 */
    size_t max_body_bytes;     /* [33554432] more: 413 */
    size_t max_queued_bytes;   /* [65536] waiting for a slow reader; then http1_write answers false */
    unsigned max_connections;  /* [1024] more: 503 and closed */
    atomic_uint *connections;  /* [own]  where they are counted: servers that share a bound share this; outlives them */
    size_t max_buffered_bytes; /* [1073741824] of all bodies at once; more: 503. A body that is alone is let in. */
    atomic_size_t *buffered;   /* [own]  where they are counted, as connections */
};

/* on_request must be there, the others may be NULL. */
struct http1_handler {
    void *user;
    /* A whole request. The exchange is the handler's until it ends it or on_gone comes. */
    void (*on_request)(void *user, struct http1_exchange *exchange);
    /* The caller has left before the reply was complete, or the server is closed: nothing more can be written. The
     * exchange is gone when this returns. Never from inside the functions of the reply. A half-close counts; it is not
     * seen behind more pipelined bytes than the socket's receive buffer holds, for these are not read before their
     * turn. */
    void (*on_gone)(void *user, struct http1_exchange *exchange);
    /* http1_write answered false before; now there is room. */
    void (*on_room)(void *user, struct http1_exchange *exchange);
    /* For 100-continue and early refusals: NULL accepts. Called with the head alone; anything but 0 is the status to
     * refuse with before the body is read. It may also answer by itself (http1_reply, then 0): the connection is closed
     * after that. No on_gone comes for a request that breaks off before on_request: data set here must not own
     * anything. */
    int (*on_head)(void *user, struct http1_exchange *exchange);
};

enum { HTTP1_REASONS = 24 };

struct http1_stats {
    unsigned connections; /* open now */
    unsigned exchanges;   /* not answered yet */
    uint64_t accepted, refused, requests, bytes_in, bytes_out;
    uint64_t refused_by[HTTP1_REASONS]; /* which of them for which reason: see http1_reason */
};

/* What refused_by[i] counts: the code in the reply's body and its status. NULL: nothing. "handler" is what on_head
 * refused with a status of its own (0 here). */
const char *http1_reason(size_t i, int *status);

/* Listens on "host:port" (port 0: picked), "[v6]:port" or "unix:/path" (the socket is made with mode 0600 before it
 * listens; a stale one is replaced, a live one is EADDRINUSE). reuse_port: several servers share the port, one for each
 * worker. fd >= 0: takes a listening descriptor instead (address is not looked at), which is the server's on success; a
 * Unix socket's file then stays when the server goes. 0, or a negative uv error with a sentence in message (may be
 * NULL). limits (may be NULL) and handler are copied. */
int http1_listen(uv_loop_t *loop, const char *address, bool reuse_port, int fd, const struct http1_limits *limits,
                 const struct http1_handler *handler, struct http1_server **server, char *message, size_t message_size);

/* "127.0.0.1:4141", or "unix:/path". */
const char *http1_address(const struct http1_server *server);
int http1_fd(const struct http1_server *server); /* that it listens on, the server's; to share it: dup */
const struct http1_stats *http1_stats(const struct http1_server *server);

/* Other bounds for what begins from now on; 0 takes the default as in http1_limits. */
void http1_bound(struct http1_server *server, size_t max_body_bytes, size_t max_buffered_bytes,
                 unsigned max_connections);

/* Stops taking connections; those that are idle are closed, the others after their reply (which says `connection:
 * close`). Over when http1_stats says that no connection is left. */
void http1_drain(struct http1_server *server);

/* Closes everything at once; on_gone comes for open exchanges. done (may be NULL) is called from the loop when all
 * handles are closed and the server is freed. */
void http1_close(struct http1_server *server, void (*done)(void *user), void *user);

/* ---- the request. Valid until the exchange ends. ---------------------------------------------------------------- */

const char *http1_method(const struct http1_exchange *exchange);
const char *http1_target(const struct http1_exchange *exchange); /* as it came: nothing decoded, nothing normalised */
const struct http1_header *http1_headers(const struct http1_exchange *exchange, size_t *n);
const char *http1_header(const struct http1_exchange *exchange, const char *name); /* the first, or NULL */
const void *http1_body(const struct http1_exchange *exchange, size_t *len);        /* contiguous */
/* Hands the body over, for a handler that needs it after on_gone: the caller's to free, at the same place as before;
 * NULL when there is none. http1_body is empty from then on. */
void *http1_take_body(struct http1_exchange *exchange, size_t *len);
const char *http1_peer(const struct http1_exchange *exchange); /* "127.0.0.1:53122" or "unix" */
bool http1_is_local(const struct http1_exchange *exchange);    /* loopback or Unix socket */
void http1_set_data(struct http1_exchange *exchange, void *data);
void *http1_data(const struct http1_exchange *exchange);

/* ---- the reply -------------------------------------------------------------------------------------------------- */

enum { HTTP1_CHUNKED = -1 };

/* The head, once. length: the body's, or HTTP1_CHUNKED (for an HTTP/1.0 caller: until the connection closes). Framing
 * and Date are written here: the handler's own are left out, and so is a header whose name is no token or whose value
 * holds a control byte; its `connection: close` closes after the reply. HEAD, 204 and 304 get no body, whatever is
 * written. Goes out with the first bytes of the body, at the latest before the loop sleeps. 0 or a negative uv error:
 * UV_EINVAL for a second head or a status outside of 200 to 999, UV_ENOMEM, UV_ECONNRESET. */
int http1_head(struct http1_exchange *exchange, int status, const struct http1_header *headers, size_t n,
               int64_t length);

/* The next bytes. They go out at the latest before the loop sleeps, together with what else comes until then: up to
 * 16 KiB are copied for that, more is written as far as the socket takes it and the rest copied. false: the caller is
 * slow; everything was taken, but write no more until on_room (or on_gone). Bytes beyond the length that the head gave
 * are dropped. */
bool http1_write(struct http1_exchange *exchange, const void *bytes, size_t len);

/* The reply is complete. The exchange is gone. Without a head, or with fewer bytes than it gave: as http1_abort. */
void http1_end(struct http1_exchange *exchange);

/* The reply cannot be completed: the connection is ended so that the caller notices (no last chunk, RST where
 * possible). What was written before has a second to reach it. The exchange is gone. */
void http1_abort(struct http1_exchange *exchange);

/* Head, body and end in one. */
void http1_reply(struct http1_exchange *exchange, int status, const struct http1_header *headers, size_t n,
                 const void *body, size_t len);

#endif
