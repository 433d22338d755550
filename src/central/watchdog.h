/* central/watchdog.h - a server that has died answers nothing, not even that: a call into the database that lasts too
 * long loses its connection, so that the loop goes on. (PostgreSQL's own limits are kept by PostgreSQL.)
 *
 * A thread of its own looks on, from the first descriptor that is watched. All functions are for the loop's thread. */
#ifndef CENTRAL_WATCHDOG_H
#define CENTRAL_WATCHDOG_H

/* What a statement may take (a second, by its own timeout), and time for the answer that says so. */
enum { WATCHDOG_MS = 1250 };

struct watchdog;

/* NULL: out of memory. */
struct watchdog *watchdog_new(void);
void watchdog_free(struct watchdog *watchdog); /* NULL is allowed */

/* The socket from now on, borrowed; -1: none. Said before a watched one is closed. */
void watchdog_watch(struct watchdog *watchdog, int fd);

/* Around a call. When it has not ended after WATCHDOG_MS, the socket is shut down (once). */
void watchdog_begin(struct watchdog *watchdog);
void watchdog_end(struct watchdog *watchdog);

#endif
