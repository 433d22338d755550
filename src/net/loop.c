#include "net/loop.h"

#include "deputy.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <utlist.h>

enum { SPARE_MAX = 32, IDLE_CONNECTIONS_MAX = 256 };

struct loop {
    uv_loop_t own;
    uv_loop_t *uv;
    CURLM *multi;
    uv_timer_t timer;
    uv_idle_t soon;
    struct loop_exchange *later, *added;
    struct watch *watches;
    CURL *spare[SPARE_MAX];
    size_t n_spare;
    unsigned n_open; /* uv handles of ours that are not closed yet */
    unsigned in_curl;
    bool lent, due, reaping, spent;
};

struct watch {
    uv_poll_t poll;
    curl_socket_t fd;
    int events;
    struct loop *loop;
    struct watch *prev, *next;
};

static void settle(struct loop *loop);

uint64_t loop_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Not pthread_once: a start that failed for want of memory may succeed the next time. */
static bool init_curl(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool ready;
    pthread_mutex_lock(&lock);
    if (!ready)
        ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    bool ok = ready;
    pthread_mutex_unlock(&lock);
    return ok;
}

/* ---- libcurl's turns ---- */

static void on_soon(uv_idle_t *idle);
static void on_timer(uv_timer_t *timer);

static void wake_soon(struct loop *loop)
{
    uv_idle_start(&loop->soon, on_soon);
}

static void starve(struct loop *loop, struct loop_exchange *exchange)
{
    exchange->starved = true;
    loop_later(loop, exchange);
}

static void starve_all(struct loop *loop)
{
    for (struct loop_exchange *exchange = loop->added; exchange; exchange = exchange->after)
        starve(loop, exchange);
}

static void turn(struct loop *loop, curl_socket_t fd, int events)
{
    int running;
    loop->in_curl++;
    CURLMcode code = curl_multi_socket_action(loop->multi, fd, events, &running);
    loop->in_curl--;
    /* Which transfer it got no memory for, libcurl does not say, and its table of sockets is no longer sound: the next
     * socket of the same number would crash it. */
    if (code == CURLM_OUT_OF_MEMORY) {
        loop->spent = true;
        starve_all(loop);
    }
    settle(loop);
}

static void turn_timeout(struct loop *loop)
{
    loop->due = false;
    turn(loop, CURL_SOCKET_TIMEOUT, 0);
    /* A timer that fired a fraction too early is not set again by libcurl: it thinks it still runs. */
    long ms = -1;
    if (loop->added && !loop->due && !uv_is_active((uv_handle_t *)&loop->timer)) {
        curl_multi_timeout(loop->multi, &ms);
        if (ms >= 0)
            uv_timer_start(&loop->timer, on_timer, ms > 0 ? (uint64_t)ms : 1, 0);
    }
}

static void on_timer(uv_timer_t *timer)
{
    turn_timeout(timer->data);
}

static void on_soon(uv_idle_t *idle)
{
    struct loop *loop = idle->data;
    if (loop->due)
        turn_timeout(loop);
    else
        settle(loop);
    if (!loop->due && !loop->later)
        uv_idle_stop(idle);
}

/* "At once" goes through the idle handle: a timer of 0 would starve the sockets, one of 1 ms would cost that 1 ms. */
static int set_timer(CURLM *multi, long ms, void *user)
{
    (void)multi;
    struct loop *loop = user;
    loop->due = ms == 0;
    if (loop->due)
        wake_soon(loop);
    if (ms > 0)
        uv_timer_start(&loop->timer, on_timer, (uint64_t)ms, 0);
    else
        uv_timer_stop(&loop->timer);
    return 0;
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = poll->data;
    int flags = ((events & UV_READABLE) ? CURL_CSELECT_IN : 0) | ((events & UV_WRITABLE) ? CURL_CSELECT_OUT : 0);
    if (status < 0) {
        /* A whole reply may stand before a reset. libuv stopped the handle; told nothing, libcurl looks itself. */
        uv_poll_start(poll, watch->events, on_socket);
        flags = 0;
    }
    turn(watch->loop, watch->fd, flags);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *watch = handle->data;
    watch->loop->n_open--;
    free(watch);
}

static void close_watch(struct watch *watch)
{
    DL_DELETE(watch->loop->watches, watch);
    uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
}

static struct watch *open_watch(struct loop *loop, curl_socket_t fd)
{
    struct watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return NULL;
    if (uv_poll_init_socket(loop->uv, &watch->poll, fd) != 0) {
        free(watch);
        return NULL;
    }
    watch->poll.data = watch;
    watch->fd = fd;
    watch->loop = loop;
    loop->n_open++;
    DL_APPEND(loop->watches, watch);
    curl_multi_assign(loop->multi, fd, watch);
    return watch;
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket)
{
    struct loop *loop = user;
    struct watch *watch = socket;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            curl_multi_assign(loop->multi, fd, NULL);
            close_watch(watch);
        }
        return 0;
    }
    if (!watch)
        watch = open_watch(loop, fd);
    int events = ((what & CURL_POLL_IN) ? UV_READABLE : 0) | ((what & CURL_POLL_OUT) ? UV_WRITABLE : 0);
    if (watch && uv_poll_start(&watch->poll, events, on_socket) == 0) {
        watch->events = events;
        return 0;
    }
    /* Answering -1 would make libcurl fail every transfer for good; this one alone is lost. */
    struct loop_exchange *exchange = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&exchange);
    if (exchange)
        starve(loop, exchange);
    return 0;
}

/* ---- what waits for libcurl to return ---- */

bool loop_in_curl(const struct loop *loop)
{
    return loop->in_curl > 0;
}

void loop_later(struct loop *loop, struct loop_exchange *exchange)
{
    if (!exchange->queued) {
        exchange->queued = true;
        DL_APPEND(loop->later, exchange);
    }
    wake_soon(loop);
}

void loop_later_drop(struct loop *loop, struct loop_exchange *exchange)
{
    if (exchange->queued) {
        exchange->queued = false;
        DL_DELETE(loop->later, exchange);
    }
}

/* What is put off while this runs waits for the next turn, so that sockets get theirs in between. */
static void run_later(struct loop *loop)
{
    size_t n;
    struct loop_exchange *exchange;
    DL_COUNT(loop->later, exchange, n);
    while (n-- > 0 && loop->later) {
        exchange = loop->later;
        loop_later_drop(loop, exchange);
        exchange->on_later(exchange);
    }
}

void loop_reap(struct loop *loop)
{
    if (loop->in_curl > 0 || loop->reaping || !loop->multi)
        return;
    loop->reaping = true;
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(loop->multi, &left));) {
        struct loop_exchange *exchange = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&exchange);
        if (exchange)
            exchange->on_done(exchange, code);
    }
    loop->reaping = false;
}

/* The next exchange makes a new one. */
static void drop_multi(struct loop *loop)
{
    loop->in_curl++;
    curl_multi_cleanup(loop->multi);
    loop->in_curl--;
    loop->multi = NULL;
    loop->spent = loop->due = false;
    uv_timer_stop(&loop->timer);
    while (loop->watches)
        close_watch(loop->watches);
}

static void settle(struct loop *loop)
{
    run_later(loop);
    loop_reap(loop);
    if (loop->spent && !loop->added)
        drop_multi(loop);
}

static bool init_multi(struct loop *loop)
{
    CURLM *multi = curl_multi_init();
    if (multi && curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, set_socket) == CURLM_OK &&
        curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, loop) == CURLM_OK &&
        curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer) == CURLM_OK &&
        curl_multi_setopt(multi, CURLMOPT_TIMERDATA, loop) == CURLM_OK &&
        curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING) == CURLM_OK &&
        curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)IDLE_CONNECTIONS_MAX) == CURLM_OK) {
        loop->multi = multi;
        return true;
    }
    if (multi)
        curl_multi_cleanup(multi);
    return false;
}

/* ---- handles ---- */

CURL *loop_easy_take(struct loop *loop)
{
    return loop->n_spare > 0 ? loop->spare[--loop->n_spare] : curl_easy_init();
}

void loop_easy_give(struct loop *loop, CURL *easy)
{
    if (!easy)
        return;
    if (loop->n_spare == SPARE_MAX) {
        curl_easy_cleanup(easy);
        return;
    }
    curl_easy_reset(easy);
    /* A handle that never connected, or ran out of memory, may still have its buffer. The reset forgot how small that
     * is, libcurl would read past its end, and no other size is taken: such a handle is of no more use. */
    if (curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, LOOP_BUFFER_BYTES) != CURLE_OK) {
        curl_easy_cleanup(easy);
        return;
    }
    loop->spare[loop->n_spare++] = easy;
}

bool loop_add(struct loop *loop, CURL *easy, struct loop_exchange *exchange)
{
    if (loop->spent || (!loop->multi && !init_multi(loop)))
        return false;
    loop->in_curl++;
    CURLMcode code = curl_multi_add_handle(loop->multi, easy);
    loop->in_curl--;
    if (code == CURLM_OK)
        DL_APPEND2(loop->added, exchange, before, after);
    return code == CURLM_OK;
}

void loop_remove(struct loop *loop, CURL *easy, struct loop_exchange *exchange)
{
    DL_DELETE2(loop->added, exchange, before, after);
    loop->in_curl++;
    curl_multi_remove_handle(loop->multi, easy);
    loop->in_curl--;
}

CURLcode loop_unpause(struct loop *loop, CURL *easy)
{
    loop->in_curl++;
    CURLcode code = curl_easy_pause(easy, CURLPAUSE_CONT);
    loop->in_curl--;
    return code == CURLE_ABORTED_BY_CALLBACK ? CURLE_OUT_OF_MEMORY : code; /* set_socket never aborts */
}

/* ---- life ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct loop *loop = handle->data;
    loop->n_open--;
}

int loop_new(uv_loop_t *lent, struct loop **out)
{
    *out = NULL;
    if (!init_curl())
        return DEPUTY_EIO;
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return DEPUTY_ENOMEM;
    loop->lent = lent != NULL;
    loop->uv = lent ? lent : &loop->own;
    int code = lent ? 0 : uv_loop_init(&loop->own);
    if (code != 0) {
        free(loop);
        return code == UV_ENOMEM ? DEPUTY_ENOMEM : DEPUTY_EIO;
    }
    uv_timer_init(loop->uv, &loop->timer);
    uv_idle_init(loop->uv, &loop->soon);
    loop->timer.data = loop;
    loop->soon.data = loop;
    loop->n_open = 2;
    if (!init_multi(loop)) {
        loop_free(loop);
        return DEPUTY_ENOMEM;
    }
    *out = loop;
    return DEPUTY_OK;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    while (loop->later)
        run_later(loop);
    if (loop->multi)
        curl_multi_cleanup(loop->multi);
    while (loop->n_spare > 0)
        curl_easy_cleanup(loop->spare[--loop->n_spare]);
    while (loop->watches)
        close_watch(loop->watches);
    uv_close((uv_handle_t *)&loop->timer, on_handle_closed);
    uv_close((uv_handle_t *)&loop->soon, on_handle_closed);
    while (loop->n_open > 0)
        uv_run(loop->uv, UV_RUN_NOWAIT);
    if (!loop->lent)
        uv_loop_close(&loop->own);
    free(loop);
}

uv_loop_t *loop_uv(struct loop *loop)
{
    return loop->uv;
}

bool loop_is_lent(const struct loop *loop)
{
    return loop->lent;
}
