/* net/loop.h - one uv loop with one libcurl multi handle on it.
 *
 * Everything here belongs to the thread that made the loop. libcurl reports through callbacks in which neither libcurl
 * nor Lua may be called; what has to happen after one is put off until the callback has returned (http.c does that). */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct loop;

/* Makes a loop of its own, or takes one that is lent (never stopped, never closed by us). DEPUTY_OK, DEPUTY_ENOMEM or
 * DEPUTY_EIO (libcurl could not be set up); *loop is NULL then. libcurl's global initialisation happens here, once. */
int loop_new(uv_loop_t *lent, struct loop **loop);

/* Closes every handle and turns the loop until they are closed. All transfers must have ended. NULL is allowed. */
void loop_free(struct loop *loop);

uv_loop_t *loop_uv(struct loop *loop);
bool loop_is_lent(const struct loop *loop);

/* Microseconds of a clock that never runs backwards (CLOCK_MONOTONIC). */
uint64_t loop_now_us(void);

/* For http.c: the multi handle, and whether libcurl is on the stack right now (then nothing may be added or removed). */
CURLM *loop_multi(struct loop *loop);
bool loop_in_curl(const struct loop *loop);

/* For http.c: takes finished transfers from libcurl and ends them. Runs by itself after each turn of libcurl. */
void loop_reap(struct loop *loop);

#endif
