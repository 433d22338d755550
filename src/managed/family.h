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
    bool in; /* family_mark found it */
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

/* Sends SIGKILL to all that belong to the session or the group of leader, or that were started with `mark`
 * ("NAME=value") in their environment: a family whose supervisor is gone. Returns how many there were. */
size_t family_kill(pid_t leader, const char *mark);

#endif
