#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "http1/connection.h"

enum {
    ACCEPTS_A_TURN = 16,
    BACKLOG = 1024,
    LINGER_MS = 2000,
    ABORT_TURN_MS = 10,
    PAUSE_MS = 100,
    SECOND_LOOK_MS = 50,
    DRAIN_READS = 4,
    MAX_HEADER_BYTES = 1 << 30
};

/* ---- deadlines: those of one kind are equally long, so that a list of each is in order by itself --------------------
 */

static void on_timer(uv_timer_t *timer);

static uint64_t duration(const struct http1_server *server, enum deadline kind)
{
    switch (kind) {
    case DEADLINE_HEADER:
        return server->limits.header_ms;
    case DEADLINE_BODY:
        return server->limits.body_ms;
    case DEADLINE_WRITE:
        return server->limits.write_ms;
    case DEADLINE_LINGER:
        return LINGER_MS;
    default:
        return ABORT_TURN_MS;
    }
}

static void arm(struct http1_server *server, uint64_t at)
{
    uint64_t now = uv_now(server->loop);

    if (at < server->armed && !server->closing) {
        server->armed = at;
        uv_timer_start(&server->timer, on_timer, at > now ? at - now : 0, 0);
    }
}

void deadline_clear(struct connection *c)
{
    if (c->deadline_kind != NO_DEADLINE) {
        DL_DELETE2(c->server->deadlines[c->deadline_kind], c, sooner, later);
        c->deadline_kind = NO_DEADLINE;
    }
}

void deadline_set(struct connection *c, enum deadline kind)
{
    struct http1_server *server = c->server;

    deadline_clear(c);
    c->deadline = uv_now(server->loop) + duration(server, kind);
    c->deadline_kind = (uint8_t)kind;
    DL_APPEND2(server->deadlines[kind], c, sooner, later);
    arm(server, c->deadline);
}

static void listen_again(struct http1_server *server);

static void on_timer(uv_timer_t *timer)
{
    struct http1_server *server = timer->data;
    uint64_t now = uv_now(server->loop);

    server->armed = UINT64_MAX;
    listen_again(server);
    for (int kind = 0; kind < DEADLINES; kind++) {
        struct connection *c;

        while ((c = server->deadlines[kind]) && c->deadline <= now) {
            deadline_clear(c);
            connection_timeout(c);
        }
        if (c) {
            arm(server, c->deadline);
        }
    }
}

/* ---- what is to be done before the loop sleeps
 * ------------------------------------------------------------------------ */

static void on_prepare(uv_prepare_t *prepare)
{
    struct http1_server *server = prepare->data;
    struct connection *c;

    while ((c = server->pending)) {
        pending_remove(c);
        connection_settle(c);
    }
    uv_prepare_stop(prepare);
}

void pending_add(struct connection *c)
{
    struct http1_server *server = c->server;

    if (c->pending || c->phase == PHASE_CLOSED) {
        return;
    }
    c->pending = true;
    DL_APPEND2(server->pending, c, pending_prev, pending_next);
    if (!server->closing) {
        uv_prepare_start(&server->prepare, on_prepare);
    }
}

void pending_remove(struct connection *c)
{
    if (c->pending) {
        c->pending = false;
        DL_DELETE2(c->server->pending, c, pending_prev, pending_next);
    }
}

/* ---- accepting
 * ---------------------------------------------------------------------------------------------------------- */

/* In one go and without memory: the socket's own buffer takes so few bytes. */
static void turn_away(struct http1_server *server, int fd)
{
    char text[REFUSAL_SIZE];
    size_t len = refusal_text(server, REFUSAL_CONNECTIONS, true, text);

    count_refusal(server, REFUSAL_CONNECTIONS);
    if (send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
        shutdown(fd, SHUT_WR);
        for (int i = 0; i < DRAIN_READS && recv(fd, server->read, READ_SIZE, MSG_DONTWAIT) > 0; i++) {
        }
    }
    close(fd);
}

static int open_spare(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int accept_one(struct http1_server *server, struct sockaddr_storage *peer, socklen_t *len)
{
    *len = sizeof(*peer);
    return accept4(server->fd, (struct sockaddr *)peer, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* Out of descriptors: one is kept aside to turn callers away with, else they would wait and the loop would spin. */
static void accept_on_spare(struct http1_server *server)
{
    struct sockaddr_storage peer;
    socklen_t len;
    int fd;

    if (server->spare_fd >= 0) {
        close(server->spare_fd);
        fd = accept_one(server, &peer, &len);
        if (fd >= 0) {
            turn_away(server, fd);
        }
        server->spare_fd = open_spare();
    } else {
        server->spare_fd = open_spare();
    }
    if (server->spare_fd < 0) {
        uv_poll_stop(&server->listener);
        server->paused = true;
        arm(server, uv_now(server->loop) + PAUSE_MS);
    }
}

static bool accept_next(struct http1_server *server)
{
    struct sockaddr_storage peer;
    socklen_t len;
    int fd = accept_one(server, &peer, &len);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            accept_on_spare(server);
            return false;
        }
        return errno == ECONNABORTED || errno == EINTR;
    }
    if (atomic_fetch_add(server->limits.connections, 1) >= server->limits.max_connections) {
        atomic_fetch_sub(server->limits.connections, 1);
        turn_away(server, fd);
    } else {
        connection_open(server, fd, (struct sockaddr *)&peer, len);
    }
    return true;
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    struct http1_server *server = poll->data;

    (void)events;
    for (int i = 0; status == 0 && i < ACCEPTS_A_TURN && server->listening && accept_next(server); i++) {
    }
}

static void listen_again(struct http1_server *server)
{
    if (server->paused && server->listening) {
        server->paused = false;
        uv_poll_start(&server->listener, UV_READABLE, on_acceptable);
    }
}

/* ---- the socket
 * --------------------------------------------------------------------------------------------------------- */

struct words {
    char *text;
    size_t size;
};

static int fail(const struct words *words, int code, const char *format, ...)
{
    if (words->text && words->size > 0) {
        va_list list;

        va_start(list, format);
        vsnprintf(words->text, words->size, format, list);
        va_end(list);
    }
    return code;
}

static int fail_errno(const struct words *words, const char *what, const char *address)
{
    int code = uv_translate_sys_error(errno);

    return fail(words, code, "cannot %s %s: %s", what, address, uv_strerror(code));
}

static bool is_live(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)at, sizeof(*at)) != 0 &&
                   (errno == ECONNREFUSED || errno == ENOENT);

    if (fd >= 0) {
        close(fd);
    }
    return !refused;
}

/* Whoever starts at the same time has bound it and not listened yet, or has just put its own in place of the stale one;
 * so it is looked at twice. */
static bool is_stale(const struct sockaddr_un *at, const struct stat *seen)
{
    struct stat now;

    if (is_live(at)) {
        return false;
    }
    nanosleep(&(struct timespec){.tv_nsec = SECOND_LOOK_MS * 1000000L}, NULL);
    if (lstat(at->sun_path, &now) != 0) {
        return true;
    }
    return now.st_dev == seen->st_dev && now.st_ino == seen->st_ino && !is_live(at);
}

static int clear_path(const struct sockaddr_un *at, const char *address, const struct words *words)
{
    struct stat stat;

    if (lstat(at->sun_path, &stat) != 0) {
        return errno == ENOENT ? 0 : fail_errno(words, "look at", address);
    }
    if (!S_ISSOCK(stat.st_mode)) {
        return fail(words, UV_EEXIST,
                    "cannot listen on %s: there is a file that is no socket; remove it or choose "
                    "another path",
                    address);
    }
    if (!is_stale(at, &stat)) {
        return fail(words, UV_EADDRINUSE, "cannot listen on %s: another process listens there", address);
    }
    return unlink(at->sun_path) == 0 || errno == ENOENT ? 0 : fail_errno(words, "replace the stale socket", address);
}

static int bind_unix(struct http1_server *server, int fd, const struct sockaddr_un *at, const char *address,
                     const struct words *words)
{
    struct stat stat;

    /* the mode of the descriptor becomes that of the file, so that it never is wider; chmod is for other kernels */
    if (fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *)at, sizeof(*at)) != 0) {
        return fail_errno(words, "listen on", address);
    }
    if (chmod(at->sun_path, 0600) != 0 || lstat(at->sun_path, &stat) != 0 || listen(fd, BACKLOG) != 0) {
        int code = fail_errno(words, "listen on", address);

        unlink(at->sun_path);
        return code;
    }
    snprintf(server->unix_path, sizeof(server->unix_path), "%s", at->sun_path);
    server->unix_device = stat.st_dev;
    server->unix_inode = stat.st_ino;
    return 0;
}

static int listen_unix(struct http1_server *server, const char *address, const struct words *words)
{
    const char *path = address + strlen("unix:");
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int code;

    if (!*path || strlen(path) >= sizeof(at.sun_path)) {
        return fail(words, UV_EINVAL, "cannot listen on %s: the path of a Unix socket has 1 to %zu bytes", address,
                    sizeof(at.sun_path) - 1);
    }
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    code = clear_path(&at, address, words);
    if (code != 0) {
        return code;
    }
    server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->fd < 0) {
        return fail_errno(words, "listen on", address);
    }
    return bind_unix(server, server->fd, &at, address, words);
}

/* "host:port" or "[v6]:port" in two. */
static bool split(const char *address, char *host, size_t size, const char **port)
{
    const char *colon = strrchr(address, ':'), *from = address, *end = colon;

    if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
        return false;
    }
    if (*address == '[') {
        from++;
        end--;
        if (end <= from || *end != ']') {
            return false;
        }
    } else if (memchr(address, ':', (size_t)(colon - address))) {
        return false;
    }
    if (end == from || (size_t)(end - from) >= size) {
        return false;
    }
    memcpy(host, from, (size_t)(end - from));
    host[end - from] = '\0';
    *port = colon + 1;
    return true;
}

static int listen_at(struct http1_server *server, const struct addrinfo *at, bool reuse_port)
{
    int on = 1;

    server->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->fd < 0) {
        return -1;
    }
    setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if ((!reuse_port || setsockopt(server->fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0) &&
        bind(server->fd, at->ai_addr, at->ai_addrlen) == 0 && listen(server->fd, BACKLOG) == 0) {
        return 0;
    }
    on = errno;
    close(server->fd);
    server->fd = -1;
    errno = on;
    return -1;
}

static int listen_tcp(struct http1_server *server, const char *address, bool reuse_port, const struct words *words)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char host[256];
    const char *port;
    int code;

    if (!split(address, host, sizeof(host), &port) || strlen(port) > 5 || strtoul(port, NULL, 10) > 65535) {
        return fail(words, UV_EINVAL,
                    "cannot listen on %s: expected host:port, [v6]:port or unix:/path with a port up to 65535",
                    address);
    }
    code = getaddrinfo(host, port, &hints, &list);
    if (code != 0) {
        return fail(words, UV_EAI_NONAME, "cannot listen on %s: %s", address, gai_strerror(code));
    }
    code = UV_EADDRNOTAVAIL;
    for (const struct addrinfo *at = list; at && server->fd < 0; at = at->ai_next) {
        code = listen_at(server, at, reuse_port) == 0 ? 0 : fail_errno(words, "listen on", address);
    }
    freeaddrinfo(list);
    return code;
}

static int take_over(struct http1_server *server, int fd, const struct words *words)
{
    int listens = 0, flags = fcntl(fd, F_GETFL);
    socklen_t len = sizeof(listens);

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens || flags < 0 ||
        fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
        return fail(words, UV_EINVAL, "descriptor %d is no listening socket", fd);
    }
    server->fd = fd;
    return 0;
}

static void name_address(struct http1_server *server)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } at = {.any.sa_family = AF_UNSPEC};
    socklen_t len = sizeof(at);
    char host[INET6_ADDRSTRLEN] = "";
    char *into = server->address;
    int on = 1;

    getsockname(server->fd, &at.any, &len);
    if (at.any.sa_family == AF_UNIX) {
        snprintf(into, sizeof(server->address), "unix:%.*s", (int)sizeof(at.local.sun_path), at.local.sun_path);
        return;
    }
    if (at.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &at.v4.sin_addr, host, sizeof(host));
        snprintf(into, sizeof(server->address), "%s:%u", host, (unsigned)ntohs(at.v4.sin_port));
    } else {
        inet_ntop(AF_INET6, &at.v6.sin6_addr, host, sizeof(host));
        snprintf(into, sizeof(server->address), "[%s]:%u", host, (unsigned)ntohs(at.v6.sin6_port));
    }
    /* accepted sockets inherit these: no call for each of them */
    setsockopt(server->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(server->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

void server_handle_closed(struct http1_server *server)
{
    if (--server->handles > 0) {
        return;
    }
    if (server->spare_fd >= 0) {
        close(server->spare_fd);
    }
    if (server->done) {
        server->done(server->done_user);
    }
    free(server);
}

static void on_handle_closed(uv_handle_t *handle)
{
    server_handle_closed(handle->data);
}

/* The handle goes before its descriptor: libuv takes the number out of epoll when it closes. */
static void stop_listening(struct http1_server *server)
{
    struct stat stat;

    if (!server->listening) {
        return;
    }
    server->listening = false;
    uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    /* another server may have put its own socket there by now */
    if (server->unix_path[0] && lstat(server->unix_path, &stat) == 0 && stat.st_dev == server->unix_device &&
        stat.st_ino == server->unix_inode) {
        unlink(server->unix_path);
    }
    close(server->fd);
}

/* ---- the server
 * --------------------------------------------------------------------------------------------------------- */

static const struct http1_limits defaults = {
    .header_ms = 10000,
    .body_ms = 60000,
    .write_ms = 60000,
    .max_header_bytes = 65536,
    .max_headers = 100,
    .max_body_bytes = 33554432,
    .max_queued_bytes = 65536,
    .max_connections = 1024,
    .max_buffered_bytes = 1073741824,
};

void http1_bound(struct http1_server *server, size_t max_body_bytes, size_t max_buffered_bytes,
                 unsigned max_connections)
{
    server->limits.max_buffered_bytes = max_buffered_bytes ? max_buffered_bytes : defaults.max_buffered_bytes;
    server->limits.max_body_bytes = max_body_bytes ? max_body_bytes : defaults.max_body_bytes;
    server->limits.max_connections = max_connections ? max_connections : defaults.max_connections;
}

static void fill_limits(struct http1_server *server, const struct http1_limits *given)
{
    struct http1_limits *limits = &server->limits;

    *limits = given ? *given : defaults;
#define DEFAULT(field) limits->field = limits->field ? limits->field : defaults.field
    DEFAULT(header_ms);
    DEFAULT(body_ms);
    DEFAULT(write_ms);
    DEFAULT(max_header_bytes);
    DEFAULT(max_headers);
    DEFAULT(max_body_bytes);
    DEFAULT(max_queued_bytes);
    DEFAULT(max_connections);
    DEFAULT(max_buffered_bytes);
#undef DEFAULT
    if (limits->max_header_bytes > MAX_HEADER_BYTES) {
        limits->max_header_bytes = MAX_HEADER_BYTES;
    }
    limits->connections = limits->connections ? limits->connections : &server->own_count;
    limits->buffered = limits->buffered ? limits->buffered : &server->own_bytes;
}

static int open_listener(struct http1_server *server, const char *address, bool reuse_port, int fd,
                         const struct words *words)
{
    int code;

    server->fd = -1;
    if (fd >= 0) {
        code = take_over(server, fd, words);
    } else if (strncmp(address, "unix:", 5) == 0) {
        code = listen_unix(server, address, words);
    } else {
        code = listen_tcp(server, address, reuse_port, words);
    }
    if (code != 0) {
        return code;
    }
    name_address(server);
    code = uv_poll_init(server->loop, &server->listener, server->fd);
    return code == 0 ? 0 : fail(words, code, "cannot watch the socket of %s: %s", server->address, uv_strerror(code));
}

static void start(struct http1_server *server)
{
    uv_timer_init(server->loop, &server->timer);
    uv_prepare_init(server->loop, &server->prepare);
    server->listener.data = server->timer.data = server->prepare.data = server;
    server->handles = 3;
    server->armed = UINT64_MAX;
    server->listening = true;
    server->spare_fd = open_spare();
    uv_poll_start(&server->listener, UV_READABLE, on_acceptable);
}

int http1_listen(uv_loop_t *loop, const char *address, bool reuse_port, int fd, const struct http1_limits *limits,
                 const struct http1_handler *handler, struct http1_server **server, char *message, size_t message_size)
{
    const struct words words = {message, message_size};
    struct http1_server *s = calloc(1, sizeof(*s));
    int code;

    *server = NULL;
    if (!s) {
        return fail(&words, UV_ENOMEM, "out of memory");
    }
    s->loop = loop;
    s->handler = *handler;
    fill_limits(s, limits);
    code = open_listener(s, address, reuse_port, fd, &words);
    if (code != 0) {
        if (s->fd >= 0 && s->fd != fd) {
            close(s->fd);
        }
        if (s->unix_path[0]) {
            unlink(s->unix_path);
        }
        free(s);
        return code;
    }
    start(s);
    *server = s;
    return 0;
}

const char *http1_address(const struct http1_server *server)
{
    return server->address;
}

int http1_fd(const struct http1_server *server)
{
    return server->fd;
}

const struct http1_stats *http1_stats(const struct http1_server *server)
{
    return &server->stats;
}

void http1_drain(struct http1_server *server)
{
    struct connection *c, *next;

    if (server->draining || server->closing) {
        return;
    }
    /* who has connected already is a caller, not a stranger */
    for (int i = 0; i < BACKLOG && accept_next(server); i++) {
    }
    server->draining = true;
    stop_listening(server);
    DL_FOREACH_SAFE (server->connections, c, next) {
        connection_drain(c);
    }
}

void http1_close(struct http1_server *server, void (*done)(void *user), void *user)
{
    if (server->closing) {
        return;
    }
    server->closing = true;
    server->done = done;
    server->done_user = user;
    stop_listening(server);
    uv_close((uv_handle_t *)&server->timer, on_handle_closed);
    uv_close((uv_handle_t *)&server->prepare, on_handle_closed);
    while (server->connections) {
        connection_close(server->connections);
    }
}
