#include <stdatomic.h>
/* The net floor over real sockets: a peer on 127.0.0.1 that plays a script of bytes, and what http, probe and url make
 * of it. */
#include "net/head.h"
#include "net/http.h"
#include "net/loop.h"
#include "net/probe.h"
#include "net/url.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the peer ---- */

/* One connection's script. Each step is a letter and its argument:
 * "<"  read one request: its head, and a body as long as Content-Length says
 * ">x" send x                 "#N" send N header lines of 1000 bytes      "=N" send N bytes of 'z'
 * "~N" wait N ms              "$"  wait until the client hangs up         "!"  hang up with a reset */
enum { CONNECTIONS = 8, STEPS = 12, SEEN_MAX = 4 << 20 };

struct peer {
    int fd;
    int port;
    const char *script[CONNECTIONS][STEPS];
    pthread_t thread;
    atomic_int connections;
    char *seen; /* all that came, of all connections */
    size_t n_seen;
};

static size_t body_of(const char *head)
{
    const char *at = strcasestr(head, "\r\nContent-Length:");
    return at ? (size_t)strtoul(at + 17, NULL, 10) : 0;
}

static bool take(struct peer *peer, int fd, size_t most)
{
    if (most > SEEN_MAX - peer->n_seen)
        most = SEEN_MAX - peer->n_seen;
    ssize_t n = recv(fd, peer->seen + peer->n_seen, most, 0);
    if (n > 0)
        peer->n_seen += (size_t)n;
    peer->seen[peer->n_seen] = '\0';
    return n > 0;
}

static void read_request(struct peer *peer, int fd)
{
    size_t start = peer->n_seen;
    char *end;
    while (!(end = strstr(peer->seen + start, "\r\n\r\n")))
        if (!take(peer, fd, 1 << 16))
            return;
    size_t whole = (size_t)(end + 4 - peer->seen) + body_of(peer->seen + start);
    while (peer->n_seen < whole)
        if (!take(peer, fd, whole - peer->n_seen))
            return;
}

static bool send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static void play(struct peer *peer, int fd, const char *step)
{
    static char line[1001];
    long n = strtol(step + 1, NULL, 10);
    struct linger reset = {1, 0};
    switch (*step) {
    case '<':
        read_request(peer, fd);
        break;
    case '>':
        send_all(fd, step + 1, strlen(step + 1));
        break;
    case '#':
        memset(line, 'h', 1000);
        memcpy(line, "x: ", 3);
        memcpy(line + 998, "\r\n", 2);
        while (n-- > 0 && send_all(fd, line, 1000))
            ;
        break;
    case '=':
        memset(line, 'z', 1000);
        for (; n > 0; n -= 1000)
            if (!send_all(fd, line, n < 1000 ? (size_t)n : 1000))
                break;
        break;
    case '~':
        usleep((useconds_t)n * 1000);
        break;
    case '$':
        while (take(peer, fd, 1 << 16))
            ;
        break;
    case '!':
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        break;
    }
}

static void *serve(void *user)
{
    struct peer *peer = user;
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = accept(peer->fd, NULL, NULL);
        if (fd < 0)
            break;
        struct timeval patience = {3, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        peer->connections++;
        for (int j = 0; j < STEPS && peer->script[i][j]; j++)
            play(peer, fd, peer->script[i][j]);
        close(fd);
    }
    return NULL;
}

static int listen_any(int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void peer_start(struct peer *peer)
{
    peer->fd = listen_any(&peer->port);
    peer->seen = calloc(1, SEEN_MAX + 1);
    assert_non_null(peer->seen);
    assert_int_equal(pthread_create(&peer->thread, NULL, serve, peer), 0);
}

/* After this `connections` and `seen` may be looked at. */
static void peer_join(struct peer *peer)
{
    shutdown(peer->fd, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->fd);
}

/* A connection that its client has closed already waits in the backlog: joining now would lose it. */
static void peer_wait(struct peer *peer, int connections)
{
    for (int i = 0; i < 3000 && peer->connections < connections; i++)
        usleep(1000);
}

static void peer_free(struct peer *peer)
{
    free(peer->seen);
}

/* ---- names with two addresses: libcurl's resolver ends up here ---- */

typedef int (*resolve_fn)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **list)
{
    resolve_fn resolve;
    *(void **)&resolve = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!node || strcmp(node, "two-homed.test") != 0)
        return resolve(node, service, hints, list);
    struct addrinfo *second;
    int code = resolve("127.0.0.2", service, hints, list);
    if (code == 0)
        code = resolve("127.0.0.1", service, hints, &second);
    if (code == 0)
        (*list)->ai_next = second;
    return code;
}

/* ---- the client ---- */

struct call {
    struct http_transfer *transfer;
    struct http_result result;
    struct loop *loop;
    int status, heads, ends, pauses, pause_at_most, asked;
    size_t n_headers;
    char headers[4096];
    char *body;
    size_t len;
    bool withhold, cancel_at_head, cancel_at_bytes, cancelled, stop, resume_inside, hold;
    struct call *other; /* started, or cancelled, from inside on_bytes */
    struct http_request *other_request;
};

static bool call_before(void *user)
{
    struct call *call = user;
    call->asked++;
    return !call->withhold;
}

static void call_head(void *user, int status, const deputy_header *headers, size_t n)
{
    struct call *call = user;
    assert_false(call->cancelled);
    call->heads++;
    call->status = status;
    call->n_headers = n;
    size_t used = 0;
    for (size_t i = 0; i < n && used < sizeof call->headers; i++)
        used += (size_t)snprintf(call->headers + used, sizeof call->headers - used, "%s=%s\n", headers[i].name,
                                 headers[i].value);
    if (call->cancel_at_head) {
        call->cancelled = true;
        http_cancel(call->transfer);
    }
}

static int call_bytes(void *user, const void *bytes, size_t len)
{
    struct call *call = user;
    assert_false(call->cancelled);
    assert_int_equal(call->heads, 1);
    if (call->other_request) {
        deputy_error error;
        assert_int_equal(http_start(call->loop, call->other_request, &call->other->transfer, &error), DEPUTY_OK);
        call->other_request = NULL;
    }
    if (call->cancel_at_bytes) {
        call->cancelled = true;
        http_cancel(call->transfer);
        return DEPUTY_OK;
    }
    if (call->stop)
        return DEPUTY_ECANCELED;
    if (call->pauses < call->pause_at_most) {
        call->pauses++;
        if (call->resume_inside)
            http_resume(call->transfer);
        else
            call->hold = true;
        return DEPUTY_PAUSE;
    }
    call->body = realloc(call->body, call->len + len + 1);
    memcpy(call->body + call->len, bytes, len);
    call->len += len;
    call->body[call->len] = '\0';
    return DEPUTY_OK;
}

static void call_end(void *user, const struct http_result *result)
{
    struct call *call = user;
    assert_false(call->cancelled);
    assert_false(loop_in_curl(call->loop));
    call->ends++;
    call->result = *result;
}

static struct http_request request_for(struct call *call, struct loop *loop, const char *method, const char *url)
{
    call->loop = loop;
    return (struct http_request){
        .method = method,
        .url = url,
        .connect_ms = 1000,
        .total_ms = 4000,
        .user = call,
        .before_send = call_before,
        .on_head = call_head,
        .on_bytes = call_bytes,
        .on_end = call_end,
    };
}

static void call_start(struct call *call, struct http_request *request)
{
    deputy_error error = {0};
    int code = http_start(call->loop, request, &call->transfer, &error);
    if (code != DEPUTY_OK)
        fail_msg("http_start: %s", error.message);
    assert_int_equal(call->ends, 0);
}

/* Turns the loop until the call has ended, was cancelled, or holds a pause. */
static void call_wait(struct call *call)
{
    uint64_t limit = loop_now_us() + 10000000;
    while (!call->ends && !call->cancelled && !call->hold) {
        assert_true(loop_now_us() < limit);
        uv_run(loop_uv(call->loop), UV_RUN_ONCE);
    }
}

static char *url_of(const struct peer *peer, const char *path)
{
    static char urls[4][256];
    static int next;
    char *url = urls[next++ % 4];
    snprintf(url, sizeof urls[0], "http://127.0.0.1:%d%s", peer->port, path);
    return url;
}

static struct loop *new_loop(void)
{
    struct loop *loop;
    assert_int_equal(loop_new(NULL, &loop), DEPUTY_OK);
    return loop;
}

/* One GET (or method) against one script; the peer has been joined afterwards. */
static struct call exchange(const char *method, struct peer *peer, size_t max_header_bytes, uint32_t total_ms)
{
    struct call call = {0};
    struct loop *loop = new_loop();
    peer_start(peer);
    struct http_request request = request_for(&call, loop, method, url_of(peer, "/x"));
    request.max_header_bytes = max_header_bytes;
    request.total_ms = total_ms;
    call_start(&call, &request);
    call_wait(&call);
    loop_free(loop);
    peer_join(peer);
    assert_int_equal(call.ends, 1);
    return call;
}

static void call_free(struct call *call)
{
    free(call->body);
    call->body = NULL;
}

/* Plays one connection that answers one request with these steps; checks the end, and the body when it has one. */
static struct http_result reply(const char *method, enum http_end end, const char *body, const char *a, const char *b,
                                const char *c, const char *d)
{
    struct peer peer = {.script = {{"<", a, b, c, d}}};
    struct call call = exchange(method, &peer, 0, 1500);
    if (call.result.end != end)
        fail_msg("end %d, expected %d: %s", (int)call.result.end, (int)end, call.result.message);
    if (body)
        assert_string_equal(call.body ? call.body : "", body);
    if (end != HTTP_COMPLETE)
        assert_true(call.result.message[0]);
    call_free(&call);
    peer_free(&peer);
    return call.result;
}

/* ---- replies that are whole ---- */

static void test_framings(void **state)
{
    (void)state;
    struct http_result r;
    r = reply("GET", HTTP_COMPLETE, "hello", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", NULL, NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_false(r.unframed);
    assert_string_equal(r.message, "");
    r = reply("GET", HTTP_COMPLETE, "hello, world",
              ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "~20",
              ">7\r\n, world\r\n0\r\nX-Trailer: 1\r\n\r\n", NULL);
    assert_false(r.unframed);
    r = reply("GET", HTTP_COMPLETE, "hello", ">HTTP/1.1 200 OK\r\n\r\nhello", NULL, NULL, NULL);
    assert_true(r.unframed);
    r = reply("GET", HTTP_COMPLETE, "", ">HTTP/1.1 204 No Content\r\n\r\n", NULL, NULL, NULL);
    assert_int_equal(r.status, 204);
    assert_false(r.unframed);
    r = reply("GET", HTTP_COMPLETE, "no", ">HTTP/1.0 503 \r\ncontent-length:2\r\n\r\nno", NULL, NULL, NULL);
    assert_int_equal(r.status, 503);
    r = reply("HEAD", HTTP_COMPLETE, "", ">HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", "$", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_false(r.unframed);
}

static void test_interim_heads(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n", "~10",
                                    ">HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "~10",
                                    ">HTTP/1.1 204 No Content\r\nX-B: \t two \r\n three\r\nX-C:\r\n\r\n", "$"}}};
    struct call call = exchange("GET", &peer, 0, 1500);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_int_equal(call.heads, 1);
    assert_int_equal(call.status, 204);
    assert_string_equal(call.headers, "X-B=two three\nX-C=\n");
    peer_free(&peer);
}

static void test_redirect_is_an_answer(void **state)
{
    (void)state;
    struct peer thief = {0}, peer = {0};
    peer_start(&thief);
    char answer[256];
    snprintf(answer, sizeof answer, ">HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
             url_of(&thief, "/"));
    peer.script[0][0] = "<";
    peer.script[0][1] = answer;
    struct call call = exchange("GET", &peer, 0, 1500);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_int_equal(call.result.status, 302);
    peer_join(&thief);
    assert_int_equal(thief.connections, 0);
    peer_free(&peer);
    peer_free(&thief);
}

/* ---- replies that are not ---- */

static void test_cuts(void **state)
{
    (void)state;
    struct http_result r;
    r = reply("GET", HTTP_CUT, "hel", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", NULL, NULL, NULL);
    assert_int_equal(r.status, 200);
    reply("GET", HTTP_CUT, "hello", ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", NULL, NULL,
          NULL);
    reply("GET", HTTP_CUT, NULL, ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", NULL, NULL, NULL);
    reply("GET", HTTP_CUT, NULL, ">HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", "~50", "!", NULL);
    reply("GET", HTTP_CONNECT, "", NULL, NULL, NULL, NULL);
    reply("GET", HTTP_CONNECT, "", "!", NULL, NULL, NULL);
    /* libcurl calls these two complete */
    r = reply("GET", HTTP_CONNECT, "", ">HTTP/1.1 200 OK\r\n", NULL, NULL, NULL);
    assert_int_equal(r.status, 0);
    reply("HEAD", HTTP_CONNECT, "", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", NULL, NULL, NULL);
    reply("GET", HTTP_CONNECT, "", ">HTTP/1.1 100 Continue\r\n\r\n", NULL, NULL, NULL);
}

static void test_a_reset_after_a_whole_reply(void **state)
{
    (void)state;
    reply("GET", HTTP_COMPLETE, "hello", ">HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nhello", "!", NULL, NULL);
}

static void test_stalls(void **state)
{
    (void)state;
    struct {
        const char *steps[3];
        int status;
    } cases[] = {
        {{"<", "$"}, 0},
        {{"<", ">HTTP/1.1 200 OK\r\n", "$"}, 0},
        {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "$"}, 200},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct peer peer = {0};
        memcpy(peer.script[0], cases[i].steps, sizeof cases[i].steps);
        struct call call = exchange("GET", &peer, 0, 150);
        assert_int_equal(call.result.end, HTTP_TIMEOUT);
        assert_int_equal(call.result.status, cases[i].status);
        assert_false(call.result.connecting);
        call_free(&call);
        peer_free(&peer);
    }
}

static void test_stall_while_connecting(void **state)
{
    (void)state;
    /* A full backlog drops the handshake. */
    int port, fd = listen_any(&port), filler[3];
    listen(fd, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 3; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(filler[i], (struct sockaddr *)&address, sizeof address);
    }
    struct peer peer = {.port = port};
    struct call call = {0};
    struct loop *loop = new_loop();
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
    request.connect_ms = 150;
    call_start(&call, &request);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_TIMEOUT);
    assert_true(call.result.connecting);
    assert_int_equal(call.asked, 0);
    loop_free(loop);
    for (int i = 0; i < 3; i++)
        close(filler[i]);
    close(fd);
}

static void test_header_bombs(void **state)
{
    (void)state;
    reply("GET", HTTP_LIMIT, "", ">HTTP/1.1 200 OK\r\n", "#100", ">\r\n", NULL);
    reply("GET", HTTP_LIMIT, "", ">HTTP/1.1 200 OK\r\nx: ", "=300000", ">\r\n\r\n", NULL);
    reply("GET", HTTP_LIMIT, "", ">HTTP/1.1 103 Hints\r\n", "#40", ">\r\nHTTP/1.1 103 Hints\r\n", "#40");
    reply("GET", HTTP_LIMIT, NULL, ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "#100", ">\r\n",
          NULL);
    char many[4096] = ">HTTP/1.1 200 OK\r\n";
    for (int i = 0; i < HEAD_FIELDS_MAX + 1; i++)
        strcat(many, "a: b\r\n");
    strcat(many, "\r\n");
    reply("GET", HTTP_LIMIT, "", many, NULL, NULL, NULL);

    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}}};
    struct call call = exchange("GET", &peer, 30, 1500);
    assert_int_equal(call.result.end, HTTP_LIMIT);
    assert_int_equal(call.heads, 0);
    peer_free(&peer);
}

static void test_what_is_not_http(void **state)
{
    (void)state;
    static const char *const bad[] = {
        ">garbage\r\n\r\n",
        ">SSH-2.0-OpenSSH_9\r\n",
        ">HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc",
        ">HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\nna me: x\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\nx: a\rb\r\nContent-Length: 0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        ">HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        ">HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 0\r\n\r\nhello",
        ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n , gzip\r\n\r\n0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct http_result r = reply("GET", HTTP_PROTOCOL, "", bad[i], NULL, NULL, NULL);
        assert_int_equal(r.status, 0);
    }
}

static void test_refused_port_and_unknown_host(void **state)
{
    (void)state;
    struct peer peer = {0};
    int fd = listen_any(&peer.port);
    close(fd);
    struct loop *loop = new_loop();
    struct call call = {0};
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/a?key=secret"));
    call_start(&call, &request);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_CONNECT);
    assert_null(strstr(call.result.message, "secret"));
    assert_non_null(strstr(call.result.message, "/a"));

    struct call lost = {0};
    request = request_for(&lost, loop, "GET", "http://no-such-host.invalid/");
    call_start(&lost, &request);
    call_wait(&lost);
    assert_true(lost.result.end == HTTP_DNS || lost.result.end == HTTP_TIMEOUT);
    loop_free(loop);
}

static void test_second_address(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}}};
    peer_start(&peer);
    char url[64];
    snprintf(url, sizeof url, "http://two-homed.test:%d/", peer.port);
    struct loop *loop = new_loop();
    struct call call = {0};
    struct http_request request = request_for(&call, loop, "GET", url);
    call_start(&call, &request);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_string_equal(call.body, "hello");
    loop_free(loop);
    peer_join(&peer);
    call_free(&call);
    peer_free(&peer);
}

static void test_tls_to_a_plain_peer(void **state)
{
    (void)state;
    struct peer peer = {.script = {{">HTTP/1.1 400 Bad\r\n\r\n", "~50"}}};
    peer_start(&peer);
    char url[64];
    snprintf(url, sizeof url, "https://127.0.0.1:%d/", peer.port);
    struct loop *loop = new_loop();
    struct call call = {0};
    struct http_request request = request_for(&call, loop, "GET", url);
    call_start(&call, &request);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_TLS);
    assert_int_equal(call.asked, 0);
    struct call bad = {0};
    request = request_for(&bad, loop, "GET", url);
    request.ca_file = "/nonexistent/ca.pem";
    call_start(&bad, &request);
    call_wait(&bad);
    assert_true(bad.result.end == HTTP_TLS || bad.result.end == HTTP_CONNECT);
    loop_free(loop);
    peer_join(&peer);
    peer_free(&peer);
}

/* ---- the surroundings ---- */

static void test_environment_is_ignored(void **state)
{
    (void)state;
    static const char *const names[] = {"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"};
    struct peer proxy = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}}};
    peer_start(&proxy);
    char home[] = "/tmp/deputy-net-XXXXXX", netrc[64];
    assert_non_null(mkdtemp(home));
    snprintf(netrc, sizeof netrc, "%s/.netrc", home);
    FILE *file = fopen(netrc, "w");
    assert_non_null(file);
    fputs("machine 127.0.0.1 login me password hunter2\ndefault login me password hunter2\n", file);
    fclose(file);
    chmod(netrc, 0600);
    char *old_home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    setenv("HOME", home, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        setenv(names[i], url_of(&proxy, "/"), 1);

    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}}};
    struct call call = exchange("GET", &peer, 0, 1500);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_non_null(strstr(peer.seen, "GET /x HTTP/1.1\r\n"));
    assert_null(strstr(peer.seen, "Authorization"));

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    if (old_home)
        setenv("HOME", old_home, 1);
    free(old_home);
    unlink(netrc);
    rmdir(home);
    peer_join(&proxy);
    assert_int_equal(proxy.connections, 0);
    peer_free(&proxy);
    peer_free(&peer);
}

static int try_start(struct loop *loop, struct http_request request, deputy_error *error)
{
    struct http_transfer *transfer = (void *)1;
    int code = http_start(loop, &request, &transfer, error);
    assert_null(transfer);
    return code;
}

static void test_refused_before_any_io(void **state)
{
    (void)state;
    struct peer peer = {0};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call call = {0};
    deputy_error error;
    const deputy_header bad[] = {{"X-Secret", "s3cret\r\nEvil: 1"},
                                 {"X-Secret", "s3cret\n"},
                                 {"Na me", "x"},
                                 {"", "x"},
                                 {"Na\r\nme", "x"},
                                 {"X:", "x"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
        request.headers = &bad[i];
        request.n_headers = 1;
        assert_int_equal(try_start(loop, request, &error), DEPUTY_EINVAL);
        assert_null(strstr(error.message, "s3cret"));
        if (i < 2)
            assert_non_null(strstr(error.message, "X-Secret"));
    }
    char huge[8200];
    memset(huge, 'a', sizeof huge);
    huge[8193] = '\0';
    const char *const tokens[] = {"s3cret\r\nEvil: 1", "s3cret ", "s3cret\xc3\xa4", "", huge};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
        request.bearer = tokens[i];
        assert_int_equal(try_start(loop, request, &error), DEPUTY_EINVAL);
        assert_null(strstr(error.message, "s3cret"));
        assert_non_null(strstr(error.message, "token"));
    }
    const char *const urls[] = {"",
                                "ftp://127.0.0.1/",
                                "file:///etc/passwd",
                                "127.0.0.1/",
                                "http://",
                                "http:///x",
                                "http:/127.0.0.1/",
                                "http://u:s3cret@127.0.0.1/",
                                "http://127.0.0.1/\r\nHost: x",
                                "http://127.0.0.1:99999/?s3cret"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        assert_int_equal(try_start(loop, request_for(&call, loop, "GET", urls[i]), &error), DEPUTY_EINVAL);
        assert_null(strstr(error.message, "s3cret"));
    }
    assert_int_equal(try_start(loop, request_for(&call, loop, "GE T", url_of(&peer, "/")), &error), DEPUTY_EINVAL);
    assert_int_equal(try_start(loop, request_for(&call, loop, "", url_of(&peer, "/")), &error), DEPUTY_EINVAL);
    for (int i = 0; i < 5; i++)
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    assert_int_equal(call.ends, 0);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(peer.connections, 0);
    peer_free(&peer);
}

/* ---- what goes out ---- */

static void test_request_bytes(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call call = {0};
    const deputy_header headers[] = {{"X-Empty", ""},          {"X-Blank", "  "}, {"X-One", " 1 "},
                                     {"Content-Length", "99"}, {"Expect", "x"},   {"Authorization", "Basic stolen"}};
    struct http_request request = request_for(&call, loop, "POST", url_of(&peer, "/a/../b?c=d"));
    request.headers = headers;
    request.n_headers = sizeof headers / sizeof *headers;
    request.bearer = "tok";
    request.body[0] = (struct http_span){"{\"model\":", 9};
    request.body[1] = (struct http_span){"\"m\"", 3};
    request.body[2] = (struct http_span){"}", 1};
    call_start(&call, &request);
    call_wait(&call);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    char expected[512];
    snprintf(expected, sizeof expected,
             "POST /a/../b?c=d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\nX-Empty:\r\nX-Blank:\r\nX-One: 1\r\n"
             "Authorization: Bearer tok\r\nUser-Agent: deputy/%s\r\nAccept-Encoding: identity\r\nContent-Length: 13"
             "\r\n\r\n{\"model\":\"m\"}",
             peer.port, DEPUTY_VERSION);
    assert_string_equal(peer.seen, expected);
    peer_free(&peer);
}

static void fill(char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)('a' + (i * 7 + i / 251) % 26);
}

/* Large bodies, also over a connection that died while it was kept: a POST is not sent a second time by itself (the
 * server may have acted on it); whoever asked may ask again, and then the body goes from its start. */
static void test_large_body(void **state)
{
    (void)state;
    enum { LARGE = 1 << 20 };
    char *large = malloc(LARGE);
    fill(large, LARGE);
    static const char ok[] = ">HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    struct peer peer = {.script = {{"<", ok, "<", "!"}, {"$"}, {"<", ok, "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call first = {0}, lost = {0}, call = {0};
    struct http_request request = request_for(&first, loop, "POST", url_of(&peer, "/"));
    call_start(&first, &request);
    call_wait(&first);
    assert_int_equal(first.result.end, HTTP_COMPLETE);
    struct call *calls[] = {&lost, &call};
    for (int i = 0; i < 2; i++) {
        request = request_for(calls[i], loop, "POST", url_of(&peer, "/"));
        request.body[0] = (struct http_span){large, 400001};
        request.body[1] = (struct http_span){"\"qwen3\"", 7};
        request.body[2] = (struct http_span){large + 400001, LARGE - 400001};
        call_start(calls[i], &request);
        call_wait(calls[i]);
    }
    assert_int_equal(lost.result.end, HTTP_CONNECT);
    assert_int_equal(lost.asked, 1);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_int_equal(call.asked, 1);
    assert_int_equal(peer.connections, 3);
    const char *body = peer.seen + peer.n_seen - (LARGE + 7);
    assert_memory_equal(body - 4, "\r\n\r\n", 4);
    assert_memory_equal(body, large, 400001);
    assert_memory_equal(body + 400001, "\"qwen3\"", 7);
    assert_memory_equal(body + 400008, large + 400001, LARGE - 400001);
    assert_null(strstr(peer.seen, "Expect"));
    assert_null(strstr(peer.seen, "chunked"));
    free(large);
    call_free(&first);
    call_free(&call);
    peer_free(&peer);
}

static void test_withheld(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "$"}, {"$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    /* first on a connection that is kept, then on it, then on a new one */
    struct call first = {0}, kept = {.withhold = true}, fresh = {.withhold = true};
    struct http_request request = request_for(&first, loop, "GET", url_of(&peer, "/"));
    call_start(&first, &request);
    call_wait(&first);
    request = request_for(&kept, loop, "POST", url_of(&peer, "/kept"));
    request.body[0] = (struct http_span){"secret", 6};
    call_start(&kept, &request);
    call_wait(&kept);
    assert_int_equal(kept.result.end, HTTP_WITHHELD);
    request = request_for(&fresh, loop, "POST", url_of(&peer, "/fresh"));
    request.fresh = true;
    call_start(&fresh, &request);
    call_wait(&fresh);
    assert_int_equal(fresh.result.end, HTTP_WITHHELD);
    assert_int_equal(kept.asked, 1);
    assert_int_equal(fresh.asked, 1);
    loop_free(loop);
    peer_wait(&peer, 2);
    peer_join(&peer);
    assert_int_equal(peer.connections, 2);
    assert_null(strstr(peer.seen, "POST"));
    assert_null(strstr(peer.seen, "secret"));
    assert_string_equal(strstr(peer.seen, "\r\n\r\n"), "\r\n\r\n");
    call_free(&first);
    peer_free(&peer);
}

static void test_connections(void **state)
{
    (void)state;
    static const char ok[] = ">HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (int fresh = 0; fresh < 2; fresh++) {
        struct peer peer = {.script = {{"<", ok, "<", ok, "$"}, {"<", ok, "$"}}};
        if (fresh)
            peer.script[0][2] = "$", peer.script[0][3] = NULL;
        peer_start(&peer);
        struct loop *loop = new_loop();
        for (int i = 0; i < 2; i++) {
            struct call call = {0};
            struct http_request request = request_for(&call, loop, "POST", url_of(&peer, "/"));
            request.fresh = fresh;
            call_start(&call, &request);
            call_wait(&call);
            assert_int_equal(call.result.end, HTTP_COMPLETE);
            assert_string_equal(call.body, "ok");
            call_free(&call);
        }
        loop_free(loop);
        peer_join(&peer);
        assert_int_equal(peer.connections, fresh ? 2 : 1);
        peer_free(&peer);
    }
}

/* ---- holding back, cancelling, starting from inside ---- */

static void test_pause_and_resume(void **state)
{
    (void)state;
    static const char *const replies[] = {
        ">HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
        ">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
        ">HTTP/1.1 200 OK\r\n\r\nhello, world",
    };
    for (size_t i = 0; i < 6; i++) {
        struct peer peer = {.script = {{"<", replies[i % 3]}}};
        peer_start(&peer);
        struct loop *loop = new_loop();
        struct call call = {.pause_at_most = 3, .resume_inside = i >= 3};
        struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
        call_start(&call, &request);
        http_resume(call.transfer); /* too early: nothing happens */
        do {
            call_wait(&call);
            if (call.hold) {
                uint64_t until = loop_now_us() + 20000;
                while (loop_now_us() < until)
                    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
                assert_int_equal(call.ends, 0);
                call.hold = false;
                int before = call.pauses;
                http_resume(call.transfer);
                assert_int_equal(call.pauses, before);
                assert_int_equal(call.len, 0);
            }
        } while (!call.ends);
        assert_int_equal(call.result.end, HTTP_COMPLETE);
        assert_int_equal(call.pauses, 3);
        assert_string_equal(call.body, "hello, world");
        loop_free(loop);
        peer_join(&peer);
        call_free(&call);
        peer_free(&peer);
    }
}

/* While a reader holds a large reply back, no more than a little of it is taken from the socket. */
static void test_pause_of_a_large_reply(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "=1000000", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call call = {.pause_at_most = 20};
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
    call_start(&call, &request);
    while (!call.ends) {
        call_wait(&call);
        call.hold = false;
        if (!call.ends)
            http_resume(call.transfer);
    }
    assert_int_equal(call.result.end, HTTP_COMPLETE);
    assert_int_equal(call.len, 1000000);
    assert_int_equal(call.pauses, 20);
    loop_free(loop);
    peer_join(&peer);
    call_free(&call);
    peer_free(&peer);
}

static void test_a_stop_after_a_pause(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call call = {.pause_at_most = 1};
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
    call_start(&call, &request);
    call_wait(&call);
    assert_true(call.hold);
    call.hold = false;
    call.stop = true;
    http_resume(call.transfer);
    assert_int_equal(call.ends, 0);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_STOPPED);
    loop_free(loop);
    peer_join(&peer);
    peer_free(&peer);
}

static void test_stop(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call call = {.stop = true};
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
    call_start(&call, &request);
    call_wait(&call);
    assert_int_equal(call.result.end, HTTP_STOPPED);
    assert_int_equal(call.result.status, 200);
    loop_free(loop);
    peer_join(&peer);
    peer_free(&peer);
}

static void test_cancel_at_any_moment(void **state)
{
    (void)state;
    for (int moment = 0; moment < 6; moment++) {
        struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello", "$"}}};
        peer_start(&peer);
        struct loop *loop = new_loop();
        struct call call = {.cancel_at_head = moment == 1,
                            .cancel_at_bytes = moment == 2,
                            .pause_at_most = moment == 4 || moment == 5 ? 1 : 0};
        struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
        call_start(&call, &request);
        if (moment == 1 || moment == 2 || moment >= 4)
            call_wait(&call);
        else if (moment == 3) /* under way */
            while (call.heads == 0)
                uv_run(loop_uv(loop), UV_RUN_ONCE);
        if (moment == 5)
            http_resume(call.transfer);
        if (!call.cancelled) {
            call.cancelled = true;
            http_cancel(call.transfer);
        }
        for (int i = 0; i < 5; i++)
            uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        assert_int_equal(call.ends, 0);
        loop_free(loop);
        peer_join(&peer);
        call_free(&call);
        peer_free(&peer);
    }
    http_cancel(NULL);
}

static void test_start_from_inside(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"},
                                   {"<", ">HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call second = {0};
    struct http_request second_request = request_for(&second, loop, "GET", url_of(&peer, "/2"));
    struct call first = {.other = &second, .other_request = &second_request};
    struct http_request request = request_for(&first, loop, "GET", url_of(&peer, "/1"));
    call_start(&first, &request);
    call_wait(&first);
    call_wait(&second);
    assert_string_equal(first.body, "first");
    assert_string_equal(second.body, "second");

    loop_free(loop);
    peer_join(&peer);
    call_free(&first);
    call_free(&second);
    peer_free(&peer);
}

static void count_turn(uv_prepare_t *prepare)
{
    ++*(int *)prepare->data;
}

static void do_nothing(uv_timer_t *timer)
{
    (void)timer;
}

static void note_event(uv_poll_t *poll, int status, int events)
{
    *(int *)poll->data = status == 0 ? events : status;
    uv_poll_stop(poll);
}

/* Turns the loop for 30 ms; how often it woke. */
static int turns_of(struct loop *loop)
{
    uv_prepare_t prepare;
    uv_timer_t timer;
    int turns = 0;
    uv_prepare_init(loop_uv(loop), &prepare);
    uv_timer_init(loop_uv(loop), &timer);
    prepare.data = &turns;
    uv_prepare_start(&prepare, count_turn);
    uv_unref((uv_handle_t *)&prepare);
    uv_timer_start(&timer, do_nothing, 30, 0);
    uv_run(loop_uv(loop), UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&prepare, NULL);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    return turns;
}

/* A kept connection stays watched: that the server closes it wakes the loop once. The number of a descriptor that was
 * closed is anybody's. */
static void test_sockets_that_are_closed(void **state)
{
    (void)state;
    static const char ok[] = ">HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    struct peer peer = {.script = {{"<", ok}, {"<", ok, "$"}, {"<", ok, "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call calls[3] = {0};
    for (int i = 0; i < 3; i++) {
        struct http_request request = request_for(&calls[i], loop, "GET", url_of(&peer, "/"));
        request.fresh = i == 1;
        call_start(&calls[i], &request);
        call_wait(&calls[i]);
        assert_int_equal(calls[i].result.end, HTTP_COMPLETE);
        assert_true(turns_of(loop) < 10);
        int pair[2], seen = 0;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(write(pair[1], "x", 1), 1);
        uv_poll_t own;
        assert_int_equal(uv_poll_init(loop_uv(loop), &own, pair[0]), 0);
        own.data = &seen;
        assert_int_equal(uv_poll_start(&own, UV_READABLE, note_event), 0);
        turns_of(loop);
        assert_int_equal(seen, UV_READABLE);
        uv_close((uv_handle_t *)&own, NULL);
        turns_of(loop);
        close(pair[0]);
        close(pair[1]);
    }
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(peer.connections, 3);
    for (int i = 0; i < 3; i++)
        call_free(&calls[i]);
    peer_free(&peer);
}

/* ---- the loop ---- */

/* What a server says on a kept connection before it was asked is nobody's answer: least of all one to the next caller's
 * request. No byte of that request goes there, and it is asked once whether it may go. */
static void expect_own_answer(const char *method, const char *late, size_t body, bool turned)
{
    char *large = calloc(1, body + 1);
    memset(large, 'b', body);
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "~20", late, "$"},
                                   {"<", ">HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct call first = {0}, second = {0};
    struct http_request request = request_for(&first, loop, "POST", url_of(&peer, "/first"));
    request.bearer = "alice";
    call_start(&first, &request);
    call_wait(&first);
    assert_string_equal(first.body, "first");
    usleep(60000);
    if (turned)
        turns_of(loop);
    request = request_for(&second, loop, method, url_of(&peer, "/second"));
    request.bearer = "bob";
    request.body[0] = (struct http_span){large, body};
    call_start(&second, &request);
    call_wait(&second);
    assert_int_equal(second.result.end, HTTP_COMPLETE);
    assert_string_equal(second.body, "second");
    assert_int_equal(second.asked, 1);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(peer.connections, 2);
    const char *once = strstr(peer.seen, "/second");
    assert_non_null(once);
    assert_null(strstr(once + 1, "/second"));
    call_free(&first);
    call_free(&second);
    peer_free(&peer);
    free(large);
}

static void test_an_answer_before_the_question(void **state)
{
    (void)state;
    static const char *const late[] = {">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice",
                                       ">HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", ">H"};
    for (size_t i = 0; i < sizeof late / sizeof late[0]; i++)
        for (int turned = 0; turned < 2; turned++) {
            expect_own_answer("POST", late[i], 6, turned);
            expect_own_answer("POST", late[i], 1 << 20, turned);
            expect_own_answer("GET", late[i], 0, turned);
        }
}

static void test_lent_loop(void **state)
{
    (void)state;
    uv_loop_t uv;
    struct loop *loop;
    assert_int_equal(uv_loop_init(&uv), 0);
    assert_int_equal(loop_new(&uv, &loop), DEPUTY_OK);
    assert_true(loop_is_lent(loop));
    assert_ptr_equal(loop_uv(loop), &uv);
    assert_int_equal(uv_run(&uv, UV_RUN_DEFAULT), 0); /* idle, it keeps nothing alive */
    struct peer peer = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "$"}}};
    peer_start(&peer);
    struct call call = {0};
    struct http_request request = request_for(&call, loop, "GET", url_of(&peer, "/"));
    call_start(&call, &request);
    uv_run(&uv, UV_RUN_DEFAULT); /* returns by itself, though the connection is kept */
    assert_int_equal(call.ends, 1);
    assert_string_equal(call.body, "hello");
    uv_timer_t hosts;
    uv_timer_init(&uv, &hosts);
    loop_free(loop);
    uv_close((uv_handle_t *)&hosts, NULL);
    uv_run(&uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&uv), 0);
    peer_join(&peer);
    call_free(&call);
    peer_free(&peer);
    loop_free(NULL);
}

/* Our end of a connection to that port. */
static int socket_to(int port)
{
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_in address;
        socklen_t size = sizeof address;
        if (getpeername(fd, (struct sockaddr *)&address, &size) == 0 && address.sin_family == AF_INET &&
            ntohs(address.sin_port) == port)
            return fd;
    }
    fail_msg("no connection to port %d", port);
    return -1;
}

/* Takes what is free below this number, so that it is the next one. */
static size_t fill_below(int number, int *held, size_t most)
{
    size_t n = 0;
    int fd;
    while ((fd = dup(2)) >= 0 && fd < number && n < most)
        held[n++] = fd;
    assert_int_equal(fd, number);
    close(fd);
    return n;
}

/* A descriptor that the first has closed may be the second's when the first is freed: its number comes again. */
static void test_two_on_a_lent_loop(void **state)
{
    (void)state;
    uv_loop_t uv;
    struct loop *first, *second;
    int held[64];
    assert_int_equal(uv_loop_init(&uv), 0);
    assert_int_equal(loop_new(&uv, &first), DEPUTY_OK);
    assert_int_equal(loop_new(&uv, &second), DEPUTY_OK);
    /* the last wait: an accept takes a number before it waits, and must not take that one */
    struct peer one = {.script = {{"<", "~50", ">HTTP/1.1 204 No Content\r\n\r\n", "$", "~300"}}};
    struct peer two = {.script = {{"<", ">HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "~400", ">world", "$"}}};
    peer_start(&one);
    peer_start(&two);
    struct call calls[2] = {{0}};
    struct http_request request = request_for(&calls[0], first, "GET", url_of(&one, "/"));
    request.fresh = true;
    call_start(&calls[0], &request);
    while (!calls[0].asked)
        uv_run(&uv, UV_RUN_ONCE);
    int number = socket_to(one.port);
    call_wait(&calls[0]);
    size_t n_held = fill_below(number, held, sizeof held / sizeof held[0]);
    request = request_for(&calls[1], second, "GET", url_of(&two, "/"));
    request.connect_ms = request.total_ms; /* at a deadline libcurl looks at the socket unasked */
    call_start(&calls[1], &request);
    while (calls[1].len < 5)
        uv_run(&uv, UV_RUN_ONCE);
    assert_int_equal(socket_to(two.port), number);
    loop_free(first);
    call_wait(&calls[1]);
    assert_int_equal(calls[1].result.end, HTTP_COMPLETE);
    assert_string_equal(calls[1].body, "helloworld");
    loop_free(second);
    assert_int_equal(uv_loop_close(&uv), 0);
    while (n_held > 0)
        close(held[--n_held]);
    for (int i = 0; i < 2; i++) {
        peer_join(i ? &two : &one);
        call_free(&calls[i]);
        peer_free(i ? &two : &one);
    }
}

static void test_many_at_once(void **state)
{
    (void)state;
    enum { MANY = 100 };
    struct peer peer = {0};
    peer.fd = listen_any(&peer.port); /* nobody accepts: they all wait */
    listen(peer.fd, MANY);
    struct loop *loop = new_loop();
    struct call *calls = calloc(MANY, sizeof *calls);
    for (int i = 0; i < MANY; i++) {
        struct http_request request = request_for(&calls[i], loop, "GET", url_of(&peer, "/"));
        request.total_ms = i < MANY / 2 ? 100 : 0;
        call_start(&calls[i], &request);
    }
    for (int i = 0; i < MANY / 2; i++) {
        call_wait(&calls[i]);
        assert_int_equal(calls[i].result.end, HTTP_TIMEOUT);
    }
    for (int i = MANY / 2; i < MANY; i++) {
        assert_int_equal(calls[i].ends, 0);
        calls[i].cancelled = true;
        http_cancel(calls[i].transfer);
    }
    loop_free(loop);
    close(peer.fd);
    free(calls);
}

/* ---- the probe ---- */

struct asked {
    deputy_probe_answer answer;
    int answers;
};

static void on_answer(void *user, const deputy_probe_answer *answer)
{
    struct asked *asked = user;
    asked->answer = *answer;
    asked->answers++;
}

static struct probe_request probe_for(const char *central, struct asked *asked)
{
    return (struct probe_request){.central_url = central,
                                  .path = "/api/v1/llms/{llm}",
                                  .llm = "claude",
                                  .token = "tok",
                                  .connect_ms = 500,
                                  .timeout_ms = 1000,
                                  .user = asked,
                                  .on_answer = on_answer};
}

static deputy_probe_answer ask(struct loop *loop, struct probe_request request)
{
    struct asked *asked = request.user;
    struct probe *probe;
    deputy_probe_answer answer;
    *asked = (struct asked){0};
    assert_int_equal(probe_start(loop, &request, &probe, &answer), DEPUTY_OK);
    assert_int_equal(asked->answers, 0);
    if (!probe)
        return answer;
    uint64_t limit = loop_now_us() + 5000000;
    while (!asked->answers && loop_now_us() < limit)
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    assert_int_equal(asked->answers, 1);
    return asked->answer;
}

/* A body that comes late after HEAD must not be taken for the next answer. */
static void test_probe_late_body(void **state)
{
    (void)state;
    struct peer peer = {
        .script = {{"<", ">HTTP/1.1 403 No\r\nContent-Type: Text/HTML ; charset=x\r\nContent-Length: 40\r\n\r\n", "~30",
                    ">HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "$"},
                   {"<", ">HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "$"},
                   {"<", ">HTTP/1.1 204 Yes\r\n\r\n", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct asked asked;
    struct probe_request request = probe_for(url_of(&peer, ""), &asked);
    deputy_probe_answer answer = ask(loop, request);
    assert_int_equal(answer.kind, DEPUTY_PROBE_OK);
    assert_int_equal(answer.status, 403);
    assert_string_equal(answer.content_type, "text/html");
    assert_true(answer.us > 0);
    answer = ask(loop, request);
    assert_int_equal(answer.status, 401);
    assert_string_equal(answer.content_type, "");
    answer = ask(loop, request);
    assert_int_equal(answer.status, 204);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(peer.connections, 3);
    char expected[256];
    snprintf(expected, sizeof expected,
             "HEAD /api/v1/llms/claude HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\nAuthorization: Bearer tok\r\n"
             "User-Agent: deputy/%s\r\nConnection: close\r\n\r\n",
             peer.port, DEPUTY_VERSION);
    assert_memory_equal(peer.seen, expected, strlen(expected));
    peer_free(&peer);
}

static void test_probe_without_io(void **state)
{
    (void)state;
    struct peer peer = {0};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct asked asked;
    static const char *const tokens[] = {NULL, "", "a b", "tok\r\n", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        struct probe_request request = probe_for(url_of(&peer, ""), &asked);
        request.token = tokens[i];
        assert_int_equal(ask(loop, request).kind, DEPUTY_PROBE_NO_TOKEN);
    }
    char longest[140];
    memset(longest, 'n', sizeof longest);
    longest[129] = '\0';
    const char *const names[] = {NULL, "", ".", "..", "a\r\nb", "a\nHost: x", longest};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct probe_request request = probe_for(url_of(&peer, ""), &asked);
        request.llm = names[i];
        assert_int_equal(ask(loop, request).kind, DEPUTY_PROBE_PROTOCOL);
    }
    struct probe_request request = probe_for(NULL, &asked);
    assert_int_equal(ask(loop, request).kind, DEPUTY_PROBE_CONNECT);
    request = probe_for("ftp://127.0.0.1", &asked);
    assert_int_equal(ask(loop, request).kind, DEPUTY_PROBE_PROTOCOL);
    loop_free(loop);
    peer_join(&peer);
    assert_int_equal(peer.connections, 0);
    peer_free(&peer);
}

static deputy_probe_answer probe_by(bool get, const char *a, const char *b, const char *c)
{
    struct peer peer = {.script = {{"<", a, b, c}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct asked asked;
    struct probe_request request = probe_for(url_of(&peer, "/"), &asked);
    request.timeout_ms = 300;
    request.llm = "a/b c";
    request.get = get;
    deputy_probe_answer answer = ask(loop, request);
    loop_free(loop);
    peer_join(&peer);
    assert_non_null(strstr(peer.seen, get ? "GET /api/v1/llms/a%2Fb%20c HTTP/1.1\r\n"
                                          : "HEAD /api/v1/llms/a%2Fb%20c HTTP/1.1\r\n"));
    peer_free(&peer);
    if (answer.kind != DEPUTY_PROBE_OK)
        assert_int_equal(answer.status, 0);
    return answer;
}

static deputy_probe_answer probe_reply(const char *a, const char *b, const char *c)
{
    return probe_by(false, a, b, c);
}

/* A yes with a body counts when the body is whole and its end is known, and it is not read without end. */
static void test_probe_bodies(void **state)
{
    static char bodies[4][66000];
    static const struct {
        const char *head;
        size_t len;
        deputy_probe_kind kind;
    } cases[] = {
        {">HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n", 65536, DEPUTY_PROBE_OK},
        {">HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", 65537, DEPUTY_PROBE_LIMIT},
        {">HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 2, DEPUTY_PROBE_PROTOCOL},
        {">HTTP/1.1 200 OK\r\n\r\n", 2, DEPUTY_PROBE_PROTOCOL}, /* who knows whether that is all of it */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        bodies[i][0] = '>';
        memset(bodies[i] + 1, 'x', cases[i].len);
        deputy_probe_answer answer = probe_by(true, cases[i].head, bodies[i], NULL);
        assert_int_equal(answer.kind, cases[i].kind);
        assert_int_equal(answer.status, answer.kind == DEPUTY_PROBE_OK ? 200 : 0);
    }
}

static void test_probe_kinds(void **state)
{
    (void)state;
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\n", "$", NULL).kind, DEPUTY_PROBE_TIMEOUT);
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\n", NULL, NULL).kind, DEPUTY_PROBE_CONNECT);
    assert_int_equal(probe_reply(NULL, NULL, NULL).kind, DEPUTY_PROBE_CONNECT);
    assert_int_equal(probe_reply("!", NULL, NULL).kind, DEPUTY_PROBE_CONNECT);
    assert_int_equal(probe_reply(">nonsense\r\n\r\n", NULL, NULL).kind, DEPUTY_PROBE_PROTOCOL);
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\n", "#100", ">\r\n").kind, DEPUTY_PROBE_LIMIT);
    assert_int_equal(
        probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Type: application/json\r\n\r\n", NULL, NULL)
            .kind,
        DEPUTY_PROBE_PROTOCOL);
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: a/b, text/html\r\n\r\n", NULL, NULL).kind,
                     DEPUTY_PROBE_PROTOCOL);
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: a/b; x=\"y, text/html\r\n\r\n", NULL, NULL).kind,
                     DEPUTY_PROBE_PROTOCOL);
    /* what a proxy makes of two fields (RFC 9110 section 5.3) */
    assert_int_equal(
        probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: a/b; x=\"y\\\"\", text/html\r\n\r\n", NULL, NULL).kind,
        DEPUTY_PROBE_PROTOCOL);
    assert_int_equal(probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: a/b; x=\"y, \\\", z\"\r\n\r\n", NULL, NULL).kind,
                     DEPUTY_PROBE_OK);
    deputy_probe_answer answer = probe_reply(">HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", NULL, NULL);
    assert_int_equal(answer.kind, DEPUTY_PROBE_OK);
    assert_int_equal(answer.status, 200);
    answer = probe_reply(">HTTP/1.1 200 OK\r\nContent-Type: "
                         "A/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n\r\n",
                         NULL, NULL);
    assert_int_equal(strlen(answer.content_type), 63);
}

static void test_probe_cancel(void **state)
{
    (void)state;
    struct peer peer = {.script = {{"<", "$"}}};
    peer_start(&peer);
    struct loop *loop = new_loop();
    struct asked asked = {0};
    struct probe_request request = probe_for(url_of(&peer, ""), &asked);
    struct probe *probe;
    deputy_probe_answer answer;
    assert_int_equal(probe_start(loop, &request, &probe, &answer), DEPUTY_OK);
    assert_non_null(probe);
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    probe_cancel(probe);
    probe_cancel(NULL);
    for (int i = 0; i < 3; i++)
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    assert_int_equal(asked.answers, 0);
    loop_free(loop);
    peer_join(&peer);
    peer_free(&peer);
}

/* ---- URLs ---- */

static void test_url_names(void **state)
{
    (void)state;
    deputy_error error;
    assert_int_equal(url_name_check("LLM", "a/b", NULL), DEPUTY_OK);
    assert_int_equal(url_name_check("LLM", "...", NULL), DEPUTY_OK);
    assert_int_equal(url_name_check("LLM", "", &error), DEPUTY_EINVAL);
    assert_int_equal(url_name_check("LLM", NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(url_name_check("LLM", ".", &error), DEPUTY_EINVAL);
    assert_int_equal(url_name_check("LLM", "..", &error), DEPUTY_EINVAL);
    assert_non_null(strstr(error.message, "LLM"));
    assert_int_equal(url_name_check("LLM", "a\x7f", &error), DEPUTY_EINVAL);
    assert_int_equal(url_name_check("LLM", "a\n", &error), DEPUTY_EINVAL);
    char name[130];
    memset(name, 'x', sizeof name);
    name[129] = '\0';
    assert_int_equal(url_name_check("LLM", name, &error), DEPUTY_EINVAL);
    name[128] = '\0';
    assert_int_equal(url_name_check("LLM", name, &error), DEPUTY_OK);
    char token[8194];
    memset(token, '~', sizeof token);
    token[8193] = '\0';
    assert_false(url_token_ok(token));
    token[8192] = '\0';
    assert_true(url_token_ok(token));
}

static void test_url_bases(void **state)
{
    (void)state;
    static const char *const good[] = {"http://a", "https://a.example:8443/x/y/", "http://[::1]:80",
                                       "HTTP://127.0.0.1/"};
    static const char *const bad[] = {
        "",           "a",          "ftp://a",        "http://",    "http:///a",    "http:/a",
        "http:a",     "http://a?b", "http://a#b",     "http://u@a", "http://u:p@a", "http://a b",
        "http://a\n", "http://a:x", "http://a:70000", "//a",        "http://[::1",  "http://a\\b",
        "http://@a",  "http://:80"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        deputy_error error = {0};
        if (url_base_check("central.url", good[i], &error) != DEPUTY_OK)
            fail_msg("%s", error.message);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        deputy_error error = {0};
        if (url_base_check("central.url", bad[i], &error) != DEPUTY_EINVAL)
            fail_msg("%s was taken", bad[i]);
        assert_non_null(strstr(error.message, "central.url"));
    }
}

static void expand(const char *base, const char *path, const char *llm, const char *endpoint, const char *expected)
{
    char *url = (char *)1;
    deputy_error error = {0};
    int code = url_expand(base, path, llm, endpoint, &url, &error);
    if (expected) {
        if (code != DEPUTY_OK)
            fail_msg("%s: %s", path, error.message);
        assert_string_equal(url, expected);
    } else {
        if (code != DEPUTY_EINVAL)
            fail_msg("%s %s %s was taken: %s", path, llm ? llm : "-", endpoint ? endpoint : "-", url);
        assert_null(url);
        assert_true(error.message[0]);
    }
    free(url);
}

static void test_url_expand(void **state)
{
    (void)state;
    static const char llm[] = "/api/v1/llms/{llm}", any[] = "/v1/{endpoint}";
    expand("http://h:1", llm, "claude", NULL, "http://h:1/api/v1/llms/claude");
    expand("http://h:1/", llm, "claude", NULL, "http://h:1/api/v1/llms/claude");
    expand("http://h:1/p/", "a/{llm}/infer", "x", NULL, "http://h:1/p/a/x/infer");
    expand(
        "http://h", llm, "a/b?c#d%2e&=+;:@ \"<>{}|\\^`'()*!$,[]~._-\xc3\xa4", NULL,
        "http://h/api/v1/llms/a%2Fb%3Fc%23d%252e%26%3D%2B%3B%3A%40%20%22%3C%3E%7B%7D%7C%5C%5E%60%27%28%29%2A%21%24%2C"
        "%5B%5D~._-%C3%A4");
    expand("http://h", any, NULL, "chat/completions", "http://h/v1/chat/completions");
    expand("http://h", any, NULL, "a b/c?d", "http://h/v1/a%20b/c%3Fd");
    expand("http://h", "/x?m={llm}", "q w", NULL, "http://h/x?m=q%20w");
    expand("http://h", "/plain", NULL, NULL, "http://h/plain");
    expand("http://h", llm, "..", NULL, NULL);
    expand("http://h", llm, NULL, NULL, NULL);
    expand("http://h", llm, "", NULL, NULL);
    expand("http://h", any, NULL, NULL, NULL);
    expand("http://h", any, NULL, "", NULL);
    expand("http://h", any, NULL, "/a", NULL);
    expand("http://h", any, NULL, "a/", NULL);
    expand("http://h", any, NULL, "a//b", NULL);
    expand("http://h", any, NULL, "a/../b", NULL);
    expand("http://h", any, NULL, "./a", NULL);
    expand("http://h", any, NULL, "a\nb", NULL);
    expand("http://h", "/a/../{llm}", "x", NULL, NULL);
    expand("http://h/..", llm, "x", NULL, NULL);
    expand("http://h", "/{model}", "x", NULL, NULL);
    expand("http://h", "/x}", "x", NULL, NULL);
    expand("http://h", "/a b", "x", NULL, NULL);
    expand("http://h", "/a#b", "x", NULL, NULL);
    expand("http://h", NULL, "x", NULL, NULL);
    expand("http://h?x", llm, "x", NULL, NULL);
}

static void redact(const char *url, const char *expected)
{
    char out[64];
    url_redact(url, out, sizeof out);
    assert_string_equal(out, expected);
}

static void test_url_redact(void **state)
{
    (void)state;
    redact("http://u:p@h:1/a?k=v#f", "http://h:1/a");
    redact("https://h/a/b", "https://h/a/b");
    redact("http://tok@en@h/", "http://h/");
    redact("http://u:p?x@h/", "(an unreadable URL)");
    redact("http://u:1?x@h/", "(an unreadable URL)");
    redact("http://u:p/x@h/", "(an unreadable URL)");
    redact("http://[::1]:80/a", "http://[::1]:80/a");
    redact("h:80/a?b", "h:80/a");
    redact("u:p@h", "h");
    redact("", "(an unreadable URL)");
    redact("http://h/a\r\nb", "http://h/a??b");
    char small[6];
    url_redact("http://h", small, sizeof small);
    assert_string_equal(small, "http:");
    url_redact("http://h", small, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framings),
        cmocka_unit_test(test_interim_heads),
        cmocka_unit_test(test_redirect_is_an_answer),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_a_reset_after_a_whole_reply),
        cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_stall_while_connecting),
        cmocka_unit_test(test_header_bombs),
        cmocka_unit_test(test_what_is_not_http),
        cmocka_unit_test(test_refused_port_and_unknown_host),
        cmocka_unit_test(test_second_address),
        cmocka_unit_test(test_tls_to_a_plain_peer),
        cmocka_unit_test(test_environment_is_ignored),
        cmocka_unit_test(test_refused_before_any_io),
        cmocka_unit_test(test_request_bytes),
        cmocka_unit_test(test_large_body),
        cmocka_unit_test(test_withheld),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_pause_of_a_large_reply),
        cmocka_unit_test(test_a_stop_after_a_pause),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_cancel_at_any_moment),
        cmocka_unit_test(test_start_from_inside),
        cmocka_unit_test(test_sockets_that_are_closed),
        cmocka_unit_test(test_an_answer_before_the_question),
        cmocka_unit_test(test_lent_loop),
        cmocka_unit_test(test_two_on_a_lent_loop),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_probe_late_body),
        cmocka_unit_test(test_probe_without_io),
        cmocka_unit_test(test_probe_kinds),
        cmocka_unit_test(test_probe_bodies),
        cmocka_unit_test(test_probe_cancel),
        cmocka_unit_test(test_url_names),
        cmocka_unit_test(test_url_bases),
        cmocka_unit_test(test_url_expand),
        cmocka_unit_test(test_url_redact),
    };
    return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
