#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "http1/connection.h"

enum {
    OUT_FIRST = 1024,
    OUT_BEYOND = 16384, /* what may come in the turn in which the queue is found full */
    HEAD_ON_STACK = 2048,
    FIXED_BYTES = 256,
    WAITING_BYTES = 16384,
    SIZE_DIGITS = 4, /* of a chunk that is made of what waits: WAITING_BYTES in hexadecimal */
    SIZE_LINE = SIZE_DIGITS + 2
};

/* ---- the queue ----------------------------------------------------------------------------------------------------
 */

void out_free(struct connection *c)
{
    free(c->out);
    c->out = NULL;
    c->out_start = c->out_len = c->out_size = c->in_chunk = 0;
}

/* on_gone must not come from inside a write: it waits until the loop is about to sleep. */
static void break_connection(struct connection *c)
{
    c->broken = true;
    pending_add(c);
}

/* Room for more bytes behind the queue, or NULL. */
static char *out_room(struct connection *c, size_t extra)
{
    size_t size = c->out_size < OUT_FIRST ? OUT_FIRST : c->out_size;
    size_t most = c->server->limits.max_queued_bytes + OUT_BEYOND;
    char *out;

    if (extra <= c->out_size - c->out_start - c->out_len) {
        return c->out + c->out_start + c->out_len;
    }
    if (c->out_start > 0) {
        memmove(c->out, c->out + c->out_start, c->out_len);
        c->out_start = 0;
    }
    if (extra > c->out_size - c->out_len) {
        size = size * 2 > most ? most : size * 2;
        size = c->out_len + extra > size ? c->out_len + extra : size;
        size = c->out_size == 0 && extra <= OUT_FIRST ? OUT_FIRST : size;
        out = realloc(c->out, size);
        if (!out) {
            break_connection(c);
            return NULL;
        }
        c->out = out;
        c->out_size = size;
    }
    return c->out + c->out_len;
}

static void out_copy(struct connection *c, const struct iovec *pieces, int n)
{
    size_t len = 0;
    char *to;

    for (int i = 0; i < n; i++) {
        len += pieces[i].iov_len;
    }
    if (len == 0 || !(to = out_room(c, len))) {
        return;
    }
    for (int i = 0; i < n; i++) {
        if (pieces[i].iov_len > 0) {
            memcpy(to, pieces[i].iov_base, pieces[i].iov_len);
            to += pieces[i].iov_len;
        }
    }
    c->out_len += len;
}

/* The last bytes of the queue become a chunk, behind the room that was left for its size. */
static void close_chunk(struct connection *c)
{
    char digits[SIZE_LINE + 1];
    size_t len = c->in_chunk, size, unused;
    char *begin;

    if (len == 0) {
        return;
    }
    size = (size_t)snprintf(digits, sizeof(digits), "%x\r\n", (unsigned)len);
    unused = SIZE_LINE - size;
    begin = c->out + c->out_start + c->out_len - len - SIZE_LINE;
    if (c->out_len == len + SIZE_LINE) {
        memcpy(begin + unused, digits, size);
        c->out_start += unused;
    } else {
        memcpy(begin, digits, size);
        memmove(begin + size, begin + SIZE_LINE, len);
    }
    c->out_len -= unused;
    memcpy(c->out + c->out_start + c->out_len, "\r\n", 2);
    c->out_len += 2;
    c->in_chunk = 0;
}

/* Pieces that come in one turn of the loop leave as one chunk, whatever chunks they came in. */
static void add_to_chunk(struct connection *c, const void *bytes, size_t len)
{
    size_t before = c->in_chunk > 0 ? 0 : SIZE_LINE;
    char *to = out_room(c, before + len + 2);

    if (to) {
        memcpy(to + before, bytes, len);
        c->out_len += before + len;
        c->in_chunk += len;
    }
}

/* How much the socket took; breaks the connection when it fails. */
static size_t send_now(struct connection *c, struct iovec *pieces, int n)
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)n};
    ssize_t sent;

    do {
        sent = n == 1 ? send(c->fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                      : sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) {
            break_connection(c);
        }
        return 0;
    }
    c->server->stats.bytes_out += (uint64_t)sent;
    return (size_t)sent;
}

static size_t take_front(size_t *sent, size_t len)
{
    size_t n = *sent < len ? *sent : len;

    *sent -= n;
    return n;
}

static void after_send(struct connection *c, bool progress)
{
    bool waits_for_reader = c->phase == PHASE_WORK || c->phase == PHASE_FLUSH;

    if (c->out_len == 0) {
        out_free(c);
        if (c->blocked) {
            c->blocked = false;
            if (waits_for_reader) {
                deadline_clear(c);
            }
            connection_watch(c);
        }
        return;
    }
    if (waits_for_reader && (progress || !c->blocked)) {
        deadline_set(c, DEADLINE_WRITE);
    }
    c->blocked = true;
    connection_watch(c);
}

static void send_all(struct connection *c, const struct iovec *pieces, int n)
{
    struct iovec all[4];
    int total = 0;
    size_t sent;
    bool progress;

    close_chunk(c);
    if (c->out_len > 0) {
        all[total++] = (struct iovec){c->out + c->out_start, c->out_len};
    }
    for (int i = 0; i < n; i++) {
        all[total++] = pieces[i];
    }
    sent = send_now(c, all, total);
    progress = sent > 0;
    if (c->out_len > 0) {
        size_t taken = take_front(&sent, c->out_len);

        c->out_start += taken;
        c->out_len -= taken;
    }
    for (int i = total - n; i < total; i++) {
        size_t taken = take_front(&sent, all[i].iov_len);

        all[i].iov_base = (char *)all[i].iov_base + taken;
        all[i].iov_len -= taken;
    }
    if (!c->broken) {
        out_copy(c, all + total - n, n);
        after_send(c, progress);
    }
}

void out_send(struct connection *c, struct iovec *pieces, int n)
{
    if (c->broken) {
        return;
    }
    if (c->blocked) {
        out_copy(c, pieces, n);
    } else {
        send_all(c, pieces, n);
    }
}

void out_flush(struct connection *c)
{
    if (c->out_len > 0 && !c->broken) {
        send_all(c, NULL, 0);
    }
}

/* ---- heads ----------------------------------------------------------------------------------------------------------
 */

/* RFC 9110 section 15 and the registry; the parsers disagree about these words. */
static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {203, "Non-Authoritative Information"},
        {204, "No Content"},
        {205, "Reset Content"},
        {206, "Partial Content"},
        {300, "Multiple Choices"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {407, "Proxy Authentication Required"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {425, "Too Early"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {451, "Unavailable For Legal Reasons"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
        {529, "Overloaded"},
    };

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (reasons[i].status == status) {
            return reasons[i].reason;
        }
    }
    return "Unknown";
}

static const char *date_now(struct http1_server *server)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (server->date_of != now.tv_sec || !server->date[0]) {
        server->date_of = now.tv_sec;
        gmtime_r(&now.tv_sec, &tm);
        /* not strftime: the host may have set a locale; the remainders are for the compiler */
        snprintf(server->date, sizeof(server->date), "%s, %02u %s %04u %02u:%02u:%02u GMT", days[tm.tm_wday],
                 (unsigned)tm.tm_mday % 100, months[tm.tm_mon], (unsigned)(tm.tm_year + 1900) % 10000,
                 (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
    }
    return server->date;
}

static bool is_ours(const char *name)
{
    switch (name[0] | 0x20) {
    case 'c':
        return strcasecmp(name, "Content-Length") == 0 || strcasecmp(name, "Connection") == 0;
    case 'd':
        return strcasecmp(name, "Date") == 0;
    case 'k':
        return strcasecmp(name, "Keep-Alive") == 0;
    case 't':
        return strcasecmp(name, "Transfer-Encoding") == 0;
    default:
        return false;
    }
}

static bool is_sent(const struct http1_header *header)
{
    return header->name && header->value && !is_ours(header->name) && is_token(header->name) &&
           is_field_value(header->value);
}

static void decide_framing(struct http1_exchange *e, int status, const struct http1_header *headers, size_t n,
                           int64_t length)
{
    e->has_head = true;
    e->has_body = !e->is_head && status != 204 && status != 304;
    e->counted = length >= 0;
    e->left = e->has_body && length > 0 ? (uint64_t)length : 0;
    e->reply_chunked = length < 0 && !e->http_1_0;
    e->c->until_close = length < 0 && e->http_1_0;
    if (e->c->server->draining || (length < 0 && e->http_1_0)) {
        e->keep_alive = false;
    }
    for (size_t i = 0; i < n; i++) {
        if (headers[i].name && headers[i].value && strcasecmp(headers[i].name, "Connection") == 0 &&
            strcasecmp(headers[i].value, "close") == 0) {
            e->keep_alive = false;
        }
    }
}

static size_t head_size(const struct http1_header *headers, size_t n)
{
    size_t size = FIXED_BYTES;

    for (size_t i = 0; i < n; i++) {
        if (is_sent(&headers[i])) {
            size += strlen(headers[i].name) + strlen(headers[i].value) + 4;
        }
    }
    return size;
}

static char *write_number(char *to, uint64_t number)
{
    char digits[20];
    size_t n = 0;

    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (n > 0) {
        *to++ = digits[--n];
    }
    return to;
}

/* into holds head_size bytes. */
static size_t write_head(const struct http1_exchange *e, int status, const struct http1_header *headers, size_t n,
                         int64_t length, char *into)
{
    bool framed = status != 204 && status != 304;
    char *p = into;

    p = write_number(stpcpy(p, "HTTP/1.1 "), (uint64_t)status);
    p = stpcpy(stpcpy(stpcpy(p, " "), reason_of(status)), "\r\nDate: ");
    p = stpcpy(stpcpy(p, date_now(e->c->server)), "\r\n");
    for (size_t i = 0; i < n; i++) {
        if (is_sent(&headers[i])) {
            p = stpcpy(stpcpy(stpcpy(stpcpy(p, headers[i].name), ": "), headers[i].value), "\r\n");
        }
    }
    if (framed && length >= 0) {
        p = stpcpy(write_number(stpcpy(p, "Content-Length: "), (uint64_t)length), "\r\n");
    } else if (framed && e->reply_chunked) {
        p = stpcpy(p, "Transfer-Encoding: chunked\r\n");
    }
    if (!e->keep_alive) {
        p = stpcpy(p, "Connection: close\r\n");
    } else if (e->http_1_0) {
        p = stpcpy(p, "Connection: keep-alive\r\n");
    }
    p = stpcpy(p, "\r\n");
    return (size_t)(p - into);
}

static int may_begin(const struct http1_exchange *e, int status)
{
    if (e->gone || e->c->broken) {
        return UV_ECONNRESET;
    }
    return e->has_head || status < 200 || status > 999 ? UV_EINVAL : 0;
}

int http1_head(struct http1_exchange *exchange, int status, const struct http1_header *headers, size_t n,
               int64_t length)
{
    struct connection *c = exchange->c;
    int code = may_begin(exchange, status);
    char *to;

    if (code != 0) {
        return code;
    }
    to = out_room(c, head_size(headers, n));
    if (!to) {
        return UV_ENOMEM;
    }
    decide_framing(exchange, status, headers, n, length);
    c->out_len += write_head(exchange, status, headers, n, length, to);
    pending_add(c);
    return 0;
}

/* ---- bodies
 * ----------------------------------------------------------------------------------------------------------- */

/* What is small waits for company until the loop is about to sleep: one call for all that a turn of it brings. */
static void send_body(struct http1_exchange *e, const void *bytes, size_t len)
{
    struct connection *c = e->c;
    bool waits = !c->blocked && !c->broken && c->out_len + len <= WAITING_BYTES;
    char size[24];
    struct iovec pieces[3] = {{.iov_base = size}, {.iov_len = len}, {.iov_base = (char[]){"\r\n"}, .iov_len = 2}};

    if (waits && e->reply_chunked) {
        add_to_chunk(c, bytes, len);
        pending_add(c);
        return;
    }
    /* writev does not write to it */
    memcpy(&pieces[1].iov_base, &bytes, sizeof(bytes));
    if (waits) {
        out_copy(c, pieces + 1, 1);
        pending_add(c);
    } else if (e->reply_chunked) {
        pieces[0].iov_len = (size_t)snprintf(size, sizeof(size), "%zx\r\n", len);
        out_send(c, pieces, 3);
    } else {
        out_send(c, pieces + 1, 1);
    }
}

bool http1_write(struct http1_exchange *exchange, const void *bytes, size_t len)
{
    struct connection *c = exchange->c;

    if (exchange->gone || c->broken || !exchange->has_head) {
        return false;
    }
    if (exchange->counted) {
        len = len < exchange->left ? len : (size_t)exchange->left;
        exchange->left -= len;
    }
    if (len > 0 && exchange->has_body) {
        send_body(exchange, bytes, len);
    }
    if (c->broken) {
        return false;
    }
    if (c->blocked && c->out_len > c->server->limits.max_queued_bytes) {
        c->wants_room = true;
        return false;
    }
    return true;
}

/* The exchange leaves the handler's hands. */
static struct connection *take_back(struct http1_exchange *e)
{
    struct connection *c = e->c;

    c->exchange = NULL;
    c->wants_room = false;
    c->server->stats.exchanges -= e->in_work;
    exchange_free(e);
    return c;
}

static void finish(struct http1_exchange *e)
{
    bool keep_alive = e->keep_alive && exchange_is_whole(e);
    bool rest_comes = !exchange_is_whole(e);
    struct connection *c = take_back(e);

    c->must_linger = c->must_linger || rest_comes;
    connection_replied(c, keep_alive);
}

void http1_end(struct http1_exchange *exchange)
{
    struct connection *c = exchange->c;

    if (exchange->gone) {
        return;
    }
    if (!exchange->has_head || exchange->left > 0) {
        http1_abort(exchange);
        return;
    }
    if (exchange->reply_chunked && exchange->has_body) {
        out_send(c, &(struct iovec){(char[]){"0\r\n\r\n"}, 5}, 1);
    } else if (!c->blocked) {
        out_flush(c);
    }
    finish(exchange);
}

void http1_abort(struct http1_exchange *exchange)
{
    if (!exchange->gone) {
        connection_abort(take_back(exchange));
    }
}

void http1_reply(struct http1_exchange *exchange, int status, const struct http1_header *headers, size_t n,
                 const void *body, size_t len)
{
    char head[HEAD_ON_STACK];
    struct iovec pieces[2] = {{.iov_base = head}, {.iov_len = len}};
    int code = may_begin(exchange, status);

    if (code == 0 && head_size(headers, n) <= sizeof(head)) {
        decide_framing(exchange, status, headers, n, (int64_t)len);
        pieces[0].iov_len = write_head(exchange, status, headers, n, (int64_t)len, head);
        memcpy(&pieces[1].iov_base, &body, sizeof(body));
        out_send(exchange->c, pieces, exchange->has_body && len > 0 ? 2 : 1);
        finish(exchange);
        return;
    }
    if (code == 0 && http1_head(exchange, status, headers, n, (int64_t)len) == 0) {
        http1_write(exchange, body, len);
    }
    http1_end(exchange);
}

/* ---- refusals
 * --------------------------------------------------------------------------------------------------------- */

static size_t own_text(struct http1_server *server, int status, const char *code, const char *sentence, bool with_body,
                       char into[REFUSAL_SIZE])
{
    char body[REFUSAL_SIZE / 2];
    /* By OpenAI's schema of an error and by Anthropic's: here nobody knows which one the caller goes by. */
    int len =
        snprintf(body, sizeof(body),
                 "{\"type\":\"error\",\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}\n",
                 sentence, status < 500 ? "invalid_request_error" : "api_error", code);
    int total = snprintf(into, REFUSAL_SIZE,
                         "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                         "Connection: close\r\n\r\n%s",
                         status, reason_of(status), date_now(server), len, with_body ? body : "");

    return (size_t)total;
}

size_t status_text(struct http1_server *server, int status, bool with_body, char into[REFUSAL_SIZE])
{
    status = status < 400 || status > 599 ? 500 : status;
    return own_text(server, status, "refused", reason_of(status), with_body, into);
}

static const struct {
    int status;
    const char *code, *sentence;
} words[REFUSAL_COUNT] = {[REFUSAL_NONE] = {0, "handler", ""},
#define REFUSAL_WORDS(name, status, code, sentence) [REFUSAL_##name] = {status, code, sentence},
                          REFUSALS(REFUSAL_WORDS)
#undef REFUSAL_WORDS
};
_Static_assert((int)REFUSAL_COUNT <= (int)HTTP1_REASONS, "each is counted by itself");

const char *http1_reason(size_t i, int *status)
{
    if (i >= REFUSAL_COUNT) {
        return NULL;
    }
    *status = words[i].status;
    return words[i].code;
}

void count_refusal(struct http1_server *server, enum refusal refusal)
{
    server->stats.refused++;
    server->stats.refused_by[refusal]++;
}

size_t refusal_text(struct http1_server *server, enum refusal refusal, bool with_body, char into[REFUSAL_SIZE])
{
    return own_text(server, words[refusal].status, words[refusal].code, words[refusal].sentence, with_body, into);
}
