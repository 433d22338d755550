/* managed/family.h - the processes of this machine, as /proc lists them, and who descends from whom. Any thread; needs
 * nothing else of ours, since the supervisor uses it too. */
#ifndef MANAGED_FAMILY_H
#define MANAGED_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct family_process {
    pid_t pid, parent, group, session;
    uint64_t rss_bytes;
    uint64_t born; /* in clock ticks since the machine started: with the pid, one process for ever */
    bool in;       /* family_mark found it */
};

struct family {
    struct family_process *list; /* sorted by pid */
    size_t n;
};

/* Reads them all. False: out of memory, or no /proc; then the family is empty. */
bool family_read(struct family *family);
void family_free(struct family *family);

/* Marks the living descendants of root, without itself. Returns how many. */
size_t family_mark(struct family *family, pid_t root);

/* When the process was started, as in `born`; 0: there is none. */
uint64_t family_born(pid_t pid);

/* Sends a signal to this very process: not to another that got its number meanwhile. False: it is gone. */
bool family_signal(const struct family_process *process, int number);

/* The first of a family, who leads its session. pid 0: not known, or its number may be another's by now. */
struct family_head {
    pid_t pid;
    uint64_t born;
};

/* Sends SIGKILL to all that belong to the session or the group of head, or that were started with `mark` ("NAME=value")
 * in their environment: a family whose supervisor is gone. A session's number is nobody else's while somebody is in it:
 * when nobody is, head is forgotten. Returns how many there were. */
size_t family_kill(struct family_head *head, const char *mark);

#endif
