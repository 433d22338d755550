/* Asks a central as many callers at once would: HEAD after HEAD on each connection, a random line of the file each
 * time.
 *
 *   probe_load HOST PORT CONNECTIONS MILLISECONDS FILE [fresh]
 *
 * A line of the file is "STATUS PATH TOKEN". fresh: a new connection for each request, as deputy's own probe does it.
 * Prints "requests= wrong= p50= p99= max=" (times in microseconds). Ends with 1 when the server cannot be used. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINES = 200000, MAX_CONNECTIONS = 4096, MAX_HEAD = 4096, BUCKETS = 200000, LINE_SIZE = 1024 };

struct probe {
    char *text;
    size_t len;
    char status[4];
};

struct connection {
    int fd;
    const struct probe *asked;
    uint64_t since;
    size_t got;
    char head[MAX_HEAD];
};

static struct probe probes[MAX_LINES];
static size_t n_probes;
static struct connection connections[MAX_CONNECTIONS];
static struct sockaddr_in server;
static bool fresh;
static int poller;
static uint64_t random_state = 88172645463325252u, requests, wrong, took[BUCKETS + 1];

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void fail(const char *what)
{
    fprintf(stderr, "probe_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void read_probes(const char *path)
{
    char line[LINE_SIZE], status[4], target[400], token[400], text[LINE_SIZE * 2];
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    while (n_probes < MAX_LINES && fgets(line, sizeof(line), file)) {
        struct probe *p = &probes[n_probes];
        if (sscanf(line, "%3s %399s %399s", status, target, token) != 3)
            continue;
        int n = snprintf(text, sizeof(text), "HEAD %s HTTP/1.1\r\nHost: central\r\nAuthorization: Bearer %s\r\n%s\r\n",
                         target, token, fresh ? "Connection: close\r\n" : "");
        p->text = strdup(text);
        p->len = (size_t)n;
        memcpy(p->status, status, sizeof(status));
        if (p->text)
            n_probes++;
    }
    fclose(file);
    if (n_probes == 0)
        fail("no line of the file holds a probe");
}

static void ask(struct connection *c)
{
    c->asked = &probes[next_random() % n_probes];
    c->since = now_us();
    c->got = 0;
    if (send(c->fd, c->asked->text, c->asked->len, MSG_NOSIGNAL) != (ssize_t)c->asked->len)
        fail("send");
}

static void open_connection(struct connection *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&server, sizeof(server)) != 0)
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) != 0)
        fail("epoll_ctl");
}

static void take(struct connection *c)
{
    ssize_t n = recv(c->fd, c->head + c->got, sizeof(c->head) - c->got, MSG_DONTWAIT);
    if (n <= 0 && (n == 0 || errno != EAGAIN))
        fail("the server closed a connection");
    c->got += n > 0 ? (size_t)n : 0;
    if (c->got < 16 || memcmp(c->head + c->got - 4, "\r\n\r\n", 4) != 0) {
        if (c->got == sizeof(c->head))
            fail("a head is too long, or a body came");
        return;
    }
    uint64_t us = now_us() - c->since;
    took[us < BUCKETS ? us : BUCKETS]++;
    requests++;
    wrong += memcmp(c->head + 9, c->asked->status, 3) != 0;
    if (fresh) {
        close(c->fd);
        open_connection(c);
    }
    ask(c);
}

static uint64_t percentile(double share)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)requests * share);
    for (uint64_t us = 0; us <= BUCKETS; us++)
        if ((seen += took[us]) > wanted)
            return us;
    return BUCKETS;
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    if (argc < 6)
        return 2;
    int n = atoi(argv[3]);
    fresh = argc > 6 && strcmp(argv[6], "fresh") == 0;
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    read_probes(argv[5]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < n && i < MAX_CONNECTIONS; i++) {
        open_connection(&connections[i]);
        ask(&connections[i]);
    }
    for (uint64_t end = now_us() + (uint64_t)atoi(argv[4]) * 1000; now_us() < end;) {
        int ready = epoll_wait(poller, events, 256, 1000);
        for (int i = 0; i < ready; i++)
            take(events[i].data.ptr);
    }
    printf("requests=%llu wrong=%llu p50=%llu p99=%llu max=%llu\n", (unsigned long long)requests,
           (unsigned long long)wrong, (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.99),
           (unsigned long long)percentile(0.9999999));
    return 0;
}
