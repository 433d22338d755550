/* net/timer.h - one-shot timers that can be dropped at once: libuv frees a handle only in a later turn, so handles go
 * back to a pool instead. */
#ifndef NET_TIMER_H
#define NET_TIMER_H

#include <stdint.h>
#include <uv.h>

struct timer;
struct timer_pool;

/* DEPUTY_OK or DEPUTY_ENOMEM. The loop must outlive the pool. */
int timer_pool_new(uv_loop_t *loop, struct timer_pool **pool);

/* Closes every handle; they are gone when the loop has turned until timer_pool_closed says so. NULL is allowed. */
void timer_pool_close(struct timer_pool *pool);
int timer_pool_closed(const struct timer_pool *pool);
void timer_pool_free(struct timer_pool *pool);

/* Calls fn(user) once, from the loop, ms from now; ms is counted from the real time, not from the loop's last look at
 * the clock. NULL when out of memory. The timer is the caller's until timer_drop, also after it fired. */
struct timer *timer_start(struct timer_pool *pool, uint64_t ms, void (*fn)(void *user), void *user);
void timer_again(struct timer *timer, uint64_t ms);
void timer_drop(struct timer *timer); /* NULL is allowed */

#endif
