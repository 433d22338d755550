/* loopback.h - a central and a local server on 127.0.0.1, in a process of their own: for C programs that need many
 * plain exchanges or need to count them. POST /api/... is the central's inference, HEAD its probe, POST /v1/... the
 * local server. What it answers and what it has seen stands in shared memory. An LLM that is called r1, r2, ... is
 * counted by that number: in the probe's path, and at the local server in the body, as "user":"r1". Requests are small
 * (4 KiB). Allocates nothing, dies with its parent. */
#ifndef LOOPBACK_H
#define LOOPBACK_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOPBACK_FDS = 4096, LOOPBACK_REQUEST = 4096, LOOPBACK_NUMBERS = 1 << 16 };

struct loopback_state {
    atomic_int probe_status, primary_status, local_status; /* what it answers; 0: nothing, the caller waits */
    atomic_int padding;                                    /* bytes of blanks after each body, at most 64 KiB */
    atomic_ulong probes, allowed, primaries, locals;       /* what it has seen; allowed: probes answered with 2xx */
    atomic_ulong connections;
    atomic_uchar allowed_of[LOOPBACK_NUMBERS], locals_of[LOOPBACK_NUMBERS]; /* by the LLM's number */
};

struct loopback {
    pid_t pid;
    int port;
    struct loopback_state *state;
};

struct loopback_connection {
    size_t len;
    char request[LOOPBACK_REQUEST];
};

/* As many descriptors as this process may have. */
static inline void loopback_raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline unsigned long loopback_number(const char *text, const char *after)
{
    const char *at = strstr(text, after);
    return at ? strtoul(at + strlen(after), NULL, 10) % LOOPBACK_NUMBERS : 0;
}

static inline void loopback_answer(int fd, const char *request, struct loopback_state *s)
{
    static const char good[] = "{\"id\":\"1\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":"
                               "{\"role\":\"assistant\",\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}";
    static const char bad[] = "{\"error\":{\"message\":\"down\",\"type\":\"server_error\",\"code\":\"down\"}}";
    static char out[512 + 65536];
    size_t padding = (size_t)s->padding;
    bool probe = strncmp(request, "HEAD ", 5) == 0, local = strncmp(request, "POST /v1/", 9) == 0;
    int status = probe ? s->probe_status : local ? s->local_status : s->primary_status;
    atomic_fetch_add(probe ? &s->probes : local ? &s->locals : &s->primaries, 1);
    if (probe && status >= 200 && status <= 299) {
        atomic_fetch_add(&s->allowed, 1);
        atomic_fetch_add(&s->allowed_of[loopback_number(request, "/llms/r")], 1);
    }
    if (local)
        atomic_fetch_add(&s->locals_of[loopback_number(request, "\"user\":\"r")], 1);
    if (status == 0)
        return;
    const char *body = probe || status == 204 ? "" : status == 200 ? good : bad;
    if (!body[0])
        padding = 0;
    int len = snprintf(out, sizeof(out), "HTTP/1.1 %d X\r\n", status);
    if (status != 204)
        len += snprintf(out + len, sizeof(out) - (size_t)len,
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body) + padding);
    len += snprintf(out + len, sizeof(out) - (size_t)len, "\r\n%s", body);
    memset(out + len, ' ', padding);
    (void)!write(fd, out, (size_t)len + padding);
}

/* False when the connection is over. */
static inline bool loopback_read(int fd, struct loopback_connection *c, struct loopback_state *s)
{
    ssize_t n = read(fd, c->request + c->len, LOOPBACK_REQUEST - 1 - c->len);
    if (n <= 0)
        return false;
    c->len += (size_t)n;
    for (;;) {
        c->request[c->len] = '\0';
        const char *end = strstr(c->request, "\r\n\r\n"), *length = strcasestr(c->request, "\r\nContent-Length:");
        size_t size = end ? (size_t)(end - c->request) + 4 : LOOPBACK_REQUEST;
        if (end && length && length < end)
            size += strtoul(length + 17, NULL, 10);
        if (size > c->len)
            return c->len < LOOPBACK_REQUEST - 1;
        char next = c->request[size];
        c->request[size] = '\0';
        loopback_answer(fd, c->request, s);
        c->request[size] = next;
        c->len -= size;
        memmove(c->request, c->request + size, c->len);
    }
}

static inline void loopback_serve(int listener, struct loopback_state *s)
{
    static struct loopback_connection connections[LOOPBACK_FDS];
    struct epoll_event events[256], add = {.events = EPOLLIN, .data.fd = listener};
    int poll = epoll_create1(0), one = 1;
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &add);
    for (;;) {
        int n = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (!loopback_read(fd, &connections[fd], s))
                    close(fd);
                continue;
            }
            fd = accept(listener, NULL, NULL);
            if (fd < 0)
                continue;
            if (fd >= LOOPBACK_FDS) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            connections[fd].len = 0;
            add.data.fd = fd;
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &add);
            atomic_fetch_add(&s->connections, 1);
        }
    }
}

/* Exits when the server cannot be set up: no program that asks for one can go on without it. */
static inline struct loopback loopback_start(int primary_status, int probe_status, int local_status)
{
    struct loopback l = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    l.state = mmap(NULL, sizeof(*l.state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (listener < 0 || l.state == MAP_FAILED || bind(listener, (struct sockaddr *)&address, size) != 0 ||
        listen(listener, 2048) != 0 || getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        perror("loopback");
        exit(1);
    }
    l.port = ntohs(address.sin_port);
    l.state->primary_status = primary_status;
    l.state->probe_status = probe_status;
    l.state->local_status = local_status;
    fflush(NULL);
    l.pid = fork();
    if (l.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        loopback_raise_limit();
        loopback_serve(listener, l.state);
        _exit(0);
    }
    close(listener);
    if (l.pid < 0) {
        perror("loopback");
        exit(1);
    }
    return l;
}

static inline void loopback_stop(struct loopback *l)
{
    kill(l->pid, SIGKILL);
    waitpid(l->pid, NULL, 0);
    munmap(l->state, sizeof(*l->state));
}

#endif
