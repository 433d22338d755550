#include "net/http.h"

#include "base/error.h"
#include "net/head.h"
#include "net/url.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    DEFAULT_HEADER_BYTES = 65536,
    COPIED_BODY_MAX = 16384,
    METHOD_MAX = 32,
    ROOM = 1024,
    SPANS = 3,
    OWN_FIELDS = 6,       /* that add_fields may add */
    OWN_FIELD_BYTES = 192 /* of them, without the token and the user agent */
};

enum reason { NOT_OURS, OVER_LIMIT, MALFORMED, STOPPED, STARVED, WITHHELD, LOST };

struct http_transfer {
    struct loop_exchange exchange; /* first: the loop knows no more */
    struct loop *loop;
    CURL *easy;
    struct url_parsed *url;
    struct curl_slist *fields; /* an array, with the lines behind it */
    size_t n_fields;
    char *fields_end;

    void *user;
    bool (*before_send)(void *user);
    void (*on_head)(void *user, int status, const deputy_header *headers, size_t n_headers);
    int (*on_bytes)(void *user, const void *bytes, size_t len);
    void (*on_end)(void *user, const struct http_result *result);

    struct http_span body[SPANS];
    size_t body_len, body_at;
    char *copied_body;
    size_t header_bytes, max_header_bytes; /* of all heads and trailers */

    enum reason ours; /* why one of our callbacks made libcurl stop */
    bool added, dead, paused, resume, connected, head_done, no_body, safe, trusts_other;
    char method[METHOD_MAX + 1];
    char text[CURL_ERROR_SIZE];

    size_t used; /* of the room */
    struct head head;
    _Alignas(max_align_t) char room[ROOM]; /* for what is small; from head.first on nothing is zeroed */
};

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
    (void)ip, (void)local_ip, (void)port, (void)local_port;
    struct http_transfer *t = user;
    bool again = t->connected;
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
    for (size_t i = 0; i < SPANS && room > 0; i++) {
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

static bool set_up_trust(CURL *easy, const char *ca_file);

/* A handle is used again with the options it has: what is not set for each request anew must be as it was. */
static void give_easy(struct http_transfer *t)
{
    CURL *easy = t->easy;
    bool ok = curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_POSTFIELDS, NULL) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_CURLU, NULL) == CURLE_OK && (!t->trusts_other || set_up_trust(easy, NULL));
    if (ok)
        loop_easy_give(t->loop, easy);
    else
        curl_easy_cleanup(easy);
}

/* Aligned for anything. NULL when out of memory. */
static void *take_room(struct http_transfer *t, size_t size)
{
    size_t at = t->used;
    if (size > sizeof t->room - at)
        return malloc(size);
    t->used += (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (t->used > sizeof t->room)
        t->used = sizeof t->room;
    return t->room + at;
}

static void give_room(struct http_transfer *t, void *block)
{
    uintptr_t at = (uintptr_t)block, room = (uintptr_t)t->room;
    if (at < room || at >= room + sizeof t->room)
        free(block);
}

static void destroy(struct http_transfer *t)
{
    loop_later_drop(t->loop, &t->exchange);
    if (t->added)
        loop_remove(t->loop, t->easy, &t->exchange);
    if (t->easy)
        give_easy(t);
    url_parsed_drop(t->url);
    give_room(t, t->fields);
    give_room(t, t->copied_body);
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

/* Fields that say how this connection carries the message (RFC 9110 section 7.6.1): libcurl writes its own. */
static bool is_ours(const char *name)
{
    static const char *const names[] = {"Accept-Encoding",
                                        "Connection",
                                        "Content-Length",
                                        "Expect",
                                        "Host",
                                        "Keep-Alive",
                                        "Proxy-Authorization",
                                        "Proxy-Connection",
                                        "TE",
                                        "Trailer",
                                        "Transfer-Encoding",
                                        "Upgrade"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*name | 0x20) == (*names[i] | 0x20) && strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool value_ok(const char *value)
{
    for (const unsigned char *c = (const unsigned char *)value; *c; c++)
        if ((*c < 0x20 && *c != '\t') || *c == 0x7f)
            return false;
    return true;
}

static int check_headers(const struct http_request *request, deputy_error *error)
{
    for (size_t i = 0; i < request->n_headers; i++) {
        const deputy_header *h = &request->headers[i];
        if (!h->name || !head_token_ok(h->name, strlen(h->name)))
            return error_set(error, DEPUTY_EINVAL, "header name number %zu is not a token (RFC 9110 section 5.1)",
                             i + 1);
        if (!h->value || !value_ok(h->value))
            return error_set(error, DEPUTY_EINVAL, "the value of header %.64s holds a control byte; it cannot be sent",
                             h->name);
    }
    if (request->pinned_user_agent && !value_ok(request->pinned_user_agent))
        return error_set(error, DEPUTY_EINVAL, "the user agent holds a control byte; it cannot be sent");
    return DEPUTY_OK;
}

static int check(const struct http_request *request, deputy_error *error)
{
    size_t len = request->method ? strlen(request->method) : 0;
    if (len > METHOD_MAX || !head_token_ok(request->method, len))
        return error_set(error, DEPUTY_EINVAL, "the method is not a token (RFC 9110 section 9.1)");
    int code = request->bearer ? url_token_check(request->bearer, error) : DEPUTY_OK;
    return code == DEPUTY_OK ? check_headers(request, error) : code;
}

/* The room was counted before. libcurl's spelling: "Name:" keeps a field away, "Name;" sends it empty. */
static void add_field(struct http_transfer *t, const char *name, const char *before, const char *value, bool blank)
{
    size_t name_len = strlen(name), before_len = strlen(before), len = strlen(value);
    struct curl_slist *field = &t->fields[t->n_fields];
    char *to = t->fields_end;
    head_trim(&value, &len);
    field->data = to;
    field->next = NULL;
    if (t->n_fields++ > 0)
        field[-1].next = field;
    memcpy(to, name, name_len);
    to += name_len;
    *to++ = len > 0 || !blank ? ':' : ';';
    if (len > 0) {
        *to++ = ' ';
        memcpy(to, before, before_len);
        memcpy(to + before_len, value, len);
        to += before_len + len;
    }
    *to++ = '\0';
    t->fields_end = to;
}

static bool make_fields(struct http_transfer *t, const struct http_request *request, const char *user_agent)
{
    size_t n = request->n_headers + OWN_FIELDS;
    size_t bytes = n * sizeof(*t->fields) + OWN_FIELD_BYTES + strlen(user_agent);
    bytes += request->bearer ? strlen(request->bearer) : 0;
    for (size_t i = 0; i < request->n_headers; i++)
        bytes += strlen(request->headers[i].name) + strlen(request->headers[i].value) + sizeof ": ";
    t->fields = take_room(t, bytes);
    t->fields_end = (char *)(t->fields + n);
    return t->fields != NULL;
}

static bool add_fields(struct http_transfer *t, const struct http_request *request)
{
    const char *user_agent = request->pinned_user_agent ? request->pinned_user_agent : "deputy/" DEPUTY_VERSION;
    bool has_type = false, has_agent = false;
    if (!make_fields(t, request, user_agent))
        return false;
    for (size_t i = 0; i < request->n_headers; i++) {
        const deputy_header *h = &request->headers[i];
        if (is_ours(h->name) || (request->bearer && strcasecmp(h->name, "Authorization") == 0))
            continue;
        has_type = has_type || strcasecmp(h->name, "Content-Type") == 0;
        has_agent = has_agent || strcasecmp(h->name, "User-Agent") == 0;
        add_field(t, h->name, "", h->value, true);
    }
    if (request->bearer)
        add_field(t, "Authorization", "Bearer ", request->bearer, true);
    if (!has_agent)
        add_field(t, "User-Agent", "", user_agent, false);
    if (!t->safe)
        add_field(t, "Expect", "", "", false);
    if (!t->no_body)
        add_field(t, "Accept-Encoding", "", "identity", true);
    if (!t->safe && !has_type)
        add_field(t, "Content-Type", "", "", false);
    if (request->fresh)
        add_field(t, "Connection", "", "close", true);
    return true;
}

/* A copy of what is small goes out together with the head and leaves libcurl no borrowed pointer. */
static bool copy_body(struct http_transfer *t)
{
    t->copied_body = take_room(t, t->body_len + 1);
    if (!t->copied_body)
        return false;
    (void)read_body(t->copied_body, 1, t->body_len, t);
    t->body_at = 0;
    return true;
}

static bool set_up_method(struct http_transfer *t)
{
    CURL *easy = t->easy;
    bool is_post = strcmp(t->method, "POST") == 0;
    if (curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, t->safe || is_post ? NULL : t->method) != CURLE_OK)
        return false;
    if (t->no_body)
        return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
    if (t->safe)
        return curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    bool ok = curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body_len) == CURLE_OK;
    if (ok && t->body_len <= COPIED_BODY_MAX)
        return copy_body(t) && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, t->copied_body) == CURLE_OK;
    return ok;
}

/* A bundle of ours instead of the system's: libcurl would look into the system's folder as well. Without the folder
 * libcurl parses the system's bundle once, not for every connection. */
static bool set_up_trust(CURL *easy, const char *ca_file)
{
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
    const char *bundle = ca_file ? ca_file : info->cainfo;
    return curl_easy_setopt(easy, CURLOPT_CAINFO, bundle) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CAPATH, bundle ? NULL : info->capath) == CURLE_OK;
}

static long milliseconds(uint32_t ms)
{
    return ms > 0 && ms < INT_MAX ? (long)ms : INT_MAX;
}

struct number {
    CURLoption option;
    long value;
};

static bool set_numbers(CURL *easy, const struct number *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (curl_easy_setopt(easy, numbers[i].option, numbers[i].value) != CURLE_OK)
            return false;
    return true;
}

/* What a handle keeps for as long as it lives. */
static bool set_up_handle(CURL *easy)
{
    static const struct number numbers[] = {
        {CURLOPT_NOSIGNAL, 1},
        {CURLOPT_QUICK_EXIT, 1}, /* a slow resolver outlives the deadline otherwise */
        {CURLOPT_FOLLOWLOCATION, 0},
        {CURLOPT_NETRC, CURL_NETRC_IGNORED},
        {CURLOPT_DISALLOW_USERNAME_IN_URL, 1},
        {CURLOPT_PATH_AS_IS, 1},
        {CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1},
        {CURLOPT_HTTP09_ALLOWED, 0},
        {CURLOPT_SSL_VERIFYPEER, 1},
        {CURLOPT_SSL_VERIFYHOST, 2},
        {CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2},
        {CURLOPT_SUPPRESS_CONNECT_HEADERS, 1},
        {CURLOPT_BUFFERSIZE, LOOP_BUFFER_BYTES}, /* a thousand waiting transfers hold one each */
        {CURLOPT_UPLOAD_BUFFERSIZE, 16384},
    };
    return set_numbers(easy, numbers, sizeof numbers / sizeof *numbers) &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "*") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected) == CURLE_OK && set_up_trust(easy, NULL);
}

/* With the text beside what was parsed libcurl neither parses the one nor prints the other. */
static bool set_up_url(CURL *easy, const struct url_parsed *url)
{
    return curl_easy_setopt(easy, CURLOPT_URL, url_parsed_text(url)) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CURLU, url_parsed_handle(url)) == CURLE_OK;
}

static bool set_up(struct http_transfer *t, const struct http_request *request)
{
    CURL *easy = t->easy;
    bool encrypted = strncasecmp(request->url, "https:", 6) == 0;
    const struct number numbers[] = {
        {CURLOPT_FRESH_CONNECT, request->fresh || request->anew},
        {CURLOPT_FORBID_REUSE, request->fresh},
        {CURLOPT_TCP_KEEPALIVE, !request->fresh},
        {CURLOPT_TCP_NODELAY, !request->fresh || encrypted},            /* one small packet waits for nothing */
        {CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request->connect_ms)}, /* 0 would be libcurl's 300 s */
        {CURLOPT_TIMEOUT_MS, request->total_ms ? milliseconds(request->total_ms) : 0},
    };
    t->trusts_other = request->ca_file != NULL;
    return set_numbers(easy, numbers, sizeof numbers / sizeof *numbers) && set_up_url(easy, t->url) &&
           loop_own_sockets(t->loop, easy, request->fresh) &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t->fields) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_SEEKDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQDATA, t) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->text) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, &t->exchange) == CURLE_OK &&
           (!request->ca_file || set_up_trust(easy, request->ca_file)) && set_up_method(t);
}

/* NULL, or one that is set up as every handle is. */
static CURL *take_easy(struct loop *loop)
{
    bool used;
    CURL *easy = loop_easy_take(loop, &used);
    if (!easy || used || set_up_handle(easy))
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
    for (size_t i = 0; i < SPANS; i++) {
        t->body[i] = request->body[i];
        t->body_len += request->body[i].len;
    }
    t->easy = take_easy(loop);
    return t;
}

int http_start(struct loop *loop, const struct http_request *request, struct http_transfer **out, deputy_error *error)
{
    *out = NULL;
    int code = check(request, error);
    if (code != DEPUTY_OK)
        return code;
    struct url_parsed *url;
    code = url_read(loop_urls(loop), request->url, &url, error);
    if (code != DEPUTY_OK)
        return code;
    struct http_transfer *t = make(loop, request, url);
    bool ok = t && t->easy && add_fields(t, request) && set_up(t, request);
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
