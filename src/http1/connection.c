#include "http1/connection.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utlist.h>

enum { IN_FIRST = 512, ABORT_TURNS = 100, BODY_STEP = 65536 };

static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

/* ---- ends -----------------------------------------------------------------------------------------------------------
 */

static void in_free(struct connection *c)
{
    free(c->in);
    c->in = NULL;
    c->in_len = c->in_size = 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *c = handle->data;
    struct http1_server *server = c->server;

    in_free(c);
    out_free(c);
    free(c);
    server_handle_closed(server);
}

static void tell_gone(struct connection *c)
{
    struct http1_server *server = c->server;
    struct http1_exchange *e = c->exchange;

    if (e && e->in_work) {
        e->gone = true;
        server->stats.exchanges--;
        if (server->handler.on_gone) {
            server->handler.on_gone(server->handler.user, e);
        }
    }
    c->exchange = NULL;
    exchange_free(e);
}

void connection_drop(struct connection *c)
{
    struct http1_server *server = c->server;

    if (c->phase == PHASE_CLOSED) {
        return;
    }
    c->phase = PHASE_CLOSED;
    deadline_clear(c);
    pending_remove(c);
    DL_DELETE(server->connections, c);
    server->stats.connections--;
    atomic_fetch_sub(server->limits.connections, 1);
    uv_close((uv_handle_t *)&c->poll, on_closed);
    close(c->fd);
    tell_gone(c);
}

static void reset(struct connection *c)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};

    if (c->peer.any.sa_family != AF_UNIX) {
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    connection_drop(c);
}

void connection_close(struct connection *c)
{
    if (c->until_close && (c->phase == PHASE_WORK || c->phase == PHASE_FLUSH || c->phase == PHASE_ABORT)) {
        reset(c);
    } else {
        connection_drop(c);
    }
}

/* A close with unread bytes behind it is a reset, which may overtake the reply: RFC 9112 section 9.6. */
static void close_after_reply(struct connection *c)
{
    int unread = 0;

    if (!c->must_linger && c->in_len == 0 && (ioctl(c->fd, FIONREAD, &unread) != 0 || unread == 0)) {
        connection_drop(c);
        return;
    }
    shutdown(c->fd, SHUT_WR);
    c->phase = PHASE_LINGER;
    if (!c->running) {
        in_free(c);
    }
    deadline_set(c, DEADLINE_LINGER);
    connection_watch(c);
}

/* The socket has the whole reply. */
static void finished(struct connection *c)
{
    if (!c->keep_alive || c->half_closed || c->server->draining) {
        close_after_reply(c);
        return;
    }
    c->phase = PHASE_HEAD;
    c->input_waits = false;
    deadline_set(c, DEADLINE_HEADER);
    connection_watch(c);
}

void connection_replied(struct connection *c, bool keep_alive)
{
    if (c->broken) {
        connection_drop(c);
        return;
    }
    c->keep_alive = keep_alive;
    if (c->out_len > 0) {
        c->phase = PHASE_FLUSH;
        if (c->deadline_kind != DEADLINE_WRITE) {
            deadline_set(c, DEADLINE_WRITE);
        }
        connection_watch(c);
        return;
    }
    finished(c);
    if (c->phase == PHASE_HEAD && !c->running && c->in_len > 0) {
        pending_add(c);
    }
}

/* A reset throws away what the peer has not got yet, so it waits for that: a bounded number of short turns. */
static void abort_turn(struct connection *c)
{
    int unsent = 0;

    if (c->peer.any.sa_family != AF_UNIX && ioctl(c->fd, SIOCOUTQ, &unsent) != 0) {
        unsent = 0;
    }
    if (c->broken || (c->out_len == 0 && unsent == 0) || c->abort_turns++ >= ABORT_TURNS) {
        reset(c);
        return;
    }
    deadline_set(c, DEADLINE_ABORT);
    connection_watch(c);
}

void connection_abort(struct connection *c)
{
    c->phase = PHASE_ABORT;
    c->abort_turns = 0;
    if (!c->blocked) {
        out_flush(c);
    }
    abort_turn(c);
}

static void refuse_with(struct connection *c, int status, enum refusal refusal)
{
    struct http1_exchange *e = c->exchange;
    bool with_body = !e || !e->is_head;
    char text[REFUSAL_SIZE];
    size_t len = refusal == REFUSAL_NONE ? status_text(c->server, status, with_body, text)
                                         : refusal_text(c->server, refusal, with_body, text);

    c->exchange = NULL;
    exchange_free(e);
    count_refusal(c->server, refusal);
    c->must_linger = true;
    out_send(c, &(struct iovec){text, len}, 1);
    connection_replied(c, false);
}

static void refuse(struct connection *c, enum refusal refusal)
{
    refuse_with(c, 0, refusal);
}

/* ---- requests
 * --------------------------------------------------------------------------------------------------------- */

struct view {
    const char *bytes;
    size_t len;
};

static void advance(struct view *view, size_t n)
{
    view->bytes += n;
    view->len -= n;
}

static void dispatch(struct connection *c)
{
    struct http1_server *server = c->server;

    c->phase = PHASE_WORK;
    c->exchange->in_work = true;
    server->stats.exchanges++;
    server->handler.on_request(server->handler.user, c->exchange);
    if (c->phase == PHASE_WORK && c->deadline_kind != DEADLINE_WRITE) {
        deadline_clear(c);
        if (c->blocked) {
            deadline_set(c, DEADLINE_WRITE);
        }
    }
}

/* false: refused, or answered already. */
static bool ask_handler(struct connection *c)
{
    struct http1_server *server = c->server;
    struct http1_exchange *e = c->exchange;
    bool keep_alive = e->keep_alive;
    int status;

    if (!server->handler.on_head) {
        return true;
    }
    e->keep_alive = keep_alive && exchange_is_whole(e);
    status = server->handler.on_head(server->handler.user, e);
    if (c->phase != PHASE_BODY || c->exchange != e) {
        return false;
    }
    e->keep_alive = keep_alive;
    if (status != 0) {
        refuse_with(c, status, REFUSAL_NONE);
    }
    return status == 0;
}

/* false: more bytes must come first. */
static bool take_head(struct connection *c, struct view *view)
{
    const struct http1_limits *limits = &c->server->limits;
    size_t fresh = view->len - c->checked, most = limits->max_header_bytes + 1 - c->checked, used;
    enum refusal refusal =
        head_guard_feed(&c->guard, limits->max_headers, view->bytes + c->checked, fresh < most ? fresh : most, &used);
    size_t len = c->checked += used;

    if (refusal == REFUSAL_NONE && len > limits->max_header_bytes) {
        refusal = REFUSAL_HEADER_BYTES;
    }
    if (refusal == REFUSAL_NONE && !c->guard.done) {
        return false;
    }
    if (refusal == REFUSAL_NONE) {
        refusal = exchange_open(c, view->bytes, len);
    }
    head_guard_init(&c->guard);
    c->checked = 0;
    advance(view, len);
    if (refusal != REFUSAL_NONE) {
        refuse(c, refusal);
        return true;
    }
    c->phase = PHASE_BODY;
    c->server->stats.requests++;
    if (ask_handler(c) && c->exchange->expects_continue && view->len == 0 && !exchange_is_whole(c->exchange)) {
        out_send(c, &(struct iovec){(char *)(uintptr_t)go_on, sizeof(go_on) - 1}, 1);
    }
    return true;
}

static bool take_body(struct connection *c, struct view *view)
{
    if (!exchange_is_whole(c->exchange)) {
        size_t used;
        enum refusal refusal = exchange_take(c->exchange, view->bytes, view->len, &used);

        if (refusal != REFUSAL_NONE) {
            advance(view, view->len);
            refuse(c, refusal);
            return true;
        }
        advance(view, used);
    }
    if (!exchange_is_whole(c->exchange)) {
        return false;
    }
    dispatch(c);
    return true;
}

static bool in_append(struct connection *c, const char *bytes, size_t len)
{
    if (len > c->in_size - c->in_len) {
        size_t size = c->in_size < IN_FIRST ? IN_FIRST : c->in_size * 2;
        char *in;

        size = size < c->in_len + len ? c->in_len + len : size;
        in = realloc(c->in, size);
        if (!in) {
            return false;
        }
        c->in = in;
        c->in_size = size;
    }
    memcpy(c->in + c->in_len, bytes, len);
    c->in_len += len;
    return true;
}

static void keep_rest(struct connection *c, const struct view *view, bool owned)
{
    if (c->phase >= PHASE_LINGER) {
        in_free(c);
    } else if (!owned) {
        if (view->len > 0 && !in_append(c, view->bytes, view->len)) {
            connection_drop(c);
        }
    } else if (view->len == 0) {
        in_free(c);
    } else {
        memmove(c->in, view->bytes, view->len);
        c->in_len = view->len;
    }
}

/* Whoever drips a body would hold his place for as long as he likes, were it enough that some byte comes. */
static void time_body(struct connection *c)
{
    struct http1_exchange *e = c->exchange;

    if (c->deadline_kind != DEADLINE_BODY || e->body_len - e->timed_len >= BODY_STEP) {
        e->timed_len = e->body_len;
        deadline_set(c, DEADLINE_BODY);
    }
}

/* All that the bytes allow. A handler that answers at once comes back here, not deeper: the stack stays flat however
 * many requests are pipelined. */
static void run(struct connection *c, const char *bytes, size_t len)
{
    struct view view = {bytes, len};
    bool owned = c->in_len > 0, more = true;

    if (owned) {
        if (len > 0 && !in_append(c, bytes, len)) {
            connection_drop(c);
            return;
        }
        view = (struct view){c->in, c->in_len};
    }
    c->running = true;
    while (more) {
        if (c->phase == PHASE_HEAD && view.len > 0) {
            more = take_head(c, &view);
        } else if (c->phase == PHASE_BODY && (view.len > 0 || exchange_is_whole(c->exchange))) {
            more = take_body(c, &view);
        } else {
            more = false;
        }
    }
    c->running = false;
    if (c->phase == PHASE_BODY) {
        time_body(c);
    }
    keep_rest(c, &view, owned);
}

/* ---- events
 * ------------------------------------------------------------------------------------------------------------- */

static void read_input(struct connection *c)
{
    struct http1_server *server = c->server;
    struct iovec into[2];
    size_t room = 0;
    int n = 0;
    ssize_t got;
    enum refusal refusal;

    /* a counted body goes where it stays, without a copy */
    if (c->phase == PHASE_BODY && !c->exchange->chunked) {
        refusal = exchange_room(c->exchange, &into[n++]);
        if (refusal != REFUSAL_NONE) {
            refuse(c, refusal);
            return;
        }
        room = into[0].iov_len;
    }
    into[n].iov_base = server->read;
    into[n++].iov_len = READ_SIZE;
    got = n == 1 ? recv(c->fd, server->read, READ_SIZE, MSG_DONTWAIT) : readv(c->fd, into, n);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        connection_drop(c);
        return;
    }
    server->stats.bytes_in += (uint64_t)got;
    if (room > 0) {
        room = (size_t)got < room ? (size_t)got : room;
        c->exchange->body_len += room;
    }
    run(c, server->read, (size_t)got - room);
}

static void readable(struct connection *c)
{
    ssize_t got;

    switch ((enum phase)c->phase) {
    case PHASE_HEAD:
    case PHASE_BODY:
        read_input(c);
        break;
    case PHASE_WORK:
    case PHASE_FLUSH:
        c->input_waits = true;
        connection_watch(c);
        break;
    case PHASE_LINGER:
        got = recv(c->fd, c->server->read, READ_SIZE, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            connection_drop(c);
        }
        break;
    case PHASE_ABORT:
    case PHASE_CLOSED:
        break;
    }
}

static void after_flush(struct connection *c)
{
    struct http1_server *server = c->server;

    if (c->broken) {
        connection_drop(c);
    } else if (c->phase == PHASE_FLUSH && c->out_len == 0) {
        finished(c);
        if (c->phase == PHASE_HEAD && c->in_len > 0) {
            run(c, NULL, 0);
        }
    } else if (c->phase == PHASE_ABORT && c->out_len == 0) {
        abort_turn(c);
    } else if (c->phase == PHASE_WORK && c->wants_room && c->out_len <= server->limits.max_queued_bytes / 2) {
        c->wants_room = false;
        if (server->handler.on_room) {
            server->handler.on_room(server->handler.user, c->exchange);
        }
    }
}

static void peer_left(struct connection *c)
{
    if (c->phase == PHASE_WORK) {
        connection_drop(c);
    } else if (c->phase == PHASE_FLUSH) {
        c->half_closed = true;
        connection_watch(c);
    }
}

static void on_event(uv_poll_t *handle, int status, int events)
{
    struct connection *c = handle->data;

    if (status < 0 || (c->phase == PHASE_WORK && (events & UV_DISCONNECT))) {
        connection_drop(c);
        return;
    }
    if (events & UV_WRITABLE) {
        out_flush(c);
        after_flush(c);
    }
    if (events & UV_READABLE) {
        readable(c);
    }
    if (events & UV_DISCONNECT) {
        peer_left(c);
    }
}

void connection_watch(struct connection *c)
{
    int want = UV_READABLE | UV_DISCONNECT;

    switch ((enum phase)c->phase) {
    case PHASE_HEAD:
    case PHASE_BODY:
        break;
    case PHASE_WORK:
    case PHASE_FLUSH:
        want = c->half_closed ? 0 : c->input_waits ? UV_DISCONNECT : UV_READABLE | UV_DISCONNECT;
        break;
    case PHASE_LINGER:
        want = UV_READABLE;
        break;
    case PHASE_ABORT:
        want = 0;
        break;
    case PHASE_CLOSED:
        return;
    }
    want |= c->blocked ? UV_WRITABLE : 0;
    if (want == c->interest) {
        return;
    }
    c->interest = want;
    if (want == 0) {
        uv_poll_stop(&c->poll);
    } else if (uv_poll_start(&c->poll, want, on_event) != 0) {
        c->broken = true;
        pending_add(c);
    }
}

void connection_settle(struct connection *c)
{
    if (!c->blocked && !c->broken) {
        out_flush(c);
    }
    if (c->broken) {
        connection_drop(c);
    } else if (c->phase == PHASE_HEAD && c->in_len > 0) {
        run(c, NULL, 0);
    }
}

void connection_timeout(struct connection *c)
{
    switch ((enum phase)c->phase) {
    case PHASE_HEAD:
        if (c->in_len > 0) {
            refuse(c, REFUSAL_SILENCE);
        } else {
            connection_drop(c);
        }
        break;
    case PHASE_BODY:
        refuse(c, REFUSAL_SILENCE);
        break;
    case PHASE_WORK:
    case PHASE_FLUSH:
        reset(c);
        break;
    case PHASE_LINGER:
        connection_drop(c);
        break;
    case PHASE_ABORT:
        abort_turn(c);
        break;
    case PHASE_CLOSED:
        break;
    }
}

void connection_drain(struct connection *c)
{
    if (c->phase == PHASE_HEAD && c->in_len == 0) {
        /* its request may be there already, only not read */
        read_input(c);
        if (c->phase == PHASE_HEAD && c->in_len == 0) {
            connection_drop(c);
        }
    }
}

void connection_open(struct http1_server *server, int fd, const struct sockaddr *peer, socklen_t len)
{
    struct connection *c = calloc(1, sizeof(*c));

    if (!c || uv_poll_init(server->loop, &c->poll, fd) != 0) {
        free(c);
        close(fd);
        atomic_fetch_sub(server->limits.connections, 1);
        return;
    }
    c->poll.data = c;
    c->server = server;
    c->fd = fd;
    c->deadline_kind = NO_DEADLINE;
    memcpy(&c->peer, peer, len < sizeof(c->peer) ? len : sizeof(c->peer));
    head_guard_init(&c->guard);
    server->handles++;
    server->stats.connections++;
    server->stats.accepted++;
    DL_APPEND(server->connections, c);
    deadline_set(c, DEADLINE_HEADER);
    connection_watch(c);
}
