#include "gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 2000, SEEN_MS = 10000, MAX_USES = 256, MAX_DEPTH = 64 };

/* What each process has. */
struct uses {
    size_t n;
    struct {
        pid_t pid;
        int64_t bytes;
    } each[MAX_USES];
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- asking nvidia-smi --------------------------------------------------------------------------------------------
 */

static pid_t start(int *out)
{
    static char *argv[] = {"nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits",
                           NULL};
    int fds[2];
    pid_t pid = -1;
    posix_spawn_file_actions_t actions;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return -1;
    if (posix_spawn_file_actions_init(&actions) == 0) {
        if (posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) != 0 ||
            posix_spawn_file_actions_adddup2(&actions, fds[1], 1) != 0 ||
            posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) != 0 ||
            posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ) != 0)
            pid = -1;
        posix_spawn_file_actions_destroy(&actions);
    }
    close(fds[1]);
    if (pid < 0)
        close(fds[0]);
    *out = fds[0];
    return pid;
}

/* All that comes before the deadline, ended by NUL. False when it did not end in time. */
static bool read_all(int fd, char *text, size_t size)
{
    size_t len = 0;
    int64_t late = now_ms() + WAIT_MS;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int64_t left = late - now_ms();
        if (left <= 0 || len + 1 >= size)
            return false;
        if (poll(&ready, 1, (int)left) < 0 && errno != EINTR)
            return false;
        if (!ready.revents)
            continue;
        ssize_t n = read(fd, text + len, size - 1 - len);
        if (n < 0)
            return false;
        text[len += (size_t)n] = '\0';
        if (n == 0)
            return true;
    }
}

/* Lines as in "1234, 5678"; a driver that does not know says "[N/A]". */
static void read_uses(const char *text, struct uses *uses)
{
    for (uses->n = 0; text && uses->n < MAX_USES; text = strchr(text, '\n'), text = text ? text + 1 : NULL) {
        char *comma, *end;
        long pid = strtol(text, &comma, 10);
        if (comma == text || *comma != ',' || pid <= 0 || pid > INT_MAX)
            continue;
        unsigned long long mib = strtoull(comma + 1, &end, 10);
        if (end == comma + 1 || mib > (1ull << 30))
            continue;
        uses->each[uses->n].pid = (pid_t)pid;
        uses->each[uses->n++].bytes = (int64_t)(mib << 20);
    }
}

static bool look(struct uses *uses)
{
    char text[16384];
    int fd, status = -1;
    pid_t pid = start(&fd);
    if (pid < 0)
        return false;
    text[0] = '\0';
    bool whole = read_all(fd, text, sizeof(text));
    close(fd);
    if (!whole)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!whole || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return false;
    read_uses(text, uses);
    return true;
}

/* ---- whose it is --------------------------------------------------------------------------------------------------
 */

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *after_name = strrchr(text, ')'); /* a name may hold anything; ") S 123" */
    return after_name && strlen(after_name) > 4 ? (pid_t)strtol(after_name + 4, NULL, 10) : 0;
}

static bool descends(pid_t pid, pid_t from)
{
    for (int depth = 0; pid > 1 && depth < MAX_DEPTH; depth++, pid = parent_of(pid))
        if (pid == from)
            return true;
    return false;
}

static int64_t sum(const struct uses *uses, int64_t pid)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < uses->n; i++)
        if (descends(uses->each[i].pid, (pid_t)pid))
            bytes += uses->each[i].bytes;
    return bytes;
}

int64_t gpu_memory(int64_t pid)
{
    struct uses uses;
    return pid > 0 && look(&uses) ? sum(&uses, pid) : -1;
}

/* ---- without waiting ----------------------------------------------------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    struct uses uses;
    int64_t at; /* 0: never */
    bool known, looking;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *look_again(void *unused)
{
    struct uses uses;
    (void)unused;
    bool known = look(&uses);
    pthread_mutex_lock(&seen.lock);
    if (known)
        seen.uses = uses;
    seen.known = known;
    seen.looking = false;
    seen.at = now_ms();
    pthread_mutex_unlock(&seen.lock);
    return NULL;
}

static void begin_to_look(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are for the thread that waits for them */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    seen.looking = pthread_create(&thread, &attributes, look_again, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

int64_t gpu_memory_seen(int64_t pid)
{
    if (pid <= 0)
        return -1;
    pthread_mutex_lock(&seen.lock);
    if (!seen.looking && (seen.at == 0 || now_ms() - seen.at > SEEN_MS))
        begin_to_look();
    int64_t bytes = seen.known ? sum(&seen.uses, pid) : -1;
    pthread_mutex_unlock(&seen.lock);
    return bytes;
}
