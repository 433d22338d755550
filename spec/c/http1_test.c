/* http1: over real sockets, the server's loop and its clients in one thread, so that a test says what comes when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_malloc.h"
#include "http1/server.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define HOST         "Host: h\r\n"

enum { PIECE = 16384, REPLY = 1 << 20 };

/* ---- a server
 * -------------------------------------------------------------------------------------------------------- */

struct bed {
    uv_loop_t loop;
    struct http1_server *server;
    struct http1_exchange *held; /* in work, answered by the test */
    unsigned requests, gone, rooms;
    int refuse_head;
    bool reply_in_head, closed;
    size_t to_write, written; /* of a /flood */
    char target[256];         /* of the last request */
    char path[108];
};

static long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void flood(struct bed *bed, struct http1_exchange *e)
{
    static char bytes[PIECE];

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (char)('a' + i % 26);
    }
    while (bed->written < bed->to_write) {
        size_t n = bed->to_write - bed->written < PIECE ? bed->to_write - bed->written : PIECE;

        bed->written += n;
        if (!http1_write(e, bytes, n)) {
            return;
        }
    }
    bed->held = NULL;
    http1_end(e);
}

static void on_request(void *user, struct http1_exchange *e)
{
    static const struct http1_header text[] = {{"Content-Type", "text/plain"}};
    struct bed *bed = user;
    const char *target = http1_target(e);
    size_t len;
    const void *body = http1_body(e, &len);

    bed->requests++;
    snprintf(bed->target, sizeof(bed->target), "%s", target);
    if (strcmp(target, "/hold") == 0) {
        bed->held = e;
    } else if (strcmp(target, "/flood") == 0) {
        bed->held = e;
        assert_int_equal(http1_head(e, 200, text, 1, HTTP1_CHUNKED), 0);
        flood(bed, e);
    } else if (strcmp(target, "/stream") == 0) {
        bool memory = http1_head(e, 200, text, 1, HTTP1_CHUNKED) == 0;

        assert_true(memory || fail_at > 0);
        assert_true(http1_write(e, "one", 3) || fail_at > 0);
        assert_true(http1_write(e, "", 0) || fail_at > 0);
        assert_true(http1_write(e, "two", 3) || fail_at > 0);
        http1_end(e);
    } else if (strcmp(target, "/empty") == 0) {
        http1_reply(e, 204, NULL, 0, "unseen", 6);
    } else {
        http1_reply(e, 200, text, 1, body, len);
    }
}

static void on_gone(void *user, struct http1_exchange *e)
{
    struct bed *bed = user;

    assert_non_null(http1_target(e));
    assert_non_null(http1_peer(e));
    assert_false(http1_write(e, "late", 4));
    assert_int_equal(http1_head(e, 200, NULL, 0, 0), UV_ECONNRESET);
    http1_end(e);
    http1_abort(e);
    bed->gone++;
    bed->held = NULL;
}

static void on_room(void *user, struct http1_exchange *e)
{
    struct bed *bed = user;

    bed->rooms++;
    flood(bed, e);
}

static int on_head(void *user, struct http1_exchange *e)
{
    struct bed *bed = user;
    size_t len;

    http1_body(e, &len);
    assert_int_equal(len, 0);
    if (bed->reply_in_head) {
        http1_reply(e, 401, NULL, 0, "who", 3);
    }
    return bed->refuse_head;
}

static struct http1_handler handler_of(struct bed *bed)
{
    return (struct http1_handler){bed, on_request, on_gone, on_room, on_head};
}

static void bed_open(struct bed *bed, const char *address, const struct http1_limits *limits)
{
    struct http1_handler handler = handler_of(bed);
    char message[256] = "";

    memset(bed, 0, sizeof(*bed));
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    if (http1_listen(&bed->loop, address, false, -1, limits, &handler, &bed->server, message, sizeof(message)) != 0) {
        fail_msg("%s", message);
    }
}

static void on_closed(void *user)
{
    ((struct bed *)user)->closed = true;
}

static void bed_close(struct bed *bed)
{
    http1_close(bed->server, on_closed, bed);
    while (!bed->closed) {
        uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(uv_loop_close(&bed->loop), 0);
}

static void turn(struct bed *bed)
{
    for (int i = 0; i < 3; i++) {
        uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
}

static void nap(struct bed *bed, long ms)
{
    long long end = now_ms() + ms;

    do {
        uv_run(&bed->loop, UV_RUN_NOWAIT);
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    } while (now_ms() < end);
}

/* ---- clients
 * --------------------------------------------------------------------------------------------------------- */

static int dial(struct bed *bed)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    at.sin_port = htons((uint16_t)atoi(strrchr(http1_address(bed->server), ':') + 1));
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static bool is_listening(struct bed *bed)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected;

    at.sin_port = htons((uint16_t)atoi(strrchr(http1_address(bed->server), ':') + 1));
    connected = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
    close(fd);
    return connected;
}

static void say_bytes(struct bed *bed, int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        } else if (errno != EAGAIN) {
            return; /* refused already */
        }
        turn(bed);
    }
}

static void say(struct bed *bed, int fd, const char *text)
{
    say_bytes(bed, fd, text, strlen(text));
}

struct heard {
    size_t len;
    bool eof, reset;
    char bytes[REPLY];
};

static struct heard heard;

/* What has come so far, until the connection ends or `until` is in it or ms are over. */
static const char *hear_for(struct bed *bed, int fd, const char *until, long ms)
{
    long long end = now_ms() + ms;

    for (;;) {
        ssize_t n = recv(fd, heard.bytes + heard.len, sizeof(heard.bytes) - 1 - heard.len, 0);

        if (n > 0) {
            heard.len += (size_t)n;
            heard.bytes[heard.len] = '\0';
        }
        heard.eof = n == 0;
        heard.reset = n < 0 && errno == ECONNRESET;
        if (heard.eof || heard.reset || (until && heard.len > 0 && strstr(heard.bytes, until)) || now_ms() > end) {
            return heard.bytes;
        }
        turn(bed);
    }
}

static const char *hear(struct bed *bed, int fd, const char *until)
{
    heard.len = 0;
    heard.bytes[0] = '\0';
    return hear_for(bed, fd, until, 5000);
}

static const char *hear_all(struct bed *bed, int fd)
{
    return hear(bed, fd, NULL);
}

/* All of it, without keeping it: how much it was. */
static size_t swallow(struct bed *bed, int fd)
{
    long long end = now_ms() + 10000;
    size_t total = 0;

    for (heard.eof = heard.reset = false; !heard.eof && !heard.reset && now_ms() < end; turn(bed)) {
        ssize_t n = recv(fd, heard.bytes, sizeof(heard.bytes), 0);

        heard.eof = n == 0;
        heard.reset = n < 0 && errno == ECONNRESET;
        for (ssize_t i = 0; i < n; i++) {
            assert_true(heard.bytes[i] != '\0');
        }
        total += n > 0 ? (size_t)n : 0;
    }
    return total;
}

static int status_of(const char *reply)
{
    return strncmp(reply, "HTTP/1.1 ", 9) == 0 ? atoi(reply + 9) : 0;
}

static int count_of(const char *text, const char *word)
{
    int n = 0;

    for (const char *p = text; (p = strstr(p, word)); p += strlen(word)) {
        n++;
    }
    return n;
}

/* ---- requests that are refused
 * --------------------------------------------------------------------------------------- */

struct bad {
    const char *text;
    size_t len; /* 0: strlen */
    int status;
    const char *code;
};

#define GET         "GET / HTTP/1.1\r\n"
#define POST        "POST / HTTP/1.1\r\n" HOST
#define BYTES(text) text, sizeof(text) - 1
#define CHUNKS      POST "Transfer-Encoding: chunked\r\n\r\n"

static const struct bad refusals[] = {
    /* lines */
    {"GET / HTTP/1.1\n" HOST "\r\n", 0, 400, "bad_line_end"},
    {"GET / HTTP/1.1\r\nHost: h\n\r\n", 0, 400, "bad_line_end"},
    {GET HOST "\n", 0, 400, "bad_line_end"},
    {GET HOST "A: b\rC: d\r\n\r\n", 0, 400, "bad_line_end"},
    {GET HOST "A: b\r\r\n\r\n", 0, 400, "bad_line_end"},
    {GET HOST "A\r\n\r\n", 0, 400, "bad_line_end"},
    {GET HOST "\rA: b\r\n\r\n", 0, 400, "bad_line_end"},
    {"\n" GET HOST "\r\n", 0, 400, "bad_line_end"},
    {"\r\n\r\n" GET HOST "\r\n", 0, 400, "bad_line_end"},
    {"GET /\r HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_line_end"},
    /* folded */
    {GET HOST "A: b\r\n c\r\n\r\n", 0, 400, "folded_header"},
    {GET HOST "A: b\r\n\tc\r\n\r\n", 0, 400, "folded_header"},
    {GET " " HOST "\r\n", 0, 400, "folded_header"},
    {GET HOST " \r\n\r\n", 0, 400, "folded_header"},
    /* names */
    {GET HOST "A : b\r\n\r\n", 0, 400, "bad_header_name"},
    {GET HOST "A\t: b\r\n\r\n", 0, 400, "bad_header_name"},
    {GET HOST ": b\r\n\r\n", 0, 400, "bad_header_name"},
    {GET HOST "A(: b\r\n\r\n", 0, 400, "bad_header_name"},
    {GET HOST "\xc3\xa4: b\r\n\r\n", 0, 400, "bad_header_name"},
    {BYTES(GET HOST "A\0: b\r\n\r\n"), 400, "bad_header_name"},
    /* values */
    {BYTES(GET HOST "A: b\0c\r\n\r\n"), 400, "bad_header_value"},
    {GET HOST "A: b\x01\r\n\r\n", 0, 400, "bad_header_value"},
    {GET HOST "A: b\x7f\r\n\r\n", 0, 400, "bad_header_value"},
    {GET HOST "A: b\x0b\r\n\r\n", 0, 400, "bad_header_value"},
    /* request lines */
    {"GET /\r\n\r\n", 0, 400, "bad_line_end"},
    {"GET /\n", 0, 400, "bad_line_end"},
    {"GET  / HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET /  HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET\t/ HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {" GET / HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET / HTTP/1.1 \r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET / http/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET / HTTP/1.10\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET / HTTP/11\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET /\x7f HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"GET /#a HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {BYTES("GET /\0 HTTP/1.1\r\n" HOST "\r\n"), 400, "bad_request_line"},
    {"\x16\x03\x01\x02", 0, 400, "bad_request_line"},
    {"GET nothing HTTP/1.1\r\n" HOST "\r\n", 0, 400, "bad_request_line"},
    {"BREW / HTTP/1.1\r\n" HOST "\r\n", 0, 501, "unknown_method"},
    {"get / HTTP/1.1\r\n" HOST "\r\n", 0, 501, "unknown_method"},
    {"AAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, 501, "unknown_method"},
    {"CONNECT h:80 HTTP/1.1\r\n" HOST "\r\n", 0, 501, "unknown_method"},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 505, "http_version"},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 0, 505, "http_version"},
    {"GET / HTTP/0.9\r\n\r\n", 0, 505, "http_version"},
    {"GET / HTTP/1.2\r\n" HOST "\r\n", 0, 505, "http_version"},
    /* Host */
    {GET "\r\n", 0, 400, "bad_host"},
    {GET HOST HOST "\r\n", 0, 400, "bad_host"},
    {"GET / HTTP/1.0\r\n" HOST HOST "\r\n", 0, 400, "bad_host"},
    {GET "Host: a b\r\n\r\n", 0, 400, "bad_host"},
    {GET "Host: a/b\r\n\r\n", 0, 400, "bad_host"},
    {GET "Host: u@h\r\n\r\n", 0, 400, "bad_host"},
    /* lengths */
    {POST "Content-Length: +1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: -1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 0x1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1 1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1, 1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1.0\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length:\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: \t \r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: one\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 99999999999999999999999\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1\r\nContent-length: 2\r\n\r\nab", 0, 400, "bad_content_length"},
    {POST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400, "two_lengths"},
    {POST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 0, 400, "two_lengths"},
    {POST "Content-Length: 1001\r\n\r\n", 0, 413, "body_too_large"},
    {POST "Content-Length: 9999999999999999999\r\n\r\n", 0, 413, "body_too_large"},
    /* codings */
    {POST "Transfer-Encoding: gzip\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: identity\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: gzip, chunked\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: chunked, identity\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: chunked,\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: xchunked\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: chunked;q=1\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: \"chunked\"\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding:\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400, "bad_transfer_encoding"},
    /* chunks */
    {CHUNKS "1\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1\rXa\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1\r\naXX0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1\r\na\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1\r\nab\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1 \r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS " 1\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "+1\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "-1\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "0x1\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS ";a\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "g\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1;a\nb\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "1;a\rb\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "00000000000000001\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "FFFFFFFFFFFFFFFF1\r\na\r\n0\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "0\r\nA: b\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "0\r\nA : b\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "0\r\n A: b\r\n\r\n", 0, 400, "bad_chunk"},
    {CHUNKS "0\r\n\n", 0, 400, "bad_chunk"},
    {CHUNKS "0\r\n\rX", 0, 400, "bad_chunk"},
    {BYTES(CHUNKS "1;\0\r\na\r\n0\r\n\r\n"), 400, "bad_chunk"},
    {POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\na", 0, 417, "expectation_failed"},
};

static const struct http1_limits small = {.max_body_bytes = 1000, .max_header_bytes = 600, .max_headers = 6};

static bool refused_as(struct bed *bed, const struct bad *bad, size_t cut)
{
    size_t len = bad->len ? bad->len : strlen(bad->text);
    int fd = dial(bed);
    const char *reply;
    unsigned before = bed->requests;
    bool right;

    turn(bed);
    say_bytes(bed, fd, bad->text, cut);
    say_bytes(bed, fd, bad->text + cut, len - cut);
    reply = hear_all(bed, fd);
    right = status_of(reply) == bad->status && strstr(reply, bad->code) && strstr(reply, "\r\nConnection: close\r\n") &&
            strstr(reply, "\r\nContent-Type: application/json\r\n") && strstr(reply, "\"error\":{\"message\":\"") &&
            heard.eof && bed->requests == before && count_of(reply, "\r\nDate: ") == 1;
    close(fd);
    if (!right) {
        print_error("cut at %zu of %s\nexpected %d %s, got %s%s\n", cut, bad->text, bad->status, bad->code, reply,
                    heard.eof ? "" : "(and no end)");
    }
    return right;
}

static void test_refusals_cut_at_every_byte(void **state)
{
    struct bed bed;
    int wrong = 0;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &small);
    for (size_t i = 0; i < COUNT(refusals); i++) {
        size_t len = refusals[i].len ? refusals[i].len : strlen(refusals[i].text);

        for (size_t cut = 0; cut < len; cut++) {
            wrong += !refused_as(&bed, &refusals[i], cut);
        }
    }
    assert_int_equal(wrong, 0);
    bed_close(&bed);
}

/* ---- requests that are taken
 * ------------------------------------------------------------------------------------------- */

static const struct {
    const char *text, *target, *body;
    bool stays;
} taken[] = {
    {GET HOST "\r\n", "/", "", true},
    {"\r\n" GET HOST "\r\n", "/", "", true},
    {"GET / HTTP/1.0\r\n\r\n", "/", "", false},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "/", "", true},
    {GET HOST "Connection: close\r\n\r\n", "/", "", false},
    {GET HOST "Connection: a, CLOSE\r\n\r\n", "/", "", false},
    {GET HOST "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", "/", "", true},
    {GET "Host:\r\n\r\n", "/", "", true},
    {GET "hOST: [::1]:80\r\n\r\n", "/", "", true},
    {GET HOST "A:\r\nB: \t\r\nC:d\r\nE: \xc3\xa4 f\t\r\n\r\n", "/", "", true},
    {"GET http://other/x?y=%00&//..\\{} HTTP/1.1\r\n" HOST "\r\n", "http://other/x?y=%00&//..\\{}", "", true},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "*", "", true},
    {POST "Content-Length: 5\r\n\r\nhello", "/", "hello", true},
    {POST "Content-Length:\t 005 \r\n\r\nhello", "/", "hello", true},
    {POST "Content-Length: 0\r\n\r\n", "/", "", true},
    {"GET /b HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n\r\n", "/b", "\r\n", true},
    {CHUNKS "5\r\nhello\r\n0\r\n\r\n", "/", "hello", true},
    {POST "transfer-encoding: \tCHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello", true},
    {CHUNKS "1;a=b\r\nh\r\n04;c\r\nello\r\n00\r\n\r\n", "/", "hello", true},
    {CHUNKS "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\nT: u\r\nV:\r\n\r\n", "/", "01234567890123456789", true},
    {CHUNKS "0\r\nContent-Type: x\r\n\r\n", "/", "", true},
    {POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\na", "/", "a", true},
    {"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", "/", "a", false},
};

static void test_requests_cut_at_every_byte(void **state)
{
    struct bed bed;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &small);
    for (size_t i = 0; i < COUNT(taken); i++) {
        size_t len = strlen(taken[i].text);
        char length[64];

        for (size_t cut = 0; cut < len; cut++) {
            int fd = dial(&bed);
            const char *reply;

            say_bytes(&bed, fd, taken[i].text, cut);
            say_bytes(&bed, fd, taken[i].text + cut, len - cut);
            reply = hear(&bed, fd, taken[i].body[0] ? taken[i].body : "\r\n\r\n");
            if (strncmp(reply, "HTTP/1.1 100", 12) == 0) {
                assert_memory_equal(reply, "HTTP/1.1 100 Continue\r\n\r\n", 25);
                reply += 25;
                hear_for(&bed, fd, "\r\n\r\na", 5000);
            }
            snprintf(length, sizeof(length), "\r\nContent-Length: %zu\r\n", strlen(taken[i].body));
            if (status_of(reply) != 200 || !strstr(reply, length) || !strstr(reply, taken[i].body) ||
                strcmp(bed.target, taken[i].target) != 0 ||
                !strstr(reply, "\r\nConnection: close\r\n") != taken[i].stays) {
                fail_msg("cut at %zu of %s\ngot %s", cut, taken[i].text, reply);
            }
            hear_for(&bed, fd, NULL, taken[i].stays ? 0 : 1000);
            assert_int_equal(heard.eof, !taken[i].stays);
            close(fd);
        }
    }
    bed_close(&bed);
}

static void test_what_a_handler_sees(void **state)
{
    struct bed bed;
    const struct http1_header *headers;
    size_t n, len;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    say(&bed, fd, "PUT /hold HTTP/1.1\r\nHost: h\r\nX-A:  one \r\nx-a: two\r\nEmpty:\r\nContent-Length: 3\r\n\r\nabc");
    assert_non_null(bed.held);
    assert_string_equal(http1_method(bed.held), "PUT");
    headers = http1_headers(bed.held, &n);
    assert_int_equal(n, 5);
    assert_string_equal(headers[1].name, "X-A");
    assert_string_equal(headers[1].value, "one");
    assert_string_equal(headers[2].value, "two");
    assert_string_equal(http1_header(bed.held, "x-A"), "one");
    assert_string_equal(http1_header(bed.held, "empty"), "");
    assert_string_equal(headers[3].name, "Empty");
    assert_string_equal(headers[4].name, "Content-Length"); /* behind an empty one */
    assert_string_equal(headers[4].value, "3");
    assert_null(http1_header(bed.held, "x"));
    assert_memory_equal(http1_body(bed.held, &len), "abc", 3);
    assert_int_equal(len, 3);
    assert_memory_equal(http1_peer(bed.held), "127.0.0.1:", 10);
    assert_true(http1_is_local(bed.held));
    http1_set_data(bed.held, &bed);
    assert_ptr_equal(http1_data(bed.held), &bed);
    assert_int_equal(http1_stats(bed.server)->exchanges, 1);
    assert_int_equal(http1_stats(bed.server)->connections, 1);
    http1_reply(bed.held, 200, NULL, 0, "x", 1);
    assert_int_equal(http1_stats(bed.server)->exchanges, 0);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\nx")), 200);
    close(fd);
    bed_close(&bed);
}

static void test_large_bodies(void **state)
{
    static char body[3000000], request[4000000];
    static struct http1_limits limits = {.max_queued_bytes = 1 << 20};
    struct bed bed;

    (void)state;
    for (size_t i = 0; i < sizeof(body); i++) {
        body[i] = (char)(i * 2654435761U >> 13);
    }
    bed_open(&bed, "127.0.0.1:0", &limits);
    for (int chunked = 0; chunked < 2; chunked++) {
        size_t at =
            (size_t)sprintf(request, chunked ? "POST /hold HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                                             : "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 3000000\r\n\r\n");
        size_t step = chunked ? 7001 : sizeof(body), len;
        const void *got;
        int fd = dial(&bed);

        for (size_t i = 0; i < sizeof(body); i += step) {
            size_t n = sizeof(body) - i < step ? sizeof(body) - i : step;

            at += chunked ? (size_t)sprintf(request + at, "%zx\r\n", n) : 0;
            memcpy(request + at, body + i, n);
            at += n;
            at += chunked ? (size_t)sprintf(request + at, "\r\n") : 0;
        }
        at += chunked ? (size_t)sprintf(request + at, "0\r\n\r\n") : 0;
        say_bytes(&bed, fd, request, at);
        for (int i = 0; i < 2000 && !bed.held; i++) {
            nap(&bed, 1);
        }
        assert_non_null(bed.held);
        got = http1_body(bed.held, &len);
        assert_int_equal(len, sizeof(body));
        assert_memory_equal(got, body, len);
        http1_reply(bed.held, 200, NULL, 0, body, 1);
        bed.held = NULL;
        assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
        close(fd);
    }
    bed_close(&bed);
}

/* ---- one after the other
 * ------------------------------------------------------------------------------------------------- */

/* Each piece leaves in the turn of the loop that it was written in, behind the right size: one to four digits, and one
 * that is too large to wait for company. */
static void test_pieces_of_one_turn_leave_as_one_chunk(void **state)
{
    static const size_t turns[][2] = {{1, 0}, {8, 8}, {300, 0}, {10000, 6000}, {20000, 0}, {5, 16380}};
    static char bytes[20000], expected[64000];
    struct bed bed;
    size_t at = 0;
    const char *reply;
    int fd;

    (void)state;
    memset(bytes, 'x', sizeof(bytes));
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_non_null(bed.held);
    assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
    for (size_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        bool apart = turns[i][0] + turns[i][1] > 16384;

        for (size_t j = 0; j < 2; j++) {
            size_t n = apart || j > 0 ? turns[i][j] : turns[i][0] + turns[i][1];

            if (turns[i][j] > 0) {
                assert_true(http1_write(bed.held, bytes, turns[i][j]));
            }
            if (n > 0 && (apart || j == 0)) {
                at += (size_t)sprintf(expected + at, "%zx\r\n%.*s\r\n", n, (int)n, bytes);
            }
        }
        nap(&bed, 1);
    }
    at += (size_t)sprintf(expected + at, "0\r\n\r\n");
    http1_end(bed.held);
    bed.held = NULL;
    reply = strstr(hear_all(&bed, fd), "\r\n\r\n");
    assert_non_null(reply);
    assert_int_equal(strlen(reply + 4), at);
    assert_string_equal(reply + 4, expected);
    close(fd);
    bed_close(&bed);
}

static void test_pipelined_requests_wait_for_their_turn(void **state)
{
    struct bed bed;
    const char *reply;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    say(&bed, fd,
        GET HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\n" POST "Content-Length: 3\r\n\r\nabcGET /stream HTTP/1.1\r\n"
                 "Ho");
    assert_int_equal(bed.requests, 2);
    assert_non_null(bed.held);
    say(&bed, fd, "st: h\r\n\r\n" GET HOST "Connection: close\r\n\r\n" GET HOST "\r\n");
    nap(&bed, 10);
    assert_int_equal(bed.requests, 2);
    http1_reply(bed.held, 404, NULL, 0, "held", 4);
    reply = hear_all(&bed, fd);
    assert_int_equal(bed.requests, 5);
    assert_int_equal(count_of(reply, "HTTP/1.1 200 OK\r\n"), 4);
    assert_true(strstr(reply, "404") < strstr(reply, "\r\n\r\nabc"));
    assert_true(strstr(reply, "\r\n\r\nabc") < strstr(reply, "6\r\nonetwo\r\n0\r\n\r\n"));
    assert_true(heard.eof);
    close(fd);
    bed_close(&bed);
}

static void test_many_pipelined_requests_do_not_pile_up(void **state)
{
    static const char one[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    static char many[sizeof(one) * 4000];
    struct bed bed;
    int fd, replies = 0;

    (void)state;
    for (size_t i = 0; i < 4000; i++) {
        memcpy(many + i * (sizeof(one) - 1), one, sizeof(one) - 1);
    }
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    for (size_t at = 0; at < 4000 * (sizeof(one) - 1); at += 10000) {
        size_t rest = 4000 * (sizeof(one) - 1) - at;

        say_bytes(&bed, fd, many + at, rest < 10000 ? rest : 10000);
        hear(&bed, fd, "\r\n\r\n");
        hear_for(&bed, fd, NULL, 2);
        replies += count_of(heard.bytes, "HTTP/1.1 200");
    }
    assert_int_equal(bed.requests, 4000);
    assert_int_equal(replies, 4000);
    close(fd);
    bed_close(&bed);
}

/* ---- replies
 * --------------------------------------------------------------------------------------------------------------- */

static void ask_held(struct bed *bed, int fd, const char *line)
{
    char request[256];

    snprintf(request, sizeof(request), "%s\r\n" HOST "\r\n", line);
    bed->held = NULL;
    say(bed, fd, request);
    assert_non_null(bed->held);
}

static void test_heads_of_replies(void **state)
{
    static const struct http1_header headers[] = {
        {"X-Good", "a b"},
        {"X-Bad", "a\r\nSet-Cookie: x"},
        {"X Bad", "y"},
        {"", "z"},
        {"Content-Length", "77"},
        {"transfer-encoding", "chunked"},
        {"Date", "never"},
        {"X-Tab", "a\tb"},
        {"Keep-Alive", "timeout=1"},
        {"X-Null", NULL},
    };
    struct bed bed;
    const char *reply;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    ask_held(&bed, fd, "GET /hold HTTP/1.1");
    assert_int_equal(http1_head(bed.held, 99, NULL, 0, 0), UV_EINVAL);
    assert_int_equal(http1_head(bed.held, 1000, NULL, 0, 0), UV_EINVAL);
    assert_int_equal(http1_head(bed.held, 299, headers, COUNT(headers), 3), 0);
    assert_int_equal(http1_head(bed.held, 200, NULL, 0, 3), UV_EINVAL);
    assert_int_equal(http1_stats(bed.server)->bytes_out, 0);
    reply = hear(&bed, fd, "\r\n\r\n"); /* goes out by itself */
    assert_non_null(strstr(reply, "HTTP/1.1 299 Unknown\r\nDate: "));
    assert_non_null(strstr(reply, " GMT\r\nX-Good: a b\r\nX-Tab: a\tb\r\nContent-Length: 3\r\n\r\n"));
    assert_true(http1_write(bed.held, "abcdef", 6));
    http1_end(bed.held);
    assert_string_equal(hear(&bed, fd, "abc"), "abc");

    ask_held(&bed, fd, "HEAD /hold HTTP/1.1");
    http1_reply(bed.held, 200, NULL, 0, "abc", 3);
    reply = hear(&bed, fd, "\r\n\r\n");
    assert_non_null(strstr(reply, "\r\nContent-Length: 3\r\n\r\n"));
    assert_string_equal(reply + strlen(reply) - 4, "\r\n\r\n");

    ask_held(&bed, fd, "HEAD /hold HTTP/1.1");
    assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
    assert_true(http1_write(bed.held, "abc", 3));
    http1_end(bed.held);
    reply = hear(&bed, fd, "\r\n\r\n");
    assert_non_null(strstr(reply, "\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert_string_equal(reply + strlen(reply) - 4, "\r\n\r\n");

    say(&bed, fd, "GET /empty HTTP/1.1\r\n" HOST "\r\n");
    reply = hear(&bed, fd, "\r\n\r\n");
    assert_int_equal(status_of(reply), 204);
    assert_null(strstr(reply, "Content-Length"));
    assert_null(strstr(reply, "unseen"));

    ask_held(&bed, fd, "GET /hold HTTP/1.1");
    http1_reply(bed.held, 200, (struct http1_header[]){{"connection", "close"}}, 1, "", 0);
    reply = hear_all(&bed, fd);
    assert_true(heard.eof);
    assert_non_null(strstr(reply, "\r\nConnection: close\r\n\r\n"));
    close(fd);

    fd = dial(&bed);
    ask_held(&bed, fd, "GET /hold HTTP/1.0\r\nConnection: keep-alive");
    assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
    assert_true(http1_write(bed.held, "abc", 3));
    http1_end(bed.held);
    reply = hear_all(&bed, fd);
    assert_true(heard.eof);
    assert_null(strstr(reply, "Transfer-Encoding"));
    assert_non_null(strstr(reply, "\r\nConnection: close\r\n\r\nabc"));
    close(fd);
    bed_close(&bed);
}

static void test_large_heads_of_replies(void **state)
{
    static char value[20000];
    struct bed bed;
    int fd;

    (void)state;
    memset(value, 'v', sizeof(value) - 1);
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    ask_held(&bed, fd, "GET /hold HTTP/1.1");
    http1_reply(bed.held, 200, (struct http1_header[]){{"X-Large", value}}, 1, "end", 3);
    hear(&bed, fd, "\r\n\r\nend");
    assert_true(heard.len > sizeof(value));
    assert_non_null(strstr(heard.bytes, value));
    close(fd);
    bed_close(&bed);
}

/* What a reply that does not end looks like: bytes, and then a reset, never a clean end. */
static void test_aborts_are_seen(void **state)
{
    struct bed bed;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (int way = 0; way < 5; way++) {
        fd = dial(&bed);
        ask_held(&bed, fd, way == 4 ? "GET /hold HTTP/1.0" : "GET /hold HTTP/1.1");
        if (way != 3) {
            assert_int_equal(http1_head(bed.held, 200, NULL, 0, way == 1 ? 10 : HTTP1_CHUNKED), 0);
            assert_true(http1_write(bed.held, "part", 4));
        }
        if (way == 2) {
            hear(&bed, fd, "part");
        }
        if (way == 1 || way == 3) {
            http1_end(bed.held); /* too short, or nothing at all */
        } else {
            http1_abort(bed.held);
        }
        if (way != 2) {
            hear_all(&bed, fd);
            assert_int_equal(strstr(heard.bytes, "part") != NULL, way != 3);
        } else {
            hear_for(&bed, fd, NULL, 5000);
        }
        assert_true(heard.reset);
        assert_true(way == 1 || !strstr(heard.bytes, "0\r\n\r\n"));
        close(fd);
    }
    assert_int_equal(bed.gone, 0);
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    bed_close(&bed);
}

static void test_an_abort_behind_a_slow_reader(void **state)
{
    static char bytes[1 << 20];
    struct bed bed;
    long long began;
    int fd;

    (void)state;
    memset(bytes, 'e', sizeof(bytes));
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (int reads = 0; reads < 2; reads++) {
        fd = dial(&bed);
        ask_held(&bed, fd, "GET /hold HTTP/1.1");
        assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
        for (int i = 0; i < 8; i++) {
            http1_write(bed.held, bytes, sizeof(bytes));
        }
        http1_write(bed.held, "event: error", 12);
        http1_abort(bed.held);
        began = now_ms();
        if (reads) {
            assert_true(swallow(&bed, fd) > 8 * sizeof(bytes) + 12);
            assert_true(heard.reset);
        }
        while (http1_stats(bed.server)->connections > 0 && now_ms() - began < 3000) {
            nap(&bed, 5);
        }
        assert_int_equal(http1_stats(bed.server)->connections, 0);
        assert_true(now_ms() - began < 2500);
        close(fd);
    }
    bed_close(&bed);
}

/* ---- slow readers
 * --------------------------------------------------------------------------------------------------------- */

static void test_a_slow_reader_holds_the_writer_back(void **state)
{
    static const struct http1_limits limits = {.max_queued_bytes = 65536};
    struct bed bed;
    size_t total, at_rest;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &limits);
    bed.to_write = 40 << 20;
    fd = dial(&bed);
    say(&bed, fd, "GET /flood HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    nap(&bed, 50);
    at_rest = bed.written;
    assert_true(at_rest < bed.to_write / 2);
    nap(&bed, 50);
    assert_int_equal(bed.written, at_rest); /* it waits */
    total = swallow(&bed, fd);
    assert_true(heard.eof);
    assert_int_equal(bed.written, bed.to_write);
    assert_true(total > bed.to_write && total < bed.to_write + (bed.to_write / PIECE + 2) * 8 + 1000);
    assert_true(bed.rooms > 10);
    close(fd);
    bed_close(&bed);
}

static void test_stalled_readers_cost_little(void **state)
{
    static const struct http1_limits limits = {.max_queued_bytes = 32768, .write_ms = 1000};
    struct bed bed;
    int fds[30];
    struct mallinfo2 before, after;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &limits);
    before = mallinfo2();
    for (size_t i = 0; i < COUNT(fds); i++) {
        bed.to_write = 50 << 20;
        bed.written = 0;
        fds[i] = dial(&bed);
        say(&bed, fds[i], "GET /flood HTTP/1.1\r\n" HOST "\r\n");
        assert_true(bed.written < bed.to_write);
    }
    after = mallinfo2();
    if (after.uordblks > 0) { /* not under a sanitizer */
        assert_true(after.uordblks - before.uordblks < COUNT(fds) * 200000);
    }
    assert_int_equal(http1_stats(bed.server)->exchanges, COUNT(fds));
    for (int i = 0; i < 100 && bed.gone < COUNT(fds); i++) {
        nap(&bed, 50); /* none of them reads: they are let go */
    }
    assert_int_equal(bed.gone, COUNT(fds));
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    for (size_t i = 0; i < COUNT(fds); i++) {
        close(fds[i]);
    }
    bed_close(&bed);
}

static void test_pipelining_waits_behind_a_slow_reader(void **state)
{
    static char body[6 << 20];
    struct bed bed;
    int fd;

    (void)state;
    memset(body, 'x', sizeof(body));
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n" GET HOST "Connection: close\r\n\r\n");
    http1_reply(bed.held, 200, NULL, 0, body, sizeof(body));
    nap(&bed, 20);
    assert_int_equal(bed.requests, 1);
    assert_true(swallow(&bed, fd) > sizeof(body) + 100);
    assert_true(heard.eof);
    assert_int_equal(bed.requests, 2);
    close(fd);
    bed_close(&bed);
}

/* ---- callers that leave
 * ------------------------------------------------------------------------------------------------- */

static long gone_within(struct bed *bed, unsigned gone)
{
    long long began = now_ms();

    while (bed->gone < gone && now_ms() - began < 2000) {
        nap(bed, 1);
    }
    assert_int_equal(bed->gone, gone);
    return (long)(now_ms() - began);
}

static void test_a_caller_that_leaves_is_noticed(void **state)
{
    static char junk[50000];
    struct bed bed;
    unsigned gone = 0;

    (void)state;
    memset(junk, 'j', sizeof(junk));
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (int how = 0; how < 3; how++) {
        for (int when = 0; when < 4; when++) {
            int fd = dial(&bed);

            bed.to_write = 50 << 20;
            bed.written = 0;
            say(&bed, fd, when == 1 ? "GET /flood HTTP/1.1\r\n" HOST "\r\n" : "GET /hold HTTP/1.1\r\n" HOST "\r\n");
            assert_non_null(bed.held);
            if (when == 2) { /* an idle stream */
                http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED);
                http1_write(bed.held, "data", 4);
                hear(&bed, fd, "data");
            }
            if (when == 3) { /* with pipelined bytes that nobody reads */
                assert_int_equal(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
                nap(&bed, 5);
            }
            if (how == 0) {
                shutdown(fd, SHUT_WR);
            } else if (how == 1) {
                close(fd);
            } else {
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
                close(fd);
            }
            assert_true(gone_within(&bed, ++gone) < 100);
            if (how == 0) {
                close(fd);
            }
        }
    }
    assert_int_equal(http1_stats(bed.server)->exchanges, 0);
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    bed_close(&bed);
}

static void test_a_half_close_with_the_request(void **state)
{
    struct bed bed;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    send(fd, GET HOST "\r\n", strlen(GET HOST "\r\n"), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    assert_int_equal(status_of(hear_all(&bed, fd)), 200); /* answered at once: no reason to be strict */
    assert_true(heard.eof);
    close(fd);
    fd = dial(&bed);
    send(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n", strlen("GET /hold HTTP/1.1\r\n" HOST "\r\n"), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    assert_true(gone_within(&bed, 1) < 100);
    close(fd);
    fd = dial(&bed); /* in the midst of a head, of a body */
    say(&bed, fd, "GET / HT");
    shutdown(fd, SHUT_WR);
    assert_string_equal(hear_all(&bed, fd), "");
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 5\r\n\r\nab");
    shutdown(fd, SHUT_WR);
    assert_string_equal(hear_all(&bed, fd), "");
    close(fd);
    assert_int_equal(bed.requests, 2);
    bed_close(&bed);
}

static void test_writing_to_a_caller_that_has_left(void **state)
{
    struct bed bed;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (int end = 0; end < 2; end++) {
        fd = dial(&bed);
        ask_held(&bed, fd, "GET /hold HTTP/1.1");
        http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
        close(fd);
        assert_false(http1_write(bed.held, heard.bytes, sizeof(heard.bytes)));
        assert_int_equal(bed.gone, 0); /* not from inside a write */
        assert_false(http1_write(bed.held, "more", 4));
        if (end) {
            http1_end(bed.held);
            turn(&bed);
            assert_int_equal(bed.gone, 0);
            bed.gone = 1;
        } else {
            gone_within(&bed, 1);
            bed.gone = 0;
        }
    }
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    bed_close(&bed);
}

/* ---- before the body
 * ------------------------------------------------------------------------------------------------------ */

static void test_continue(void **state)
{
    struct bed bed;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    say(&bed, fd, POST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_string_equal(hear(&bed, fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    say(&bed, fd, "ab");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\nab")), 200);
    say(&bed, fd, POST "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_string_equal(hear(&bed, fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    say(&bed, fd, "2\r\nab\r\n0\r\n\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\nab")), 200);
    /* no body, nothing to wait for */
    say(&bed, fd, POST "Expect: 100-continue\r\n\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    bed.refuse_head = 429;
    say(&bed, fd, POST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_int_equal(status_of(hear_all(&bed, fd)), 429);
    assert_non_null(strstr(heard.bytes, "Too Many Requests\",\"type\":\"invalid_request_error\""));
    assert_true(heard.eof);
    close(fd);

    bed.refuse_head = 0;
    bed.reply_in_head = true;
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 2\r\n\r\n");
    assert_int_equal(status_of(hear_all(&bed, fd)), 401);
    assert_non_null(strstr(heard.bytes, "\r\nConnection: close\r\n"));
    assert_true(heard.eof);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 2\r\n\r\nab" GET HOST "\r\n");
    assert_int_equal(count_of(hear_all(&bed, fd), "HTTP/1.1 401"), 1);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, GET HOST "\r\n" GET HOST "Connection: close\r\n\r\n");
    assert_int_equal(count_of(hear_all(&bed, fd), "HTTP/1.1 401"), 2);
    close(fd);
    assert_int_equal(bed.requests, 3);
    bed_close(&bed);
}

/* A caller that sends all of its body before it reads can still read the refusal. */
static void test_a_refusal_reaches_who_is_still_sending(void **state)
{
    static char body[500000];
    struct bed bed;
    int fd;

    (void)state;
    memset(body, 'b', sizeof(body));
    bed_open(&bed, "127.0.0.1:0", &small);
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 500000\r\n\r\n");
    say_bytes(&bed, fd, body, sizeof(body));
    nap(&bed, 10);
    assert_int_equal(status_of(hear(&bed, fd, "}}\n")), 413);
    shutdown(fd, SHUT_WR);
    hear_all(&bed, fd);
    assert_true(heard.eof);
    nap(&bed, 5);
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    close(fd);
    fd = dial(&bed); /* the same in chunks, which say it only by coming */
    say(&bed, fd, CHUNKS "200\r\n");
    say_bytes(&bed, fd, body, 512);
    say(&bed, fd, "\r\n200\r\n");
    say_bytes(&bed, fd, body, 512);
    assert_int_equal(status_of(hear(&bed, fd, "}}\n")), 413);
    close(fd);
    for (unsigned over = 0; over < 2; over++) { /* to the byte, in one chunk and in two */
        for (unsigned first = 0; first < 2; first++) {
            char size[16];
            size_t len = small.max_body_bytes + over - first;
            fd = dial(&bed);
            say(&bed, fd, first ? CHUNKS "1\r\nb\r\n" : CHUNKS);
            snprintf(size, sizeof(size), "%zx\r\n", len);
            say(&bed, fd, size);
            say_bytes(&bed, fd, body, len);
            say(&bed, fd, "\r\n0\r\n\r\n");
            assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), over ? 413 : 200);
            close(fd);
        }
    }
    bed_close(&bed);
}

/* ---- bounds
 * ----------------------------------------------------------------------------------------------------------------- */

static void fill_header(char *request, size_t value)
{
    char *p = stpcpy(request, GET HOST "A: ");

    memset(p, 'a', value);
    strcpy(p + value, "\r\n\r\n");
}

static void test_bounds(void **state)
{
    static char request[4096];
    struct bed bed;
    size_t fits = 600 - strlen(GET HOST "A: \r\n\r\n");
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &small);
    for (size_t over = 0; over < 3; over++) {
        for (int slow = 0; slow < 2; slow++) {
            fd = dial(&bed);
            fill_header(request, fits + over);
            for (size_t i = 0; slow && i < strlen(request) - 1; i++) {
                say_bytes(&bed, fd, request + i, 1);
            }
            say(&bed, fd, slow ? request + strlen(request) - 1 : request);
            assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), over ? 431 : 200);
            close(fd);
        }
    }
    fd = dial(&bed);
    say(&bed, fd, GET HOST "A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    say(&bed, fd, GET HOST "A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 431);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, CHUNKS "0\r\nA: ");
    memset(request, 'a', 700);
    say_bytes(&bed, fd, request, 700);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 431);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, CHUNKS "1;");
    say_bytes(&bed, fd, request, 300);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 400);
    close(fd);
    bed_close(&bed);
}

/* A reload may bring another bound while a body comes: it counts from the next request on. */
static void test_a_bound_that_changes_while_a_body_comes(void **state)
{
    static char bytes[40000];
    struct bed bed;
    size_t len;

    (void)state;
    memset(bytes, 'x', sizeof(bytes));
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (int i = 0; i < 2; i++) {
        int fd = dial(&bed);

        say(&bed, fd, "POST /hold HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n9c40\r\n");
        say_bytes(&bed, fd, bytes, sizeof(bytes));
        nap(&bed, 20);
        http1_bound(bed.server, 1024, 0, 0);
        say(&bed, fd, "\r\n9c40\r\n");
        say_bytes(&bed, fd, bytes, sizeof(bytes));
        say(&bed, fd, "\r\n0\r\n\r\n");
        if (i > 0) {
            assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 413);
            assert_null(bed.held);
        } else {
            nap(&bed, 20);
            assert_non_null(bed.held);
            http1_body(bed.held, &len);
            assert_int_equal(len, 2 * sizeof(bytes));
            http1_reply(bed.held, 200, NULL, 0, NULL, 0);
            bed.held = NULL;
            assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
        }
        close(fd);
    }
    bed_close(&bed);
}

static int send_body(struct bed *bed, const char *target, bool chunked, size_t len)
{
    static char bytes[150000], head[256];
    int fd = dial(bed);

    memset(bytes, 'x', sizeof(bytes));
    snprintf(head, sizeof(head),
             chunked ? "POST %s HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n%zx\r\n"
                     : "POST %s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n",
             target, len);
    say(bed, fd, head);
    say_bytes(bed, fd, bytes, len);
    if (chunked) {
        say(bed, fd, "\r\n0\r\n\r\n");
    }
    return fd;
}

static void expect_status(struct bed *bed, int fd, int status)
{
    assert_int_equal(status_of(hear(bed, fd, "\r\n\r\n")), status);
    close(fd);
}

/* What a handler has taken over counts too, and so does what came to another server that shares the bound. */
static void test_the_bodies_of_all_requests_together(void **state)
{
    atomic_size_t shared = 0;
    struct http1_limits limits = {.max_buffered_bytes = 100000, .buffered = &shared};
    struct bed bed, other;
    size_t len;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &limits);
    bed_open(&other, "127.0.0.1:0", &limits);
    for (int chunked = 0; chunked < 2; chunked++) {
        expect_status(&bed, send_body(&bed, "/", chunked, 150000), 200); /* alone */
        nap(&bed, 5);
        assert_int_equal(shared, 0);

        int fd = send_body(&bed, "/hold", chunked, 80000);
        nap(&bed, 5);
        assert_non_null(bed.held);
        assert_in_range(shared, 80000, 160000);
        void *body = http1_take_body(bed.held, &len);
        expect_status(&other, send_body(&other, "/", false, 40000), 503);
        expect_status(&other, send_body(&other, "/", true, 40000), 503);
        nap(&other, 5);
        assert_in_range(shared, 80000, 160000);
        expect_status(&other, send_body(&other, "/", false, 0), 200);
        free(body);
        http1_reply(bed.held, 200, NULL, 0, NULL, 0);
        bed.held = NULL;
        expect_status(&bed, fd, 200);
        assert_int_equal(shared, 0);
        expect_status(&other, send_body(&other, "/", chunked, 40000), 200);
    }
    int fd = dial(&bed); /* one that leaves in the midst of its body */
    say(&bed, fd, "POST / HTTP/1.1\r\n" HOST "Content-Length: 90000\r\n\r\nxxxx");
    nap(&bed, 5);
    assert_true(shared > 0);
    close(fd);
    nap(&bed, 5);
    assert_int_equal(shared, 0);
    bed_close(&bed);
    bed_close(&other);
}

static void test_more_connections_than_allowed(void **state)
{
    static const struct http1_limits limits = {.max_connections = 3};
    atomic_uint shared = 0;
    struct http1_limits both = {.max_connections = 3, .connections = &shared};
    struct bed bed, other;
    int fds[3], fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &limits);
    for (size_t i = 0; i < 3; i++) {
        fds[i] = dial(&bed);
    }
    turn(&bed);
    fd = dial(&bed);
    say(&bed, fd, GET HOST "\r\n");
    assert_int_equal(status_of(hear_all(&bed, fd)), 503);
    close(fd);
    assert_int_equal(http1_stats(bed.server)->connections, 3);
    say(&bed, fds[0], GET HOST "\r\n");
    assert_int_equal(status_of(hear(&bed, fds[0], "\r\n\r\n")), 200);
    close(fds[0]);
    nap(&bed, 5);
    fds[0] = dial(&bed);
    say(&bed, fds[0], GET HOST "\r\n");
    assert_int_equal(status_of(hear(&bed, fds[0], "\r\n\r\n")), 200);
    for (size_t i = 0; i < 3; i++) {
        close(fds[i]);
    }
    bed_close(&bed);

    bed_open(&bed, "127.0.0.1:0", &both);
    bed_open(&other, "127.0.0.1:0", &both);
    fds[0] = dial(&bed);
    fds[1] = dial(&bed);
    fds[2] = dial(&other);
    turn(&bed);
    turn(&other);
    assert_int_equal(shared, 3);
    fd = dial(&other);
    assert_int_equal(status_of(hear_all(&other, fd)), 503);
    close(fd);
    for (size_t i = 0; i < 3; i++) {
        close(fds[i]);
    }
    bed_close(&bed);
    bed_close(&other);
    assert_int_equal(shared, 0);
}

static void test_deadlines(void **state)
{
    enum { AT_ONCE, OVER, LATER };
    static const struct http1_limits limits = {.header_ms = 150, .body_ms = 150, .write_ms = 150};
    struct bed bed;
    long long began;
    uint64_t refused;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", &limits);
    /* a head that drips: absolute */
    fd = dial(&bed);
    began = now_ms();
    for (int i = 0; i < 100 && http1_stats(bed.server)->refused == 0; i++) {
        say(&bed, fd, i == 0 ? GET "A: " : "a");
        nap(&bed, 20);
    }
    assert_true(now_ms() - began >= 145 && now_ms() - began < 1000);
    assert_int_equal(status_of(hear(&bed, fd, "}}\n")), 408);
    close(fd);
    /* nothing at all, at first and after a reply: closed without a word */
    fd = dial(&bed);
    began = now_ms();
    assert_string_equal(hear_all(&bed, fd), "");
    assert_true(heard.eof && now_ms() - began >= 145 && now_ms() - began < 1000);
    close(fd);
    fd = dial(&bed);
    nap(&bed, 100);
    say(&bed, fd, GET HOST "\r\n");
    began = now_ms();
    assert_int_equal(status_of(hear_all(&bed, fd)), 200);
    assert_true(heard.eof && now_ms() - began >= 145 && now_ms() - began < 1000);
    close(fd);
    refused = http1_stats(bed.server)->refused;
    /* a body that drips: absolute for each 64 KiB */
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 500\r\n\r\n");
    began = now_ms();
    for (int i = 0; i < 100 && http1_stats(bed.server)->refused == refused; i++) {
        say(&bed, fd, "b");
        nap(&bed, 20);
    }
    assert_true(now_ms() - began >= 145 && now_ms() - began < 1000);
    assert_int_equal(status_of(hear(&bed, fd, "}}\n")), 408);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, POST "Content-Length: 327680\r\n\r\n");
    for (int i = 0; i < 5; i++) {
        static char step[65537];
        memset(step, 'b', sizeof(step) - 1);
        nap(&bed, 50);
        say(&bed, fd, step);
    }
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    close(fd);
    /* a request in work has no deadline here */
    fd = dial(&bed);
    ask_held(&bed, fd, "GET /hold HTTP/1.1");
    nap(&bed, 400);
    assert_int_equal(bed.gone, 0);
    http1_reply(bed.held, 200, NULL, 0, "", 0);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    close(fd);
    /* a reader that takes nothing, while the handler writes and after it */
    for (int when = AT_ONCE; when <= LATER; when++) {
        fd = dial(&bed);
        bed.to_write = 50 << 20;
        bed.written = 0;
        bed.gone = 0;
        say(&bed, fd, when == AT_ONCE ? "GET /flood HTTP/1.1\r\n" HOST "\r\n" : "GET /hold HTTP/1.1\r\n" HOST "\r\n");
        if (when == OVER) {
            static char body[8 << 20];
            http1_reply(bed.held, 200, NULL, 0, body, sizeof(body));
        } else if (when == LATER) {
            assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
            flood(&bed, bed.held);
        }
        nap(&bed, 50);
        assert_int_equal(http1_stats(bed.server)->connections, 1);
        nap(&bed, 250);
        assert_int_equal(http1_stats(bed.server)->connections, 0);
        assert_int_equal(bed.gone, when != OVER);
        close(fd);
    }
    bed_close(&bed);
}

/* Each time that a slow reader takes something it has time anew. */
static void test_a_slow_reader(void **state)
{
    enum { PIECES = 6, PIECE_BYTES = 4 << 20, PAUSE_MS = 200 };
    static const struct http1_limits limits = {.write_ms = 600};
    struct bed bed;
    int fd;
    char *reply = calloc(PIECES * 2, PIECE_BYTES);

    (void)state;
    assert_non_null(reply);
    bed_open(&bed, "127.0.0.1:0", &limits);
    fd = dial(&bed);
    ask_held(&bed, fd, "GET /hold HTTP/1.1");
    http1_reply(bed.held, 200, NULL, 0, reply, PIECES * 2 * (size_t)PIECE_BYTES);
    free(reply);
    for (int i = 0; i < PIECES; i++) {
        nap(&bed, PAUSE_MS);
        for (size_t taken = 0; taken < PIECE_BYTES; turn(&bed)) {
            ssize_t n = recv(fd, heard.bytes, sizeof(heard.bytes), 0);

            assert_true(n > 0 || errno == EAGAIN);
            taken += n > 0 ? (size_t)n : 0;
        }
    }
    assert_int_equal(http1_stats(bed.server)->connections, 1);
    close(fd);
    bed_close(&bed);
}

static void test_those_who_drip_do_not_keep_others_waiting(void **state)
{
    static int fds[500];
    struct bed bed;
    long long began;
    int fd;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    for (size_t i = 0; i < COUNT(fds); i++) {
        fds[i] = dial(&bed);
        if (i % 50 == 0) {
            turn(&bed);
        }
    }
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT(fds); i++) {
            assert_int_equal(send(fds[i], "G", 1, MSG_NOSIGNAL), 1);
        }
        began = now_ms();
        fd = dial(&bed);
        send(fd, GET HOST "\r\n", strlen(GET HOST "\r\n"), MSG_NOSIGNAL);
        assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
        assert_true(now_ms() - began < 1000);
        close(fd);
    }
    for (size_t i = 0; i < COUNT(fds); i++) {
        close(fds[i]);
    }
    bed_close(&bed);
}

static void test_idle_connections_are_small(void **state)
{
    static int fds[200];
    static char body[20000];
    struct bed bed;
    struct mallinfo2 before, after;

    (void)state;
    memset(body, 'b', sizeof(body));
    bed_open(&bed, "127.0.0.1:0", NULL);
    before = mallinfo2();
    for (size_t i = 0; i < COUNT(fds); i++) {
        fds[i] = dial(&bed);
        say(&bed, fds[i], POST "Content-Length: 20000\r\n\r\n");
        say_bytes(&bed, fds[i], body, sizeof(body));
        assert_int_equal(status_of(hear(&bed, fds[i], "\r\n\r\n")), 200);
        hear_for(&bed, fds[i], NULL, 1);
    }
    after = mallinfo2();
    if (after.uordblks > 0) {
        assert_true(after.uordblks - before.uordblks < COUNT(fds) * 1024);
    }
    for (size_t i = 0; i < COUNT(fds); i++) {
        close(fds[i]);
    }
    bed_close(&bed);
}

/* ---- the end
 * --------------------------------------------------------------------------------------------------------------- */

static void test_drain(void **state)
{
    struct bed bed;
    int idle, working, sending, late, fresh;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    idle = dial(&bed);
    say(&bed, idle, GET HOST "\r\n");
    hear(&bed, idle, "\r\n\r\n");
    working = dial(&bed);
    ask_held(&bed, working, "GET /hold HTTP/1.1");
    sending = dial(&bed);
    say(&bed, sending, POST "Content-Length: 2\r\n\r\na");
    late = dial(&bed);
    turn(&bed);
    assert_true(send(late, GET HOST "\r\n", strlen(GET HOST "\r\n"), 0) > 0); /* there, not read */
    fresh = dial(&bed);
    assert_true(send(fresh, GET HOST "\r\n", strlen(GET HOST "\r\n"), 0) > 0); /* connected, not accepted */
    http1_drain(bed.server);
    http1_drain(bed.server);
    assert_string_equal(hear_all(&bed, idle), "");
    assert_true(heard.eof);
    assert_int_equal(status_of(hear_all(&bed, late)), 200);
    assert_int_equal(status_of(hear_all(&bed, fresh)), 200);
    assert_false(is_listening(&bed));
    http1_reply(bed.held, 200, NULL, 0, "x", 1);
    assert_non_null(strstr(hear_all(&bed, working), "\r\nConnection: close\r\n\r\nx"));
    assert_true(heard.eof);
    assert_int_equal(http1_stats(bed.server)->connections, 1);
    say(&bed, sending, "b");
    assert_non_null(strstr(hear_all(&bed, sending), "\r\nConnection: close\r\n\r\nab"));
    assert_int_equal(http1_stats(bed.server)->connections, 0);
    close(idle);
    close(working);
    close(sending);
    close(late);
    close(fresh);
    bed_close(&bed);
}

static void test_closing_tells_the_handler(void **state)
{
    struct bed bed;
    int one, two;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    one = dial(&bed);
    two = dial(&bed);
    say(&bed, one, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    say(&bed, two, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    bed_close(&bed);
    assert_int_equal(bed.gone, 2);
    close(one);
    close(two);
}

/* To a caller of HTTP/1.0 the end of the connection is the end of the reply. */
static void test_closing_is_no_end_of_a_reply(void **state)
{
    enum { IN_WORK, ABORTED, FLUSHED, WAYS };
    static char bytes[1 << 20];
    struct bed bed;

    (void)state;
    memset(bytes, 'e', sizeof(bytes));
    for (int way = 0; way < WAYS; way++) {
        ssize_t n;
        int fd;

        bed_open(&bed, "127.0.0.1:0", NULL);
        fd = dial(&bed);
        ask_held(&bed, fd, "GET /hold HTTP/1.0");
        assert_int_equal(http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED), 0);
        for (int i = 0; i < 8; i++) {
            http1_write(bed.held, bytes, sizeof(bytes));
        }
        if (way == ABORTED) {
            http1_abort(bed.held);
        } else if (way == FLUSHED) {
            http1_end(bed.held);
        }
        turn(&bed);
        bed_close(&bed);
        fcntl(fd, F_SETFL, 0);
        do {
            n = recv(fd, bytes, sizeof(bytes), 0);
        } while (n > 0);
        assert_int_equal(n, -1);
        assert_int_equal(errno, ECONNRESET);
        close(fd);
    }
}

static void close_inside(void *user, struct http1_exchange *e)
{
    struct bed *bed = user;

    bed->held = e;
    http1_close(bed->server, on_closed, bed);
}

static void test_closing_from_inside_a_request(void **state)
{
    struct bed bed = {0};
    struct http1_handler handler = {.user = &bed, .on_request = close_inside, .on_gone = on_gone};
    int fd;

    (void)state;
    assert_int_equal(uv_loop_init(&bed.loop), 0);
    assert_int_equal(http1_listen(&bed.loop, "127.0.0.1:0", false, -1, NULL, &handler, &bed.server, NULL, 0), 0);
    fd = dial(&bed);
    send(fd, GET HOST "\r\n" GET HOST "\r\n", 2 * strlen(GET HOST "\r\n"), MSG_NOSIGNAL);
    while (!bed.closed) {
        uv_run(&bed.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(bed.gone, 1);
    assert_int_equal(uv_loop_close(&bed.loop), 0);
    close(fd);
}

/* ---- addresses
 * --------------------------------------------------------------------------------------------------------------- */

static int listen_code(struct bed *bed, const char *address, int fd, char *message, size_t size)
{
    struct http1_handler handler = handler_of(bed);
    struct http1_server *server;
    int code = http1_listen(&bed->loop, address, false, fd, NULL, &handler, &server, message, size);

    assert_true(code == 0 || server == NULL);
    return code;
}

static int dial_unix(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void *listen_soon(void *fd)
{
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    listen(*(int *)fd, 1);
    return NULL;
}

static void test_a_unix_socket_that_is_about_to_listen(void **state)
{
    char dir[] = "/tmp/http1-XXXXXX", address[80], message[256];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct bed bed = {0};
    pthread_t thread;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", dir);
    snprintf(address, sizeof(address), "unix:%s/s", dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(uv_loop_init(&bed.loop), 0);
    assert_int_equal(pthread_create(&thread, NULL, listen_soon, &fd), 0);
    assert_int_equal(listen_code(&bed, address, -1, message, sizeof(message)), UV_EADDRINUSE);
    pthread_join(thread, NULL);
    close(fd);
    unlink(at.sun_path);
    rmdir(dir);
    uv_loop_close(&bed.loop);
}

/* Takes the place of the C library's: how wide the file was until then. */
static unsigned mode_until_chmod;

int chmod(const char *path, mode_t mode)
{
    struct stat stat;

    assert_int_equal(lstat(path, &stat), 0);
    mode_until_chmod = stat.st_mode & 0777;
    return fchmodat(AT_FDCWD, path, mode, 0);
}

static void test_unix_sockets(void **state)
{
    char dir[] = "/tmp/http1-XXXXXX", path[64], address[80], message[256];
    struct bed bed, heir;
    struct stat stat;
    int fd, file;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    snprintf(address, sizeof(address), "unix:%s", path);
    umask(0);
    bed_open(&bed, address, NULL);
    assert_string_equal(http1_address(bed.server), address);
    assert_int_equal(lstat(path, &stat), 0);
    assert_true(S_ISSOCK(stat.st_mode));
    assert_int_equal(stat.st_mode & 0777, 0600);
    assert_int_equal(mode_until_chmod, 0600); /* nobody else could connect meanwhile */
    fd = dial_unix(path);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_string_equal(http1_peer(bed.held), "unix");
    assert_true(http1_is_local(bed.held));
    http1_reply(bed.held, 200, NULL, 0, "", 0);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    shutdown(fd, SHUT_WR);
    assert_true(gone_within(&bed, 1) < 100);
    close(fd);
    fd = dial_unix(path);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    http1_head(bed.held, 200, NULL, 0, HTTP1_CHUNKED);
    http1_write(bed.held, "part", 4);
    http1_abort(bed.held);
    assert_non_null(strstr(hear_all(&bed, fd), "part\r\n"));
    assert_true(heard.eof || heard.reset);
    close(fd);

    /* a live one stays */
    assert_int_equal(listen_code(&bed, address, -1, message, sizeof(message)), UV_EADDRINUSE);
    assert_non_null(strstr(message, "another process listens there"));
    bed_close(&bed);
    assert_int_not_equal(lstat(path, &stat), 0);

    /* a stale one is replaced */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
        assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    }
    close(fd);
    bed_open(&bed, address, NULL);
    assert_int_equal(lstat(path, &stat), 0);
    assert_int_equal(stat.st_mode & 0777, 0600);

    /* who comes after keeps its own */
    assert_int_equal(unlink(path), 0);
    bed_open(&heir, address, NULL);
    bed_close(&bed);
    fd = dial_unix(path);
    assert_true(fd >= 0);
    close(fd);
    bed_close(&heir);

    /* what is no socket is nobody's to remove */
    file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(file);
    assert_int_equal(uv_loop_init(&bed.loop), 0);
    assert_int_equal(listen_code(&bed, address, -1, message, sizeof(message)), UV_EEXIST);
    assert_int_equal(unlink(path), 0);
    snprintf(address, sizeof(address), "unix:%s/none/s", dir);
    assert_int_equal(listen_code(&bed, address, -1, message, sizeof(message)), UV_ENOENT);
    assert_int_equal(listen_code(&bed, "unix:", -1, message, sizeof(message)), UV_EINVAL);
    memset(heard.bytes, 'p', 200);
    memcpy(heard.bytes, "unix:/", 6);
    heard.bytes[200] = '\0';
    assert_int_equal(listen_code(&bed, heard.bytes, -1, message, sizeof(message)), UV_EINVAL);
    assert_int_equal(uv_loop_close(&bed.loop), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void test_addresses(void **state)
{
    static const char *const bad[] = {
        "",      "127.0.0.1", "127.0.0.1:",      ":80", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80",
        "[::1]", "[]:80",     "127.0.0.1:123456"};
    struct bed bed, other;
    struct http1_handler handler = handler_of(&other);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    char message[256];
    int fd;

    (void)state;
    bed_open(&bed, "[::1]:0", NULL);
    assert_memory_equal(http1_address(bed.server), "[::1]:", 6);
    at.sin6_port = htons((uint16_t)atoi(strrchr(http1_address(bed.server), ':') + 1));
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    say(&bed, fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_memory_equal(http1_peer(bed.held), "[::1]:", 6);
    assert_true(http1_is_local(bed.held));
    http1_reply(bed.held, 200, NULL, 0, "", 0);
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    close(fd);
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(listen_code(&bed, bad[i], -1, message, sizeof(message)), UV_EINVAL);
        assert_non_null(strstr(message, "expected host:port"));
    }
    assert_int_equal(listen_code(&bed, "no.such.host.invalid:80", -1, message, sizeof(message)), UV_EAI_NONAME);
    assert_int_equal(listen_code(&bed, "192.0.2.1:0", -1, message, sizeof(message)), UV_EADDRNOTAVAIL);
    assert_int_equal(listen_code(&bed, http1_address(bed.server), -1, message, sizeof(message)), UV_EADDRINUSE);
    assert_non_null(strstr(message, "cannot listen on [::1]:"));
    bed_close(&bed);

    bed_open(&bed, "localhost:0", NULL);
    bed_close(&bed);

    /* a port for several */
    memset(&bed, 0, sizeof(bed));
    memset(&other, 0, sizeof(other));
    uv_loop_init(&bed.loop);
    uv_loop_init(&other.loop);
    assert_int_equal(http1_listen(&bed.loop, "127.0.0.1:0", true, -1, NULL, &handler, &bed.server, NULL, 0), 0);
    assert_int_equal(
        http1_listen(&other.loop, http1_address(bed.server), true, -1, NULL, &handler, &other.server, NULL, 0), 0);
    assert_string_equal(http1_address(bed.server), http1_address(other.server));
    bed_close(&bed);
    bed_close(&other);
}

static void test_a_descriptor_handed_in(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct bed bed = {0};
    struct http1_handler handler = handler_of(&bed);
    int listening = socket(AF_INET, SOCK_STREAM, 0), fd, on = 0;
    socklen_t len = sizeof(on);
    char message[256];

    (void)state;
    assert_int_equal(bind(listening, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(uv_loop_init(&bed.loop), 0);
    assert_int_equal(listen_code(&bed, NULL, listening, message, sizeof(message)), UV_EINVAL);
    assert_int_equal(listen(listening, 5), 0);
    assert_int_equal(
        http1_listen(&bed.loop, NULL, false, listening, NULL, &handler, &bed.server, message, sizeof(message)), 0);
    assert_memory_equal(http1_address(bed.server), "127.0.0.1:", 10);
    getsockopt(listening, IPPROTO_TCP, TCP_NODELAY, &on, &len);
    assert_true(on);
    fd = dial(&bed);
    say(&bed, fd, GET HOST "\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    close(fd);
    bed_close(&bed);
    assert_int_equal(fcntl(listening, F_GETFD), -1);
}

/* ---- without memory, without descriptors
 * ----------------------------------------------------------------------------------- */

static bool everything(void)
{
    static const char requests[] =
        GET HOST "\r\n" POST "Content-Length: 3\r\n\r\nabc" CHUNKS "3\r\nabc\r\n0\r\n\r\n"
                 "GET /stream HTTP/1.1\r\n" HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\nGET / HT";
    static char large[5000];
    struct bed bed = {0};
    struct http1_handler handler = handler_of(&bed);
    int fd, code;

    assert_int_equal(uv_loop_init(&bed.loop), 0);
    code = http1_listen(&bed.loop, "127.0.0.1:0", false, -1, NULL, &handler, &bed.server, NULL, 0);
    if (code != 0) {
        assert_int_equal(code, UV_ENOMEM);
        assert_int_equal(uv_loop_close(&bed.loop), 0);
        return false;
    }
    fd = dial(&bed);
    say_bytes(&bed, fd, requests, 10);
    say_bytes(&bed, fd, requests + 10, sizeof(requests) - 11);
    if (bed.held) {
        struct http1_exchange *e = bed.held;

        memset(large, 'v', sizeof(large) - 1);
        http1_reply(e, 200, (struct http1_header[]){{"X", large}}, 1, "abc", 3);
    }
    say(&bed, fd, "TP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    hear_all(&bed, fd);
    assert_true(heard.eof || heard.reset);
    close(fd);
    bed_close(&bed);
    return count_of(heard.bytes, "HTTP/1.1 200") == 6;
}

static void test_out_of_memory(void **state)
{
    long blocks;

    (void)state;
    assert_true(everything());
    blocks = live_blocks;
    for (int and_on = 0; and_on < 2; and_on++) {
        bool whole = false;

        for (long n = 1; n < 200 && !whole; n++) {
            fail_allocation(n, and_on);
            whole = everything();
            fail_allocation(0, false);
            assert_int_equal(live_blocks, blocks);
        }
        assert_true(whole);
    }
}

static void test_out_of_descriptors(void **state)
{
    struct bed bed;
    struct rlimit old, few;
    int fd, hungry[64], n = 0;

    (void)state;
    bed_open(&bed, "127.0.0.1:0", NULL);
    fd = dial(&bed);
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = (rlim_t)fd + 4;
    setrlimit(RLIMIT_NOFILE, &few);
    while (n < 64 && (hungry[n] = dup(fd)) >= 0) {
        n++;
    }
    /* valgrind accepts before it looks at the limit: then there is only an end */
    hear_all(&bed, fd);
    assert_true(status_of(heard.bytes) == 503 || heard.eof || heard.reset);
    while (n > 0) {
        close(hungry[--n]);
    }
    setrlimit(RLIMIT_NOFILE, &old);
    close(fd);
    fd = dial(&bed);
    say(&bed, fd, GET HOST "\r\n");
    assert_int_equal(status_of(hear(&bed, fd, "\r\n\r\n")), 200);
    close(fd);
    bed_close(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_cut_at_every_byte),
        cmocka_unit_test(test_requests_cut_at_every_byte),
        cmocka_unit_test(test_what_a_handler_sees),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_pieces_of_one_turn_leave_as_one_chunk),
        cmocka_unit_test(test_pipelined_requests_wait_for_their_turn),
        cmocka_unit_test(test_many_pipelined_requests_do_not_pile_up),
        cmocka_unit_test(test_heads_of_replies),
        cmocka_unit_test(test_large_heads_of_replies),
        cmocka_unit_test(test_aborts_are_seen),
        cmocka_unit_test(test_an_abort_behind_a_slow_reader),
        cmocka_unit_test(test_a_slow_reader_holds_the_writer_back),
        cmocka_unit_test(test_stalled_readers_cost_little),
        cmocka_unit_test(test_pipelining_waits_behind_a_slow_reader),
        cmocka_unit_test(test_a_caller_that_leaves_is_noticed),
        cmocka_unit_test(test_a_half_close_with_the_request),
        cmocka_unit_test(test_writing_to_a_caller_that_has_left),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_a_refusal_reaches_who_is_still_sending),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_a_bound_that_changes_while_a_body_comes),
        cmocka_unit_test(test_the_bodies_of_all_requests_together),
        cmocka_unit_test(test_more_connections_than_allowed),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_a_slow_reader),
        cmocka_unit_test(test_those_who_drip_do_not_keep_others_waiting),
        cmocka_unit_test(test_idle_connections_are_small),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_closing_tells_the_handler),
        cmocka_unit_test(test_closing_is_no_end_of_a_reply),
        cmocka_unit_test(test_closing_from_inside_a_request),
        cmocka_unit_test(test_unix_sockets),
        cmocka_unit_test(test_a_unix_socket_that_is_about_to_listen),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_a_descriptor_handed_in),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_out_of_descriptors),
    };

    return cmocka_run_group_tests_name("http1", tests, NULL, NULL);
}
