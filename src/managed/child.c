#include "managed/child.h"

#include "base/error.h"
#include "managed/drive.h"
#include "managed/family.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REAP_MS = 5, HUNT_MS = 20, HUNTS_MAX = 250, MARK_BYTES = 64 };

struct child {
    struct deputy_managed *managed;
    struct owner *owner;
    pid_t supervisor;
    int pidfd; /* of the supervisor: its number may be another's once it was waited for; -1: not to be had */
    struct family_head server;
    uv_pipe_t control, output;
    uv_timer_t timer;
    unsigned open;     /* handles */
    bool ended;        /* it was told how the server ended */
    bool reaped, lost; /* the supervisor: its end was seen; it may have left some of the family behind */
    int by_signal, hunts;
    size_t line_len;
    char line[64], mark[MARK_BYTES], control_bytes[64];
};

static void finish(struct child *c);

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;
    c->owner->handles--;
    if (--c->open > 0)
        return;
    close_fd(&c->pidfd);
    free(c);
}

static void on_timer(uv_timer_t *timer)
{
    finish(timer->data);
}

static void drain_output(struct child *c)
{
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&c->output, &fd) != 0)
        return;
    for (int i = 0; i < 64; i++) { /* a flood has no end */
        ssize_t n = read(fd, c->owner->bytes, sizeof(c->owner->bytes));
        if (n <= 0)
            return;
        drive_output(c->managed, c->owner->bytes, (size_t)n);
    }
}

static void end(struct child *c, bool hopeless, const char *how)
{
    if (c->ended)
        return;
    c->ended = true;
    drain_output(c); /* its last words belong to it */
    drive_ended(c->managed, how, hopeless);
}

/* When the supervisor was killed, nobody ends what is left of the family but us. The number of a server that was reaped
 * may be another's by now. */
static bool hunt(struct child *c)
{
    if (c->ended)
        c->server.pid = 0;
    return c->lost && c->hunts++ < HUNTS_MAX && family_kill(&c->server, c->mark) > 0;
}

/* The socket's end is a moment before the process's. */
static bool reap(struct child *c)
{
    siginfo_t info = {0};
    bool known = waitid(c->pidfd >= 0 ? P_PIDFD : P_PID, (id_t)(c->pidfd >= 0 ? c->pidfd : c->supervisor), &info,
                        WEXITED | WNOHANG) == 0;
    if (known ? info.si_pid == 0 : errno == EINTR)
        return false;
    c->lost = known ? info.si_code != CLD_EXITED || info.si_status != 0 : !c->ended; /* unknown: the host waited */
    c->by_signal = known && info.si_code != CLD_EXITED ? info.si_status : 0;
    return true;
}

static void finish(struct child *c)
{
    char how[96] = "its supervisor ended by itself";
    c->reaped = c->reaped || reap(c);
    if (!c->reaped || hunt(c)) {
        uv_timer_start(&c->timer, on_timer, c->reaped ? HUNT_MS : REAP_MS, 0);
        return;
    }
    if (c->by_signal)
        snprintf(how, sizeof(how), "its supervisor was ended by signal %d", c->by_signal);
    end(c, false, how);
    drain_output(c);
    struct deputy_managed *m = c->managed;
    uv_close((uv_handle_t *)&c->control, on_closed);
    uv_close((uv_handle_t *)&c->output, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
    drive_gone(m);
}

/* ---- what the supervisor tells ----------------------------------------------------------------------------------- */

static void tell_signal(struct child *c, int number)
{
    char how[96];
    const char *name = sigabbrev_np(number);
    snprintf(how, sizeof(how), "signal %d (SIG%s)", number, name ? name : "?");
    end(c, false, how);
}

static void lend_output(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct child *c = handle->data;
    (void)suggested;
    *buf = uv_buf_init(c->owner->bytes, sizeof(c->owner->bytes));
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct child *c = stream->data;
    if (n > 0)
        drive_output(c->managed, buf->base, (size_t)n);
    else if (n < 0)
        uv_read_stop(stream);
}

/* Whether the line is this word and a number. */
static bool says(const char *line, const char *word, int *number)
{
    size_t len = strlen(word);
    if (strncmp(line, word, len) != 0)
        return false;
    *number = (int)strtol(line + len, NULL, 10);
    return true;
}

/* What the file system says does not change by itself. */
static bool is_hopeless(int number)
{
    return number == ENOENT || number == EACCES || number == ENOEXEC || number == ENOTDIR || number == ELOOP ||
           number == ENAMETOOLONG || number == EISDIR;
}

static void hear_line(struct child *c, const char *line)
{
    char how[160];
    int number;
    if (says(line, "started ", &number)) {
        c->server = (struct family_head){number, family_born(number)};
        drive_started(c->managed, number);
        /* not before: what it writes belongs under the mark of its start */
        uv_read_start((uv_stream_t *)&c->output, lend_output, on_output);
    } else if (says(line, "exit ", &number)) {
        snprintf(how, sizeof(how), "exit status %d", number);
        end(c, false, how);
    } else if (says(line, "signal ", &number)) {
        tell_signal(c, number);
    } else if (says(line, "failed exec ", &number)) {
        snprintf(how, sizeof(how), "could not start '%.80s': %.40s", c->managed->settings.command[0], strerror(number));
        end(c, is_hopeless(number), how);
    } else if (says(line, "failed chdir ", &number)) {
        snprintf(how, sizeof(how), "could not start in '%.80s': %.40s", c->managed->settings.cwd, strerror(number));
        end(c, true, how);
    }
}

static void hear(struct child *c, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != '\n') {
            if (c->line_len < sizeof(c->line) - 1)
                c->line[c->line_len++] = bytes[i];
            continue;
        }
        c->line[c->line_len] = '\0';
        c->line_len = 0;
        hear_line(c, c->line);
    }
}

static void lend_control(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct child *c = handle->data;
    (void)suggested;
    *buf = uv_buf_init(c->control_bytes, sizeof(c->control_bytes));
}

static void on_control(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct child *c = stream->data;
    if (n > 0) {
        hear(c, buf->base, (size_t)n);
    } else if (n < 0) {
        uv_read_stop(stream);
        finish(c);
    }
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

struct ends {
    int control[2], output[2]; /* ours, the supervisor's */
};

static void close_ends(struct ends *e)
{
    for (int i = 0; i < 2; i++) {
        close_fd(&e->control[i]);
        close_fd(&e->output[i]);
    }
}

/* A host may have closed its first three, which are about to be written over. */
static bool raise_fd(int *fd)
{
    if (*fd > STDERR_FILENO)
        return true;
    int higher = fcntl(*fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close_fd(fd);
    *fd = higher;
    return higher >= 0;
}

static bool open_ends(struct ends *e)
{
    *e = (struct ends){{-1, -1}, {-1, -1}};
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e->control) == 0 && pipe2(e->output, O_CLOEXEC) == 0 &&
           raise_fd(&e->control[0]) && raise_fd(&e->control[1]) && raise_fd(&e->output[0]) && raise_fd(&e->output[1]) &&
           fcntl(e->output[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(e->control[0], F_SETFL, O_NONBLOCK) == 0;
}

static int spawn_with(pid_t *pid, char **argv, char **environment, const struct ends *e)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    int code;
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    code = posix_spawn_file_actions_adddup2(&files, e->control[1], STDIN_FILENO);
    if (code == 0)
        code = posix_spawn_file_actions_adddup2(&files, e->output[1], STDOUT_FILENO);
    if (code == 0)
        code = posix_spawn_file_actions_adddup2(&files, e->output[1], STDERR_FILENO);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    if (code == 0)
        code = posix_spawn(pid, argv[0], &files, &attributes, argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

/* Not uv_spawn: that takes the whole process's SIGCHLD, which is the host's. */
static int spawn(struct child *c, uint16_t port, const struct ends *e, deputy_error *error)
{
    const struct settings *s = &c->managed->settings;
    char grace[16], host[16];
    size_t n = 0;
    char **command = settings_command(s, port);
    char **environment = settings_environment(s, port, c->mark);
    while (command && command[n])
        n++;
    char **argv = command ? calloc(n + 5, sizeof(*argv)) : NULL;
    int code = DEPUTY_OK;
    if (!argv || !environment) {
        code = error_set(error, DEPUTY_ENOMEM, "out of memory for a start");
    } else {
        snprintf(grace, sizeof(grace), "%u", (unsigned)s->stop_grace_ms);
        snprintf(host, sizeof(host), "%ld", (long)getpid());
        argv[0] = s->supervisor;
        argv[1] = grace;
        argv[2] = host;
        argv[3] = s->cwd ? s->cwd : "";
        memcpy(argv + 4, command, n * sizeof(*argv));
        int failed = spawn_with(&c->supervisor, argv, environment, e);
        if (failed)
            code = error_set(error, DEPUTY_EIO, "could not start '%s': %s", s->supervisor, strerror(failed));
    }
    free(argv);
    strings_free(command);
    strings_free(environment);
    return code;
}

/* Only finds the family again when its supervisor was killed; nothing is decided by it. It is the name that differs, so
 * that the mark of a deputy under which this one runs stays beside it. */
static bool make_mark(struct child *c)
{
    unsigned char bytes[16];
    int len = snprintf(c->mark, sizeof(c->mark), MARK_PREFIX);
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return false;
    for (size_t i = 0; i < sizeof(bytes); i++)
        len += snprintf(c->mark + len, sizeof(c->mark) - (size_t)len, "%02x", bytes[i]);
    snprintf(c->mark + len, sizeof(c->mark) - (size_t)len, "=1");
    return true;
}

static void take_ends(struct child *c, struct ends *e)
{
    uv_loop_t *uv = loop_uv(c->owner->loop);
    uv_pipe_init(uv, &c->control, 0);
    uv_pipe_init(uv, &c->output, 0);
    uv_timer_init(uv, &c->timer);
    c->control.data = c->output.data = c->timer.data = c;
    c->open = 3;
    c->owner->handles += 3;
    if (uv_pipe_open(&c->control, e->control[0]) == 0)
        e->control[0] = -1;
    if (uv_pipe_open(&c->output, e->output[0]) == 0)
        e->output[0] = -1;
    /* the end of a socket that cannot be read is its end all the same */
    if (uv_read_start((uv_stream_t *)&c->control, lend_control, on_control) != 0)
        uv_timer_start(&c->timer, on_timer, REAP_MS, 0);
}

int child_start(struct deputy_managed *m, uint16_t port, struct child **child, deputy_error *error)
{
    struct ends ends;
    struct child *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a start");
    c->managed = m;
    c->owner = m->owner;
    c->pidfd = -1;
    int code = DEPUTY_OK;
    if (!open_ends(&ends) || !make_mark(c))
        code = error_set(error, DEPUTY_EIO, "could not set up a start: %s", strerror(errno));
    if (code == DEPUTY_OK)
        code = spawn(c, port, &ends, error);
    if (code == DEPUTY_OK)
        c->pidfd = (int)syscall(SYS_pidfd_open, c->supervisor, 0);
    if (code == DEPUTY_OK)
        take_ends(c, &ends);
    else
        free(c);
    close_ends(&ends);
    if (code == DEPUTY_OK) {
        pthread_mutex_lock(&m->lock);
        m->supervisor = c->supervisor;
        pthread_mutex_unlock(&m->lock);
        *child = c;
    }
    return code;
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

/* One byte in an empty socket's buffer: when that fails, the other side is gone. */
static void say(struct child *c, char word)
{
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&c->control, &fd) == 0)
        (void)!send(fd, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void signal_supervisor(const struct child *c, int number)
{
    if (c->reaped)
        return;
    if (c->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, number, NULL, 0);
    else
        kill(c->supervisor, number);
}

/* One that somebody stopped does not hear it otherwise, and nobody may be there to kill it later. */
void child_stop(struct child *c)
{
    say(c, 's');
    signal_supervisor(c, SIGCONT);
}

void child_kill(struct child *c)
{
    signal_supervisor(c, SIGKILL);
}
