/* net/loop.h - one uv loop with one libcurl multi handle on it.
 *
 * Everything here belongs to the thread that made the loop. libcurl reports through callbacks in which neither libcurl
 * nor Lua may be called; what has to happen after one is put off until the callback has returned (http.c does that). */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include "base/pool.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct loop;
struct url_cache;

/* Makes a loop of its own, or takes one that is lent (never stopped, never closed by us). DEPUTY_OK, DEPUTY_ENOMEM or
 * DEPUTY_EIO (libcurl could not be set up); *out is NULL then. libcurl's global initialisation happens here, once.
 * While no exchange is under way nothing here keeps a lent loop alive. */
int loop_new(uv_loop_t *lent, struct loop **out);

/* Closes every handle of ours and turns the loop, without waiting, until they are closed: not from inside a callback of
 * it. All transfers must have ended. On a loop of our own, uv_close must have been called before on every handle that
 * others put on loop_uv; their close callbacks run in here. NULL is allowed. */
void loop_free(struct loop *loop);

uv_loop_t *loop_uv(struct loop *loop);
bool loop_is_lent(const struct loop *loop);

/* Microseconds of a clock that never runs backwards (CLOCK_MONOTONIC). */
uint64_t loop_now_us(void);

/* ---- for http.c only ---- */

/* What hangs on a libcurl handle as CURLOPT_PRIVATE. Zeroed but for the callbacks; both are called outside libcurl and
 * may free it. */
struct loop_exchange {
    void (*on_done)(struct loop_exchange *exchange, CURLcode code); /* libcurl is finished; still to be removed */
    void (*on_later)(struct loop_exchange *exchange);               /* what loop_later asked for */
    bool starved; /* its socket cannot be watched (on_later follows): it would never end by itself */
    bool queued;
    struct loop_exchange *prev, *next;    /* of those that wait for on_later */
    struct loop_exchange *before, *after; /* of those that are in the multi */
};

/* Whether libcurl is on the stack right now: then loop_add, loop_remove and loop_unpause must not be called. */
bool loop_in_curl(const struct loop *loop);

/* Calls on_later once, as soon as libcurl is off the stack, else from the loop's next turn; never from inside this
 * call. loop_later_drop takes that back. */
void loop_later(struct loop *loop, struct loop_exchange *exchange);
void loop_later_drop(struct loop *loop, struct loop_exchange *exchange);

#define LOOP_BUFFER_BYTES 8192L /* what a handle reads into at once */

/* A libcurl handle, or NULL when out of memory. One that was given back (*used) still has all options that were set on
 * it: whoever gives it back leaves no pointer behind that libcurl may still follow. */
CURL *loop_easy_take(struct loop *loop, bool *used);
void loop_easy_give(struct loop *loop, CURL *easy);

/* Where its transfers come from; whoever takes one says how large they are. */
struct pool *loop_transfers(struct loop *loop);

/* The URLs that were read on this loop. */
struct url_cache *loop_urls(struct loop *loop);

/* Makes its connections' sockets ours: not handed on to processes that the host starts, and watched with fewer system
 * calls. brief: for one request that is sent as soon as it is connected. false: out of memory. */
bool loop_own_sockets(struct loop *loop, CURL *easy, bool brief);

/* kept_is_silent, of a connection of this loop's. */
bool loop_is_silent(const struct loop *loop, const char *ip, int port, int local_port);

/* Adds a handle to the multi (false: out of memory), takes it out, ends its pause. */
bool loop_add(struct loop *loop, CURL *easy, struct loop_exchange *exchange);
void loop_remove(struct loop *loop, CURL *easy, struct loop_exchange *exchange);
CURLcode loop_unpause(struct loop *loop, CURL *easy);

/* Takes finished transfers from libcurl and ends them. Runs by itself after each turn of libcurl. */
void loop_reap(struct loop *loop);

#endif
