#include "net/timer.h"

#include "deputy.h"

#include <stdlib.h>
#include <utlist.h>

struct timer {
    uv_timer_t uv;
    struct timer_pool *pool;
    void (*fn)(void *user);
    void *user;
    struct timer *prev, *next; /* among the pool's idle ones, or those in use */
};

struct timer_pool {
    uv_loop_t *loop;
    struct timer *idle, *used;
    size_t open;
};

int timer_pool_new(uv_loop_t *loop, struct timer_pool **pool)
{
    *pool = calloc(1, sizeof(**pool));
    if (!*pool)
        return DEPUTY_ENOMEM;
    (*pool)->loop = loop;
    return DEPUTY_OK;
}

static void on_closed(uv_handle_t *handle)
{
    struct timer *t = handle->data;
    t->pool->open--;
    free(t);
}

void timer_pool_close(struct timer_pool *pool)
{
    struct timer *t, *next;
    if (!pool)
        return;
    DL_FOREACH_SAFE (pool->idle, t, next) {
        DL_DELETE(pool->idle, t);
        uv_close((uv_handle_t *)&t->uv, on_closed);
    }
    DL_FOREACH_SAFE (pool->used, t, next) {
        DL_DELETE(pool->used, t);
        uv_close((uv_handle_t *)&t->uv, on_closed);
    }
}

int timer_pool_closed(const struct timer_pool *pool)
{
    return !pool || pool->open == 0;
}

void timer_pool_free(struct timer_pool *pool)
{
    free(pool);
}

static void on_time(uv_timer_t *uv)
{
    struct timer *t = uv->data;
    t->fn(t->user);
}

struct timer *timer_start(struct timer_pool *pool, uint64_t ms, void (*fn)(void *user), void *user)
{
    struct timer *t = pool->idle;
    if (t) {
        DL_DELETE(pool->idle, t);
    } else {
        t = calloc(1, sizeof(*t));
        if (!t)
            return NULL;
        t->pool = pool;
        uv_timer_init(pool->loop, &t->uv);
        t->uv.data = t;
        pool->open++;
    }
    DL_APPEND(pool->used, t);
    t->fn = fn;
    t->user = user;
    timer_again(t, ms);
    return t;
}

void timer_again(struct timer *timer, uint64_t ms)
{
    /* the loop's clock stands still while a host computes between two pumps */
    uv_update_time(timer->pool->loop);
    uv_timer_start(&timer->uv, on_time, ms, 0);
}

void timer_drop(struct timer *timer)
{
    if (!timer)
        return;
    uv_timer_stop(&timer->uv);
    DL_DELETE(timer->pool->used, timer);
    DL_APPEND(timer->pool->idle, timer);
}
