#include "managed/family.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PROCESSES_MAX = 1 << 20, ENVIRON_MAX = 1 << 20 };

static ssize_t read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n = 0;
    if (fd < 0)
        return -1;
    while (len < size - 1 && (n = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    text[len] = '\0';
    return n < 0 ? -1 : (ssize_t)len;
}

/* The fields that count, by their numbers in proc(5): "pid (name) state ppid pgrp session ...". */
enum { STATE = 3, PARENT, GROUP, SESSION, BORN = 22, RSS_PAGES = 24 };

/* A name may hold spaces and brackets. */
static bool read_stat(long pid, struct family_process *p)
{
    char path[64], text[1024];
    long field[RSS_PAGES + 1] = {0};
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    if (read_file(path, text, sizeof(text)) <= 0)
        return false;
    const char *at = strrchr(text, ')');
    if (!at || strlen(at) < 4 || at[2] == 'Z' || at[2] == 'X')
        return false;
    at += 3;
    for (int i = PARENT; i <= RSS_PAGES; i++) {
        char *end;
        field[i] = strtol(at, &end, 10);
        if (end == at)
            return false;
        at = end;
    }
    *p = (struct family_process){.pid = (pid_t)pid,
                                 .parent = (pid_t)field[PARENT],
                                 .group = (pid_t)field[GROUP],
                                 .session = (pid_t)field[SESSION],
                                 .born = (uint64_t)field[BORN]};
    if (field[RSS_PAGES] > 0)
        p->rss_bytes = (uint64_t)field[RSS_PAGES] * (uint64_t)sysconf(_SC_PAGESIZE);
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const struct family_process *p = a, *q = b;
    return (p->pid > q->pid) - (p->pid < q->pid);
}

static bool make_room(struct family *family, size_t *size)
{
    if (family->n < *size)
        return true;
    size_t more = *size ? *size * 2 : 256;
    struct family_process *list = more <= PROCESSES_MAX ? realloc(family->list, more * sizeof(*family->list)) : NULL;
    if (!list)
        return false;
    family->list = list;
    *size = more;
    return true;
}

bool family_read(struct family *family)
{
    size_t size = 0;
    DIR *proc = opendir("/proc");
    bool ok = proc != NULL;
    *family = (struct family){NULL, 0};
    for (struct dirent *entry; ok && (entry = readdir(proc));) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (pid <= 0 || *end)
            continue;
        ok = make_room(family, &size);
        if (ok && read_stat(pid, &family->list[family->n]))
            family->n++;
    }
    if (proc)
        closedir(proc);
    if (!ok)
        family_free(family);
    if (family->n > 0)
        qsort(family->list, family->n, sizeof(*family->list), by_pid);
    return ok;
}

void family_free(struct family *family)
{
    free(family->list);
    *family = (struct family){NULL, 0};
}

static bool is_in(const struct family *family, pid_t pid, pid_t root)
{
    struct family_process key = {.pid = pid};
    if (pid == root)
        return true;
    if (family->n == 0)
        return false;
    const struct family_process *p = bsearch(&key, family->list, family->n, sizeof(key), by_pid);
    return p && p->in;
}

/* A child's number is nearly always above its parent's, so one round finds nearly all. */
size_t family_mark(struct family *family, pid_t root)
{
    size_t marked = 0, before;
    do {
        before = marked;
        for (size_t i = 0; i < family->n; i++) {
            struct family_process *p = &family->list[i];
            if (p->in || p->pid == root || !is_in(family, p->parent, root))
                continue;
            p->in = true;
            marked++;
        }
    } while (marked > before);
    return marked;
}

static bool carries(pid_t pid, const char *mark, char *text)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/environ", (long)pid);
    ssize_t len = read_file(path, text, ENVIRON_MAX);
    for (const char *p = text; len > 0 && p < text + len; p += strlen(p) + 1)
        if (strcmp(p, mark) == 0)
            return true;
    return false;
}

uint64_t family_born(pid_t pid)
{
    struct family_process p;
    return read_stat(pid, &p) ? p.born : 0;
}

/* Opened first and looked at then: what was looked at is what the descriptor means. Where there are none to be had, the
 * look is at least a moment old. */
bool family_signal(const struct family_process *p, int number)
{
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    bool same = family_born(p->pid) == p->born;
    if (same && fd >= 0)
        (void)syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
    else if (same)
        kill(p->pid, number);
    if (fd >= 0)
        close(fd);
    return same;
}

/* A process of that number which was started at another time is a stranger, and so is whoever is in its session. */
static bool is_head_still(const struct family *all, const struct family_head *head)
{
    struct family_process key = {.pid = head->pid};
    if (head->pid <= 0 || head->born == 0)
        return false;
    const struct family_process *p = all->n ? bsearch(&key, all->list, all->n, sizeof(key), by_pid) : NULL;
    return !p || p->born == head->born;
}

static bool follows(const struct family_process *p, const struct family_head *head)
{
    return head->pid > 0 && p->born >= head->born && (p->session == head->pid || p->group == head->pid);
}

size_t family_kill(struct family_head *head, const char *mark)
{
    struct family all;
    size_t n = 0, followers = 0;
    char *text = malloc(ENVIRON_MAX);
    if (text && family_read(&all)) {
        if (!is_head_still(&all, head))
            head->pid = 0;
        for (size_t i = 0; i < all.n; i++) {
            const struct family_process *p = &all.list[i];
            bool in = follows(p, head);
            if (p->pid == getpid() || p->pid == 1 || (!in && !carries(p->pid, mark, text)))
                continue;
            followers += in;
            n += family_signal(p, SIGKILL);
        }
        if (followers == 0)
            head->pid = 0;
        family_free(&all);
    }
    free(text);
    return n;
}
