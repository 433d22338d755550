/* deputy-supervisor: stands between deputy and a model server, and outlives deputy by one stop.
 *
 *     deputy-supervisor GRACE_MS HOST_PID CWD COMMAND [ARGUMENT...]
 *
 * Descriptor 0 is a socket to deputy. It is told there what happens, a line each: "started PID", "failed chdir ERRNO",
 * "failed exec ERRNO", "exit STATUS", "signal NUMBER"; the end of the socket says that the whole family is gone. It may
 * write "s" (stop) or "k" (do not wait for the grace). The socket's other end closed, or HOST_PID gone, means stop:
 * deputy has ended, crashed or was killed. Descriptors 1 and 2 are the server's output; all others are closed. The
 * environment is the server's, and is wiped here.
 *
 * The server leads a session of its own. Whatever it forks comes to this process when its parents end, however often it
 * forks and whatever session it opens, since this is a subreaper: so the end of the family is when no child is left.
 * Needs nothing of the library but the list of processes. */
#include "managed/family.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILL_AGAIN_MS = 20, CONTROL, SIGNALS, HOST, POLLED };

struct supervisor {
    int control, signals, host; /* -1: closed, or not to be had */
    pid_t self, server;         /* server: 0 once it was reaped, its group may be somebody else's then */
    bool ending;
    uint64_t grace_ms, deadline_ms;
    sigset_t watched;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void tell(const struct supervisor *s, const char *word, const char *what, long number)
{
    char line[64];
    int len = snprintf(line, sizeof(line), "%s%s %ld\n", word, what, number);
    if (s->control >= 0)
        (void)!send(s->control, line, (size_t)len, MSG_NOSIGNAL);
}

/* ---- ending the family ------------------------------------------------------------------------------------------- */

/* The group at once, so that nobody in it is left out; then those who left it. */
static void signal_family(const struct supervisor *s, int number)
{
    struct family all;
    if (s->server > 0)
        kill(-s->server, number);
    if (!family_read(&all))
        return;
    family_mark(&all, s->self);
    for (size_t i = 0; i < all.n; i++)
        if (all.list[i].in && (s->server == 0 || all.list[i].group != s->server))
            family_signal(&all.list[i], number);
    family_free(&all);
}

static void begin_to_end(struct supervisor *s)
{
    if (s->ending)
        return;
    s->ending = true;
    s->deadline_ms = now_ms() + s->grace_ms;
    signal_family(s, SIGTERM);
    signal_family(s, SIGCONT); /* who was stopped does not hear it otherwise */
}

/* Whatever is forked meanwhile is killed in the next round. */
static void kill_when_late(struct supervisor *s)
{
    if (!s->ending || now_ms() < s->deadline_ms)
        return;
    s->deadline_ms = now_ms() + KILL_AGAIN_MS;
    signal_family(s, SIGKILL);
}

/* False when no child is left. */
static bool reap(struct supervisor *s)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid == 0)
            return true;
        if (pid < 0)
            return errno == EINTR;
        if (pid != s->server)
            continue;
        s->server = 0;
        if (WIFSIGNALED(status))
            tell(s, "signal", "", WTERMSIG(status));
        else
            tell(s, "exit", "", WEXITSTATUS(status));
        begin_to_end(s);
    }
}

/* ---- starting the server ----------------------------------------------------------------------------------------- */

/* As execvp does it, but for what is no program: that would be handed to a shell, line by line. */
static void run(char **command)
{
    const char *at = getenv("PATH");
    bool denied = false;
    char path[PATH_MAX];
    if (strchr(command[0], '/')) {
        execv(command[0], command);
        return;
    }
    for (at = at ? at : "/usr/local/bin:/usr/bin:/bin"; *at; at += strspn(at, ":")) {
        size_t len = strcspn(at, ":");
        int size = snprintf(path, sizeof(path), "%.*s/%s", (int)len, at, command[0]);
        at += len;
        if (len == 0 || size < 0 || (size_t)size >= sizeof(path))
            continue;
        execv(path, command);
        if (errno != EACCES && errno != ENOENT && errno != ENOTDIR)
            return;
        denied = denied || errno == EACCES;
    }
    errno = denied ? EACCES : ENOENT;
}

static void become_server(const struct supervisor *s, const char *cwd, char **command, int report)
{
    sigset_t none;
    int why[2] = {0, 0};
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->self)
        _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (cwd[0] && chdir(cwd) != 0)
        why[0] = 1;
    else
        run(command);
    why[1] = errno;
    (void)!write(report, why, sizeof(why));
    _exit(127);
}

static bool start_server(struct supervisor *s, const char *cwd, char **command)
{
    int report[2], why[2];
    if (pipe2(report, O_CLOEXEC) != 0)
        return false;
    s->server = fork();
    if (s->server == 0)
        become_server(s, cwd, command, report[1]);
    close(report[1]);
    bool failed = s->server < 0 || read(report[0], why, sizeof(why)) == (ssize_t)sizeof(why);
    close(report[0]);
    if (s->server < 0) {
        tell(s, "failed", " exec", errno);
        return false;
    }
    if (failed) {
        tell(s, "failed", why[0] ? " chdir" : " exec", why[1]);
        waitpid(s->server, NULL, 0);
        return false;
    }
    tell(s, "started", "", s->server);
    return true;
}

/* The keys in it are the server's business alone. */
static void wipe_environment(void)
{
    for (char **entry = environ; *entry; entry++)
        explicit_bzero(*entry, strlen(*entry));
    environ[0] = NULL;
}

/* ---- watching ---------------------------------------------------------------------------------------------------- */

static void hear_control(struct supervisor *s)
{
    char word;
    ssize_t n = recv(s->control, &word, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close(s->control);
        s->control = -1;
    }
    begin_to_end(s);
    if (n == 1 && word == 'k')
        s->deadline_ms = now_ms();
}

static void hear_signals(struct supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        if (info.ssi_signo != SIGCHLD)
            begin_to_end(s);
}

static void watch(struct supervisor *s)
{
    while (reap(s)) {
        struct pollfd fds[] = {{.fd = s->control, .events = POLLIN},
                               {.fd = s->signals, .events = POLLIN},
                               {.fd = s->host, .events = POLLIN}};
        uint64_t now = now_ms();
        kill_when_late(s);
        int timeout = !s->ending ? -1 : s->deadline_ms > now ? (int)(s->deadline_ms - now) + 1 : 1;
        if (poll(fds, 3, timeout) <= 0)
            continue;
        if (fds[0].revents)
            hear_control(s);
        if (fds[1].revents)
            hear_signals(s);
        if (fds[2].revents) {
            close(s->host);
            s->host = -1;
            begin_to_end(s);
        }
    }
}

static bool set_up(struct supervisor *s, pid_t host)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    s->self = getpid();
    s->control = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    if (null < 0 || s->control < 0 || dup2(null, STDIN_FILENO) < 0)
        return false;
    setsid(); /* what is typed at deputy's terminal is deputy's to hear */
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&s->watched);
    sigaddset(&s->watched, SIGCHLD);
    sigaddset(&s->watched, SIGTERM);
    sigaddset(&s->watched, SIGINT);
    sigaddset(&s->watched, SIGHUP);
    sigprocmask(SIG_BLOCK, &s->watched, NULL);
    s->signals = signalfd(-1, &s->watched, SFD_CLOEXEC | SFD_NONBLOCK);
    /* The socket's end says so too, unless a process that deputy forked still holds it. */
    s->host = (int)syscall(SYS_pidfd_open, host, 0);
    return s->signals >= 0 && getppid() == host && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
}

static void let_go_of_output(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return;
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    close(null);
}

int main(int argc, char **argv)
{
    struct supervisor s = {.control = -1, .signals = -1, .host = -1};
    if (argc < 5) {
        fprintf(stderr, "deputy-supervisor is started by deputy: it needs GRACE_MS HOST_PID CWD COMMAND\n");
        return 2;
    }
    closefrom(3);
    s.grace_ms = strtoul(argv[1], NULL, 10);
    if (!set_up(&s, (pid_t)strtol(argv[2], NULL, 10)))
        return 1;
    bool started = start_server(&s, argv[3], argv + 4);
    wipe_environment();
    let_go_of_output();
    if (started)
        watch(&s);
    return 0;
}
