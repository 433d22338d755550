/* managed/listener.h - who listens on a port of 127.0.0.1, as /proc knows it. Any thread. */
#ifndef MANAGED_LISTENER_H
#define MANAGED_LISTENER_H

#include <stdint.h>
#include <sys/types.h>

enum listener {
    LISTENER_NONE,
    LISTENER_OURS,     /* a descendant of root; or, when what a descendant has open is not to be seen, a process of the
                          same user */
    LISTENER_STRANGER, /* somebody else, or somebody else too */
    LISTENER_UNKNOWN   /* /proc does not say */
};

enum listener listener_at(uint16_t port, pid_t root);

#endif
