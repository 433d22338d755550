/* A model server that misbehaves on demand: what the tests of managed providers start.
 *
 *     model_server --port N [OPTION...]
 *
 * GET /health says 200 once it is ready; POST says a chat completion with the model's name and this process's number.
 *   --slow MS         503 for so long, then ready
 *   --until FILE      503 until the file is there
 *   --late MS         nobody listens for so long
 *   --never           503 for ever
 *   --exit STATUS     says so on stderr and ends at once
 *   --crash-at WHAT   SIGSEGV at: start, ready (the first good health), post, term
 *   --hang-at WHAT    from then on connections are taken and nothing is answered: ready, post
 *   --ignore-term     SIGTERM does nothing
 *   --slow-post MS    each answer takes so long
 *   --flood BYTES     writes so much output first, then a last line
 *   --family          a child in the same group, and a grandchild that forked twice and opened a session of its own;
 *                     both ignore SIGTERM
 *   --print TEXT      a line of output
 *   --log FILE        one line for each thing that happens: start PID, child PID, post BYTES, term
 * One thread, at most 1,000 connections. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 1000, REQUEST = 8192 };

static struct {
    int port, slow, late, exit_status, slow_post;
    long flood;
    bool never, exits, ignore_term, family;
    const char *crash_at, *hang_at, *log, *print, *until;
} options;

static struct connection {
    size_t len;
    char bytes[REQUEST];
} connections[CONNECTIONS + 1];

static struct pollfd fds[CONNECTIONS + 1];
static long began_ms;
static bool hangs;

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0)
        ;
}

static void note(const char *what, long number)
{
    char line[64];
    int fd = options.log ? open(options.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    int len = snprintf(line, sizeof(line), "%s %ld\n", what, number);
    (void)!write(fd, line, (size_t)len);
    close(fd);
}

static bool is(const char *option, const char *what)
{
    return option && strcmp(option, what) == 0;
}

static void crash(void)
{
    static const char words[] = "model_server: about to crash\n";
    (void)!write(STDERR_FILENO, words, sizeof(words) - 1);
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static void on_term(int number)
{
    (void)number;
    note("term", getpid());
    if (is(options.crash_at, "term"))
        crash();
    if (!options.ignore_term)
        _exit(0);
}

static void linger(const char *what)
{
    signal(SIGTERM, SIG_IGN);
    note(what, getpid());
    for (;;)
        pause();
}

static void have_family(void)
{
    if (fork() == 0)
        linger("child");
    pid_t between = fork();
    if (between != 0)
        return;
    setsid();
    if (fork() == 0) {
        setsid();
        linger("grandchild");
    }
    _exit(0);
}

static void flood(void)
{
    char line[1000];
    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    for (long left = options.flood; left > 0; left -= (long)sizeof(line))
        (void)!write(STDOUT_FILENO, line, sizeof(line));
    puts("the last line of the flood");
    fflush(stdout);
}

static void answer(int fd, int status, const char *body)
{
    char reply[1024];
    int len = snprintf(reply, sizeof(reply),
                       "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
                       strlen(body), body);
    (void)!send(fd, reply, (size_t)len, MSG_NOSIGNAL);
}

static void answer_health(int fd)
{
    bool ready =
        !options.never && now_ms() - began_ms >= options.slow && (!options.until || access(options.until, F_OK) == 0);
    if (ready && is(options.crash_at, "ready"))
        crash();
    answer(fd, ready ? 200 : 503, "{}");
    if (ready && is(options.hang_at, "ready"))
        hangs = true;
}

static void answer_post(int fd, size_t bytes)
{
    char body[512];
    note("post", (long)bytes);
    if (is(options.crash_at, "post"))
        crash();
    if (is(options.hang_at, "post")) {
        hangs = true;
        return;
    }
    if (options.slow_post)
        nap(options.slow_post);
    snprintf(
        body, sizeof(body),
        "{\"id\":\"1\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"hello from %ld\"},\"finish_reason\":\"stop\"}]}",
        (long)getpid());
    answer(fd, 200, body);
}

/* How long the first whole request is, or 0. */
static size_t whole_request(const struct connection *c)
{
    const char *end = strstr(c->bytes, "\r\n\r\n"), *length = strcasestr(c->bytes, "\r\nContent-Length:");
    if (!end)
        return 0;
    size_t size = (size_t)(end + 4 - c->bytes);
    if (length && length < end)
        size += strtoul(length + 17, NULL, 10);
    return size <= c->len ? size : 0;
}

/* False when the connection is over. */
static bool serve(int fd, struct connection *c)
{
    ssize_t n = recv(fd, c->bytes + c->len, REQUEST - 1 - c->len, 0);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    c->len += (size_t)n;
    for (size_t size; c->bytes[c->len] = '\0', (size = whole_request(c)) > 0;) {
        if (hangs)
            return true;
        if (strncmp(c->bytes, "GET /health", 11) == 0)
            answer_health(fd);
        else if (strncmp(c->bytes, "POST ", 5) == 0)
            answer_post(fd, size);
        else if (strncmp(c->bytes, "GET /v1/models", 14) == 0)
            answer(fd, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"a-model\"}]}");
        else
            answer(fd, 404, "{}");
        c->len -= size;
        memmove(c->bytes, c->bytes + size, c->len);
    }
    return c->len < REQUEST - 1;
}

static int listen_at(int port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 1024) != 0) {
        fprintf(stderr, "model_server: port %d: %s\n", port, strerror(errno));
        exit(1);
    }
    return fd;
}

static void accept_one(void)
{
    int fd = accept4(fds[0].fd, NULL, NULL, SOCK_CLOEXEC);
    for (int i = 1; fd >= 0 && i <= CONNECTIONS; i++)
        if (fds[i].fd < 0) {
            fds[i].fd = fd;
            connections[i].len = 0;
            return;
        }
    if (fd >= 0)
        close(fd);
}

static void run(void)
{
    for (int i = 0; i <= CONNECTIONS; i++)
        fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    fds[0].fd = listen_at(options.port);
    for (;;) {
        if (poll(fds, CONNECTIONS + 1, -1) < 0)
            continue;
        for (int i = 1; i <= CONNECTIONS; i++)
            if (fds[i].fd >= 0 && fds[i].revents && !serve(fds[i].fd, &connections[i])) {
                close(fds[i].fd);
                fds[i].fd = -1;
            }
        if (fds[0].revents)
            accept_one();
    }
}

static void read_options(char **argv)
{
    const struct {
        const char *name;
        int *number;
    } numbers[] = {{"--port", &options.port},
                   {"--slow", &options.slow},
                   {"--late", &options.late},
                   {"--exit", &options.exit_status},
                   {"--slow-post", &options.slow_post}};
    const struct {
        const char *name;
        const char **text;
    } texts[] = {{"--crash-at", &options.crash_at},
                 {"--hang-at", &options.hang_at},
                 {"--log", &options.log},
                 {"--print", &options.print},
                 {"--until", &options.until}};
    for (; *argv; argv++) {
        options.never |= is(*argv, "--never");
        options.ignore_term |= is(*argv, "--ignore-term");
        options.family |= is(*argv, "--family");
        options.exits |= is(*argv, "--exit");
        for (size_t i = 0; argv[1] && i < sizeof(numbers) / sizeof(numbers[0]); i++)
            if (is(*argv, numbers[i].name))
                *numbers[i].number = (int)strtol(argv[1], NULL, 10);
        for (size_t i = 0; argv[1] && i < sizeof(texts) / sizeof(texts[0]); i++)
            if (is(*argv, texts[i].name))
                *texts[i].text = argv[1];
        if (argv[1] && is(*argv, "--flood"))
            options.flood = strtol(argv[1], NULL, 10);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    read_options(argv + 1);
    began_ms = now_ms();
    note("start", getpid());
    if (options.print)
        fprintf(stderr, "%s\n", options.print);
    if (options.exits) {
        fprintf(stderr, "model_server: told to end at once\n");
        return options.exit_status;
    }
    signal(SIGTERM, on_term);
    if (options.family)
        have_family();
    if (options.flood)
        flood();
    if (is(options.crash_at, "start"))
        crash();
    nap(options.late);
    run();
    return 0;
}
