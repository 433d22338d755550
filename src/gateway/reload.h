/* gateway/reload.h - another configuration and policy while the gateway serves: on SIGHUP, when the script's file
 * changes, and when the control socket is asked to. What takes long is done on a thread of its own, once for all
 * workers; then each worker puts a new engine in place. One at a time; whoever asks meanwhile gets the next one. */
#ifndef GATEWAY_RELOAD_H
#define GATEWAY_RELOAD_H

#include "gateway/gateway.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <uv.h>

struct chief;
struct http1_exchange;
struct reload_waiter;

/* Zeroed at first. */
struct reload {
    pthread_t thread; /* of the one under way */
    uv_async_t worked;
    uv_fs_event_t watch;
    uv_timer_t settle;
    bool open, watching, busy, again;
    char script[4096];
    struct stat seen; /* the script, as it was loaded */
    /* the one under way */
    void *loaded;
    struct gateway_settings settings;
    char problem[512];
    struct reload_waiter *waiting, *waiting_for_next;
};

/* script: the one that is in force. seen: its file, as it was read. */
void reload_init(struct chief *chief, const char *script);
void reload_open(struct chief *chief);  /* watches; the loop is there */
void reload_close(struct chief *chief); /* waits for the one under way and drops it; the loop is turned after it */

/* Reloads soon. told (may be NULL) is called once it is over, from the loop, with this exchange. */
typedef void (*reload_told)(struct chief *chief, struct http1_exchange *exchange, bool ok, const char *problem);
void reload_ask(struct chief *chief, struct http1_exchange *exchange, reload_told told);

/* The caller has left. False: this exchange does not wait here. */
bool reload_forget(struct chief *chief, const struct http1_exchange *exchange);

#endif
