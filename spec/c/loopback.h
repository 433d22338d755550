/* loopback.h - servers on 127.0.0.1 for C tests, a thread for each connection. A test says what a connection does; here
 * is only what counts and what ends them. */
#ifndef LOOPBACK_H
#define LOOPBACK_H

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct server {
    int fd, port;
    char url[64];
    void (*serve)(struct server *server, int fd); /* on a thread of its own; fd is closed after it */
    void *user;
    pthread_t thread;
    atomic_int connections, bytes, alive;
    atomic_bool stopping;
};

struct connection {
    struct server *server;
    int fd;
};

static inline void nap_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static inline void *run_connection(void *user)
{
    struct connection *c = user;
    c->server->serve(c->server, c->fd);
    close(c->fd);
    atomic_fetch_sub(&c->server->alive, 1);
    free(c);
    return NULL;
}

static inline void *accept_connections(void *user)
{
    struct server *s = user;
    while (!atomic_load(&s->stopping)) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0)
            continue;
        int fd = accept(s->fd, NULL, NULL);
        struct connection *c = fd >= 0 ? malloc(sizeof(*c)) : NULL;
        pthread_t thread;
        if (!c)
            continue;
        *c = (struct connection){s, fd};
        atomic_fetch_add(&s->connections, 1);
        atomic_fetch_add(&s->alive, 1);
        pthread_create(&thread, NULL, run_connection, c);
        pthread_detach(thread);
    }
    return NULL;
}

/* A port of its own; with serve NULL nobody accepts. */
static inline bool server_listen(struct server *s, int backlog)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&at, len) != 0 || listen(s->fd, backlog) != 0 ||
        getsockname(s->fd, (struct sockaddr *)&at, &len) != 0)
        return false;
    s->port = ntohs(at.sin_port);
    snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%d", s->port);
    return true;
}

static inline bool server_accept(struct server *s)
{
    return pthread_create(&s->thread, NULL, accept_connections, s) == 0;
}

static inline bool server_start(struct server *s, void (*serve)(struct server *, int), void *user)
{
    s->serve = serve;
    s->user = user;
    return server_listen(s, 128) && server_accept(s);
}

static inline void server_stop(struct server *s)
{
    atomic_store(&s->stopping, true);
    pthread_join(s->thread, NULL);
    for (int i = 0; i < 500 && atomic_load(&s->alive) > 0; i++)
        nap_ms(5);
    close(s->fd);
}

/* ---- for what serve does ---------------------------------------------------------------------------------------- */

static inline void send_bytes(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        bytes += n;
        len -= (size_t)n;
    }
}

static inline void send_text(int fd, const char *text)
{
    send_bytes(fd, text, strlen(text));
}

/* Reads until the other side leaves or the server stops, and counts. */
static inline void drain_connection(struct server *s, int fd)
{
    char bytes[4096];
    while (!atomic_load(&s->stopping)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0)
            continue;
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n <= 0)
            return;
        atomic_fetch_add(&s->bytes, (int)n);
    }
}

static inline void reset_connection(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* One request, head and body, NUL behind it: its length, or 0 when there is none. */
static inline size_t read_request(struct server *s, int fd, char *into, size_t size)
{
    size_t have = 0, whole = 0;
    while (have + 1 < size && !atomic_load(&s->stopping)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0)
            continue;
        ssize_t n = recv(fd, into + have, size - 1 - have, 0);
        if (n <= 0)
            return 0;
        have += (size_t)n;
        into[have] = '\0';
        const char *end = strstr(into, "\r\n\r\n");
        const char *length = strcasestr(into, "\r\nContent-Length:");
        if (!end)
            continue;
        whole = (size_t)(end + 4 - into) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        if (have >= whole) {
            atomic_fetch_add(&s->bytes, (int)have);
            return have;
        }
    }
    return 0;
}

#endif
