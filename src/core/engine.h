/* core/engine.h - the engine: one loop, one registry, one policy, the runs in flight and the queue of those that have
 * something to do. What happens inside a libcurl callback only marks a run; its next step is taken from the queue. */
#ifndef CORE_ENGINE_H
#define CORE_ENGINE_H

#include "base/pool.h"
#include "core/policy.h"
#include "core/registry.h"
#include "net/loop.h"
#include "net/timer.h"

#include <pthread.h>

struct run;
struct query;

#define COUNTER_NAME_BYTES "abcdefghijklmnopqrstuvwxyz0123456789_"
enum { COUNTERS_MAX = 64, COUNTER_NAME_MAX = 64 };

struct counter {
    char name[COUNTER_NAME_MAX + 1];
    double value;
};

struct counters {
    struct counter *list;
    size_t n;
};

/* What another thread has for an engine: run is called on the engine's thread. Lies in what belongs to the poster. */
struct engine_post {
    struct engine_post *prev, *next;
    void (*run)(struct engine_post *post);
    bool posted;
};

enum { RUN_BUCKETS = 256 };

struct deputy_engine {
    pthread_t owner;
    struct loop *loop;
    struct timer_pool *timers;
    uv_idle_t idle;   /* active while the queue is not empty, so that the loop does not wait */
    uv_check_t check; /* after each poll: takes what the poll has put on the queue */
    uv_async_t async;
    unsigned handles; /* of ours, open */
    unsigned depth;   /* > 0: a callback of the host may be on the stack */
    bool closing;

    deputy_options options; /* every pointer in it is owned by the engine */
    struct registry *registry;
    struct policy *policy; /* NULL: none loaded */
    deputy_provider *central;

    struct pool run_pool, call_pool;
    struct run *runs; /* all, oldest first */
    size_t n_runs;
    struct run *by_number[RUN_BUCKETS]; /* numbers come in order, so these fill evenly */
    struct run *ready;
    struct run *resumed; /* whose script runs right now; NULL outside */
    deputy_run_id last_run;
    struct counters counters;     /* the script's */
    unsigned char caller_key[32]; /* run.caller is a MAC under it; made when first asked for */
    bool has_caller_key;

    struct query *queries; /* questions outside any run */
    size_t n_queries;
    bool queries_due; /* one is to be sent, or is over */

    struct deputy_call *working; /* calls whose provider runs on a worker thread, abandoned ones too */
    pthread_mutex_t lock;        /* guards cancels and posts */
    struct cancel *cancels;
    struct engine_post *posts;
};

/* deputy_engine_new with a registry that is shared; takes a reference. */
int engine_new(const deputy_options *options, struct registry *registry, deputy_engine **engine, deputy_error *error);

/* The runs in flight: takes one in under its number, lets it go, finds it (or NULL). */
void engine_add_run(deputy_engine *engine, struct run *run);
void engine_drop_run(deputy_engine *engine, struct run *run);
struct run *engine_find_run(const deputy_engine *engine, deputy_run_id id);

/* Does everything on the queue. */
void engine_drain(deputy_engine *engine);

/* Turns the loop once, waiting for something to happen. */
void engine_turn(deputy_engine *engine);

/* Sees to it that the loop turns soon. */
void engine_nudge(deputy_engine *engine);

/* Any thread; the engine must live. Posted twice, it runs once. drop takes it back: engine's thread; it does not run
 * after that. */
void engine_post(deputy_engine *engine, struct engine_post *post);
void engine_post_drop(deputy_engine *engine, struct engine_post *post);

/* DEPUTY_OK on the owner's thread, else DEPUTY_ETHREAD; with blocking also DEPUTY_EBUSY inside callbacks and on a lent
 * loop. */
int engine_enter(const deputy_engine *engine, bool blocking, deputy_error *error);

/* Adds n to the script's counter of that name. DEPUTY_OK, DEPUTY_ELIMIT (too many), DEPUTY_ENOMEM. */
int engine_count(deputy_engine *engine, const char *name, double n);

void engine_log(const deputy_engine *engine, deputy_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
