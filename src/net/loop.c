#include "net/loop.h"

#include "deputy.h"
#include "net/kept.h"
#include "net/url.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

enum { SPARE_MAX = 32, IDLE_CONNECTIONS_MAX = 256, PARKED_MAX = 256, TABLE_FIRST = 64 };

struct loop {
    uv_loop_t own;
    uv_loop_t *uv;
    CURLM *multi;
    uv_timer_t timer;
    uv_idle_t soon;
    struct loop_exchange *later, *added;
    struct watch **watches; /* by descriptor, or NULL */
    size_t n_watches;
    struct kept_set kept;
    size_t n_parked;
    struct watch *fresh; /* opened in this turn of libcurl */
    struct url_cache urls;
    struct pool transfers;
    CURL *spare[SPARE_MAX];
    size_t n_spare;
    unsigned n_open; /* uv handles of ours that are not closed yet */
    unsigned in_curl;
    bool lent, due, reaping, spent;
};

/* What libuv does for a new descriptor takes three system calls, and each change of what is polled for two more. So a
 * connection that libcurl keeps stays watched, and a handle stays with its number when the descriptor is closed. */
struct watch {
    uv_poll_t poll;
    curl_socket_t fd;
    int wanted;      /* by libcurl; 0: nothing */
    int events;      /* polled for; 0: stopped */
    bool connection; /* we opened it, so that we are told when it is closed */
    bool kept;       /* libcurl may use it again */
    bool parked;     /* closed; waits for the number to come again */
    struct loop *loop;
    struct watch *prev, *next; /* among the loop's fresh ones */
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

static void act(struct loop *loop, curl_socket_t fd, int events)
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
}

static void turn(struct loop *loop, curl_socket_t fd, int events)
{
    act(loop, fd, events);
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

/* ---- its sockets ---- */

static void on_socket(uv_poll_t *poll, int status, int events);

static void unwatch(struct watch *watch)
{
    if (watch->events != 0)
        uv_poll_stop(&watch->poll);
    watch->events = 0;
}

static bool rewatch(struct watch *watch)
{
    watch->events = uv_poll_start(&watch->poll, watch->wanted, on_socket) == 0 ? watch->wanted : 0;
    return watch->events != 0;
}

/* A kept connection on which something comes is at its end, which is found out when it would be used. */
static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = poll->data;
    int flags = ((events & UV_READABLE) ? CURL_CSELECT_IN : 0) | ((events & UV_WRITABLE) ? CURL_CSELECT_OUT : 0);
    if (watch->wanted == 0) {
        unwatch(watch);
        return;
    }
    if (status < 0) {
        /* A whole reply may stand before a reset. libuv stopped the handle; told nothing, libcurl looks itself. */
        rewatch(watch);
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

static struct watch *find_watch(const struct loop *loop, curl_socket_t fd)
{
    return fd >= 0 && (size_t)fd < loop->n_watches ? loop->watches[fd] : NULL;
}

static bool is_fresh(const struct watch *watch)
{
    return watch->prev != NULL;
}

static void not_fresh(struct watch *watch)
{
    if (!is_fresh(watch))
        return;
    DL_DELETE(watch->loop->fresh, watch);
    watch->prev = watch->next = NULL;
}

/* Closing a handle takes its number out of the kernel's poll set, and the number of one that is parked may be another
 * handle's of this uv loop by now, which would never hear of anything again. The poll set itself cannot be in it. */
static void let_go_of_number(struct watch *watch)
{
    watch->poll.io_watcher.fd = uv_backend_fd(watch->loop->uv);
}

static void close_watch(struct watch *watch)
{
    struct loop *loop = watch->loop;
    not_fresh(watch);
    loop->watches[watch->fd] = NULL;
    loop->n_parked -= watch->parked;
    if (watch->parked)
        let_go_of_number(watch);
    uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
}

static void close_watches(struct loop *loop)
{
    for (size_t i = 0; i < loop->n_watches; i++)
        if (loop->watches[i])
            close_watch(loop->watches[i]);
}

static bool make_place(struct loop *loop, curl_socket_t fd)
{
    size_t n = loop->n_watches ? loop->n_watches : TABLE_FIRST;
    if ((size_t)fd < loop->n_watches)
        return true;
    while (n <= (size_t)fd)
        n *= 2;
    struct watch **grown = realloc(loop->watches, n * sizeof(struct watch *));
    if (!grown)
        return false;
    memset(grown + loop->n_watches, 0, (n - loop->n_watches) * sizeof(struct watch *));
    loop->watches = grown;
    loop->n_watches = n;
    return true;
}

static struct watch *open_watch(struct loop *loop, curl_socket_t fd)
{
    struct watch *watch = find_watch(loop, fd);
    if (watch) {
        loop->n_parked -= watch->parked;
        watch->parked = false;
        return watch;
    }
    if (fd < 0 || !make_place(loop, fd))
        return NULL;
    watch = calloc(1, sizeof *watch);
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
    return loop->watches[fd] = watch;
}

/* libcurl closes a socket on which connecting failed without a word, and the next one gets its number: what was polled
 * for is gone from the kernel then. libcurl's own sockets would be handed on to the processes that the host starts. */
static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct loop *loop = user;
    (void)purpose;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    kept_remove(&loop->kept, fd);
    struct watch *watch = open_watch(loop, fd); /* without memory set_socket will say so */
    if (watch) {
        if (watch->events != 0 && watch->wanted != 0)
            rewatch(watch);
        else
            unwatch(watch);
        watch->connection = watch->kept = true;
        if (!is_fresh(watch))
            DL_APPEND(loop->fresh, watch);
    }
    return fd;
}

bool loop_is_silent(const struct loop *loop, const char *ip, int port, int local_port)
{
    return kept_is_silent(&loop->kept, ip, port, local_port);
}

static int close_socket(void *user, curl_socket_t fd)
{
    struct loop *loop = user;
    kept_remove(&loop->kept, fd);
    struct watch *watch = find_watch(loop, fd);
    if (watch && !watch->parked) {
        not_fresh(watch);
        unwatch(watch);
        watch->wanted = 0;
        watch->connection = false;
        watch->parked = true;
        if (++loop->n_parked > PARKED_MAX)
            close_watch(watch);
    }
    return close(fd);
}

/* The packet that ends the handshake carries the request as well: the server is woken once, not twice. */
static curl_socket_t open_brief_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    int fd = open_socket(user, purpose, address), off = 0;
    struct watch *watch = find_watch(user, fd);
    if (watch)
        watch->kept = false;
    if (fd != CURL_SOCKET_BAD && address->family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off));
    return fd;
}

bool loop_own_sockets(struct loop *loop, CURL *easy, bool brief)
{
    return curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, brief ? open_brief_socket : open_socket) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, loop) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, loop) == CURLE_OK;
}

static void release_watch(struct watch *watch)
{
    if (watch->connection && watch->kept)
        kept_add(&watch->loop->kept, watch->fd);
    if (watch->connection && watch->events == UV_READABLE) {
        watch->wanted = 0;
        uv_unref((uv_handle_t *)&watch->poll); /* nobody waits for it */
    } else if (!watch->parked) {
        close_watch(watch);
    }
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *unused)
{
    struct loop *loop = user;
    struct watch *watch = find_watch(loop, fd);
    (void)unused;
    if (what == CURL_POLL_REMOVE) {
        if (watch)
            release_watch(watch);
        return 0;
    }
    watch = open_watch(loop, fd);
    if (watch) {
        uv_ref((uv_handle_t *)&watch->poll);
        watch->wanted = ((what & CURL_POLL_IN) ? UV_READABLE : 0) | ((what & CURL_POLL_OUT) ? UV_WRITABLE : 0);
        if (watch->wanted == watch->events)
            return 0;
        if (is_fresh(watch) && watch->wanted == UV_WRITABLE)
            return 0; /* run_fresh looks first */
        if (rewatch(watch))
            return 0;
    }
    /* Answering -1 would make libcurl fail every transfer for good; this one alone is lost. */
    struct loop_exchange *exchange = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&exchange);
    if (exchange)
        starve(loop, exchange);
    return 0;
}

/* Another socket on this machine is connected before anybody could poll for it, so libcurl looks at once. What it has
 * not asked to be polled for by now was closed again without a word. */
static void run_fresh(struct loop *loop)
{
    struct watch *watch;
    while ((watch = loop->fresh)) {
        curl_socket_t fd = watch->fd;
        not_fresh(watch);
        if (watch->wanted == 0)
            close_watch(watch);
        if (watch->wanted != UV_WRITABLE || loop->spent)
            continue;
        act(loop, fd, CURL_CSELECT_OUT);
        watch = find_watch(loop, fd);
        if (watch && !is_fresh(watch) && watch->wanted != watch->events && !rewatch(watch))
            starve_all(loop);
    }
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
    close_watches(loop);
}

static void settle(struct loop *loop)
{
    run_fresh(loop);
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

CURL *loop_easy_take(struct loop *loop, bool *used)
{
    *used = loop->n_spare > 0;
    return *used ? loop->spare[--loop->n_spare] : curl_easy_init();
}

void loop_easy_give(struct loop *loop, CURL *easy)
{
    if (loop->n_spare == SPARE_MAX)
        curl_easy_cleanup(easy);
    else
        loop->spare[loop->n_spare++] = easy;
}

struct pool *loop_transfers(struct loop *loop)
{
    return &loop->transfers;
}

struct url_cache *loop_urls(struct loop *loop)
{
    return &loop->urls;
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
    close_watches(loop);
    kept_free(&loop->kept);
    uv_close((uv_handle_t *)&loop->timer, on_handle_closed);
    uv_close((uv_handle_t *)&loop->soon, on_handle_closed);
    while (loop->n_open > 0)
        uv_run(loop->uv, UV_RUN_NOWAIT);
    if (!loop->lent)
        uv_loop_close(&loop->own);
    url_cache_empty(&loop->urls);
    pool_empty(&loop->transfers);
    free(loop->watches);
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
