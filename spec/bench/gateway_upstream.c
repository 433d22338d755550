/* An upstream that is never the bottleneck: answers POST with server-sent events, one write each, to many callers in
 * turn. A path with /flow/ gets EVENTS of them, with /idle/ the first one and then nothing. Prints its port; ends when
 * its standard input does. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 500, MAX_FD = 65536, MAX_READY = 256, REQUEST_MAX = 4096 };

typedef struct caller caller;
struct caller {
    caller *next, *previous; /* those that have something to send */
    int fd, left;
    size_t have;
    char request[REQUEST_MAX];
};

static caller *callers[MAX_FD], *sending;
static char first_event[512], event[512], last_event[512];

static void make_chunk(char *out, size_t size, const char *head, const char *delta, const char *finish,
                       const char *tail)
{
    char text[300];
    int length =
        snprintf(text, sizeof(text),
                 "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
                 "\"m\",\"choices\":[{\"index\":0,\"delta\":%s,\"finish_reason\":%s}]}\n\n%s",
                 delta, finish, *tail ? "data: [DONE]\n\n" : "");
    snprintf(out, size, "%s%x\r\n%s\r\n%s", head, (unsigned)length, text, tail);
}

static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(1);
}

static void stop_sending(caller *c)
{
    if (!c->next)
        return;
    if (c->next == c)
        sending = NULL;
    else if (sending == c)
        sending = c->next;
    c->next->previous = c->previous;
    c->previous->next = c->next;
    c->next = c->previous = NULL;
}

static void start_sending(caller *c)
{
    if (c->next)
        return;
    if (!sending) {
        sending = c->next = c->previous = c;
        return;
    }
    c->next = sending;
    c->previous = sending->previous;
    c->previous->next = sending->previous = c;
}

static void leave(caller *c)
{
    stop_sending(c);
    callers[c->fd] = NULL;
    close(c->fd);
    free(c);
}

/* One event; a caller whose socket is full waits for epoll. Events are small against what a socket takes before it is.
 */
static void send_one(caller *c)
{
    const char *text = c->left == EVENTS || c->left < 0 ? first_event : c->left == 1 ? last_event : event;
    ssize_t sent = send(c->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        stop_sending(c);
        return;
    }
    if (sent != (ssize_t)strlen(text)) {
        leave(c);
        return;
    }
    c->left = c->left < 0 ? 0 : c->left - 1;
    if (c->left == 0)
        stop_sending(c);
}

static void look_at(caller *c)
{
    c->request[c->have] = '\0';
    const char *end = strstr(c->request, "\r\n\r\n");
    if (!end)
        return;
    const char *length = strcasestr(c->request, "\r\ncontent-length:");
    size_t total = (size_t)(end + 4 - c->request) + (length ? strtoul(length + 17, NULL, 10) : 0);
    if (c->have < total)
        return;
    c->have = 0;
    c->left = strstr(c->request, "/idle/") ? -1 : EVENTS;
    start_sending(c);
}

static void hear(caller *c)
{
    ssize_t got = recv(c->fd, c->request + c->have, REQUEST_MAX - 1 - c->have, MSG_DONTWAIT);
    if (got > 0) {
        c->have += (size_t)got;
        look_at(c);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        leave(c);
    }
}

static void greet(int listener, int poll)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    caller *c = fd < MAX_FD ? calloc(1, sizeof(*c)) : NULL;
    must(c != NULL, "another caller");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    c->fd = fd;
    callers[fd] = c;
    struct epoll_event want = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd};
    must(epoll_ctl(poll, EPOLL_CTL_ADD, fd, &want) == 0, "epoll_ctl");
}

static void serve(int listener, int poll)
{
    struct epoll_event ready[MAX_READY];
    for (;;) {
        int n = epoll_wait(poll, ready, MAX_READY, sending ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == STDIN_FILENO)
                return;
            if (fd == listener) {
                greet(listener, poll);
                continue;
            }
            if (callers[fd] && (ready[i].events & EPOLLOUT) && callers[fd]->left != 0)
                start_sending(callers[fd]);
            if (callers[fd] && (ready[i].events & ~(unsigned)EPOLLOUT))
                hear(callers[fd]);
        }
        caller *turn[MAX_READY];
        int count = 0;
        for (caller *c = sending; c && count < MAX_READY && (count == 0 || c != sending); c = c->next)
            turn[count++] = c;
        if (count)
            sending = turn[count - 1]->next;
        for (int i = 0; i < count; i++)
            send_one(turn[i]);
    }
}

int main(void)
{
    make_chunk(first_event, sizeof(first_event),
               "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
               "{\"role\":\"assistant\",\"content\":\"Once\"}", "null", "");
    make_chunk(event, sizeof(event), "", "{\"content\":\" upon\"}", "null", "");
    make_chunk(last_event, sizeof(last_event), "", "{}", "\"stop\"", "0\r\n\r\n");

    struct rlimit files;
    must(getrlimit(RLIMIT_NOFILE, &files) == 0, "getrlimit");
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 4096) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event want = {.events = EPOLLIN, .data.fd = listener};
    must(epoll_ctl(poll, EPOLL_CTL_ADD, listener, &want) == 0, "epoll_ctl");
    want.data.fd = STDIN_FILENO;
    must(epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &want) == 0, "epoll_ctl on the standard input");
    printf("%u\n", (unsigned)ntohs(address.sin_port));
    fflush(stdout);
    serve(listener, poll);
    return 0;
}
