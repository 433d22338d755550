#include "net/http.h"

#include "base/error.h"
#include "net/http_setup.h"
#include "net/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_HEADER_BYTES = 65536 };

/* ---- what came ---- */

static size_t give_up(struct http_transfer *t, enum reason why)
{
    if (t->ours == NOT_OURS)
        t->ours = why;
    return 0;
}

static size_t end_head(struct http_transfer *t)
{
    t->head_done = true;
    if (t->on_head) {
        deputy_header few[HEAD_FEW], *fields = head_fields(&t->head, few);
        if (!fields)
            return give_up(t, STARVED);
        t->on_head(t->user, t->head.status, fields, t->head.n_fields);
        if (fields != few)
            free(fields);
    }
    head_free(&t->head);
    return t->dead ? 0 : 1;
}

static size_t read_line(struct http_transfer *t, const char *line, size_t len)
{
    switch (head_read(&t->head, line, len)) {
    case HEAD_MORE:
        return 1;
    case HEAD_DONE:
        return end_head(t);
    case HEAD_OVER:
        return give_up(t, OVER_LIMIT);
    case HEAD_NO_MEMORY:
        return give_up(t, STARVED);
    default:
        return give_up(t, MALFORMED);
    }
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct http_transfer *t = user;
    size_t len = size * n;
    if (t->dead)
        return 0;
    t->header_bytes += len;
    if (t->header_bytes > t->max_header_bytes)
        return give_up(t, OVER_LIMIT);
    if (t->head_done) /* a trailer */
        return len;
    return read_line(t, line, len) ? len : 0;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
    struct http_transfer *t = user;
    size_t len = size * n;
    if (t->dead)
        return 0;
    if (!t->head_done)
        return give_up(t, MALFORMED);
    int answer = t->on_bytes && len > 0 ? t->on_bytes(t->user, bytes, len) : DEPUTY_OK;
    if (t->dead)
        return 0;
    if (answer == DEPUTY_OK)
        return len;
    if (answer != DEPUTY_PAUSE)
        return give_up(t, STOPPED);
    t->paused = true;
    return CURL_WRITEFUNC_PAUSE;
}

/* ---- what goes ---- */

static int on_connected(void *user, char *ip, char *local_ip, int port, int local_port)
{
    (void)local_ip;
    struct http_transfer *t = user;
    bool again = t->connected;
    if (!t->dead && !loop_is_silent(t->loop, ip, port, local_port))
        return CURL_PREREQFUNC_OK; /* to fail without a byte, and to come here again with another connection */
    t->connected = true;
    if (t->dead)
        return CURL_PREREQFUNC_ABORT;
    /* The connection that was kept died before a reply. The server may have acted on what it got (RFC 9110 section
     * 9.2.2), so starting over is for whoever can decide it. */
    if (again && !t->safe) {
        give_up(t, LOST);
        return CURL_PREREQFUNC_ABORT;
    }
    if (t->before_send && !t->before_send(t->user)) {
        give_up(t, WITHHELD);
        return CURL_PREREQFUNC_ABORT;
    }
    return t->dead ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* Once cancelled, the body is no longer ours to read, though libcurl may ask before it lets go. */
static size_t read_body(char *out, size_t size, size_t n, void *user)
{
    struct http_transfer *t = user;
    size_t room = size * n, done = 0, at = t->body_at;
    if (t->dead)
        return CURL_READFUNC_ABORT;
    for (size_t i = 0; i < BODY_SPANS && room > 0; i++) {
        size_t len = t->body[i].len;
        if (at >= len) {
            at -= len;
            continue;
        }
        size_t part = len - at < room ? len - at : room;
        memcpy(out + done, (const char *)t->body[i].ptr + at, part);
        done += part;
        room -= part;
        at = 0;
    }
    t->body_at += done;
    return done;
}

static int rewind_body(void *user, curl_off_t offset, int origin)
{
    struct http_transfer *t = user;
    if (origin != SEEK_SET || offset < 0 || (size_t)offset > t->body_len)
        return CURL_SEEKFUNC_FAIL;
    t->body_at = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* ---- the end ---- */

static enum http_end judge(const struct http_transfer *t, CURLcode code)
{
    switch (t->ours) {
    case OVER_LIMIT:
        return HTTP_LIMIT;
    case MALFORMED:
        return HTTP_PROTOCOL;
    case STOPPED:
        return HTTP_STOPPED;
    case STARVED:
        return HTTP_NO_MEMORY;
    case WITHHELD:
        return HTTP_WITHHELD;
    case LOST:
        return HTTP_CONNECT;
    case NOT_OURS:
        break;
    }
    long sent = 0;
    switch ((int)code) {
    case CURLE_OK: /* libcurl is content with a head that was cut short */
        return t->head_done ? HTTP_COMPLETE : HTTP_CONNECT;
    case CURLE_OPERATION_TIMEDOUT:
        return HTTP_TIMEOUT;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return HTTP_DNS;
    case CURLE_COULDNT_CONNECT:
        return HTTP_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_USE_SSL_FAILED:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_SHUTDOWN_FAILED:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
        return HTTP_TLS;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_FAIL_REWIND:
    case CURLE_PARTIAL_FILE:
        return t->head_done ? HTTP_CUT : HTTP_CONNECT;
    case CURLE_OUT_OF_MEMORY:
        /* libcurl says this too of one header line over its own bound of 100 KiB. */
        curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &sent);
        return sent > 0 && !t->head_done ? HTTP_LIMIT : HTTP_NO_MEMORY;
    case 100: /* CURLE_TOO_LARGE, of later releases */
        return HTTP_LIMIT;
    default:
        return HTTP_PROTOCOL;
    }
}

static const char *describe(const struct http_transfer *t, enum http_end end, CURLcode code)
{
    switch (end) {
    case HTTP_LIMIT:
        return "the head of the reply is over the limit";
    case HTTP_WITHHELD:
        return "not sent: it was no longer permitted";
    case HTTP_STOPPED:
        return "stopped by the reader of the reply";
    case HTTP_NO_MEMORY:
        return "out of memory";
    case HTTP_CONNECT:
        if (t->connected)
            return "the connection ended before the head of a reply";
        break;
    case HTTP_PROTOCOL:
        if (t->ours == MALFORMED)
            return "the head of the reply is not valid HTTP/1.1";
        break;
    default:
        break;
    }
    return t->text[0] ? t->text : curl_easy_strerror(code);
}

static void give_easy(struct http_transfer *t)
{
    if (setup_undo(t))
        loop_easy_give(t->loop, t->easy);
    else
        curl_easy_cleanup(t->easy);
}

static void destroy(struct http_transfer *t)
{
    loop_later_drop(t->loop, &t->exchange);
    if (t->added)
        loop_remove(t->loop, t->easy, &t->exchange);
    if (t->easy)
        give_easy(t);
    url_parsed_drop(t->url);
    setup_free(t);
    head_free(&t->head);
    pool_give(loop_transfers(t->loop), t);
}

static void finish(struct http_transfer *t, CURLcode code)
{
    struct http_result result = {.end = judge(t, code)};
    if (t->head_done) {
        result.status = t->head.status;
        result.unframed = !t->no_body && head_unframed(&t->head);
    }
    result.connecting = result.end == HTTP_TIMEOUT && !t->connected;
    if (result.end != HTTP_COMPLETE) {
        char url[64];
        url_redact(url_parsed_text(t->url), url, sizeof url);
        snprintf(result.message, sizeof result.message, "%.90s (%.32s %.*s)", describe(t, result.end, code), t->method,
                 (int)(59 - strlen(t->method)), url);
    }
    void *user = t->user;
    void (*on_end)(void *, const struct http_result *) = t->on_end;
    destroy(t);
    on_end(user, &result);
}

static void on_done(struct loop_exchange *exchange, CURLcode code)
{
    struct http_transfer *t = (struct http_transfer *)exchange;
    if (t->dead)
        destroy(t);
    else
        finish(t, code);
}

static void on_later(struct loop_exchange *exchange)
{
    struct http_transfer *t = (struct http_transfer *)exchange;
    if (t->dead) {
        destroy(t);
        return;
    }
    if (exchange->starved)
        give_up(t, STARVED);
    else if (!t->added)
        t->added = loop_add(t->loop, t->easy, &t->exchange);
    if (!t->added || exchange->starved) {
        finish(t, CURLE_OUT_OF_MEMORY);
        return;
    }
    bool resume = t->resume && t->paused;
    t->resume = false;
    if (!resume)
        return;
    t->paused = false;
    CURLcode code = loop_unpause(t->loop, t->easy);
    if (code != CURLE_OK && !t->dead) /* libcurl tells nobody else */
        finish(t, code);
}

void http_cancel(struct http_transfer *t)
{
    if (!t)
        return;
    if (!loop_in_curl(t->loop)) {
        destroy(t);
        return;
    }
    t->dead = true;
    loop_later(t->loop, &t->exchange);
}

void http_resume(struct http_transfer *t)
{
    t->resume = true;
    loop_later(t->loop, &t->exchange);
}

/* ---- the start ---- */

static bool set_callbacks(CURL *easy)
{
    return curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected) == CURLE_OK;
}

static bool point_callbacks(struct http_transfer *t)
{
    CURL *easy = t->easy;
    return curl_easy_setopt(easy, CURLOPT_HEADERDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_SEEKDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->text) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, &t->exchange) == CURLE_OK;
}

/* NULL, or one that is set up as every handle is. */
static CURL *take_easy(struct loop *loop)
{
    bool used;
    CURL *easy = loop_easy_take(loop, &used);
    if (!easy || used || (setup_handle(easy) && set_callbacks(easy)))
        return easy;
    curl_easy_cleanup(easy);
    return NULL;
}

static struct http_transfer *make(struct loop *loop, const struct http_request *request, struct url_parsed *url)
{
    struct pool *pool = loop_transfers(loop);
    pool->size = sizeof(struct http_transfer);
    struct http_transfer *t = pool_take(pool, offsetof(struct http_transfer, head.first));
    if (!t)
        return NULL;
    t->exchange.on_done = on_done;
    t->exchange.on_later = on_later;
    t->loop = loop;
    t->url = url;
    t->user = request->user;
    t->before_send = request->before_send;
    t->on_head = request->on_head;
    t->on_bytes = request->on_bytes;
    t->on_end = request->on_end;
    t->max_header_bytes = request->max_header_bytes ? request->max_header_bytes : DEFAULT_HEADER_BYTES;
    strcpy(t->method, request->method);
    t->no_body = strcmp(request->method, "HEAD") == 0;
    t->safe = t->no_body || strcmp(request->method, "GET") == 0;
    for (size_t i = 0; i < BODY_SPANS; i++) {
        t->body[i] = request->body[i];
        t->body_len += request->body[i].len;
    }
    t->easy = take_easy(loop);
    return t;
}

int http_start(struct loop *loop, const struct http_request *request, struct http_transfer **out, deputy_error *error)
{
    *out = NULL;
    int code = setup_check(request, error);
    if (code != DEPUTY_OK)
        return code;
    struct url_parsed *url;
    code = url_read(loop_urls(loop), request->url, &url, error);
    if (code != DEPUTY_OK)
        return code;
    struct http_transfer *t = make(loop, request, url);
    bool ok = t && t->easy && setup_request(t, request) && point_callbacks(t);
    if (ok && loop_in_curl(loop))
        loop_later(loop, &t->exchange);
    else if (ok)
        ok = t->added = loop_add(loop, t->easy, &t->exchange);
    if (!ok) {
        if (t)
            destroy(t);
        else
            url_parsed_drop(url);
        return error_set(error, DEPUTY_ENOMEM, "out of memory while starting an HTTP request");
    }
    *out = t;
    return DEPUTY_OK;
}
