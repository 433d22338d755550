/* http1/connection.h - what listener, connection, request and reply share. */
#ifndef HTTP1_CONNECTION_H
#define HTTP1_CONNECTION_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "http1/guard.h"
#include "http1/parser.h"
#include "http1/server.h"

enum { READ_SIZE = 65536, DATE_SIZE = 32, REFUSAL_SIZE = 512 };

/* Each kind has one length, so that those who wait for it stand in order. */
enum deadline {
    DEADLINE_HEADER,
    DEADLINE_BODY,
    DEADLINE_WRITE,
    DEADLINE_LINGER,
    DEADLINE_ABORT,
    DEADLINES,
    NO_DEADLINE
};

enum phase {
    PHASE_HEAD,   /* waits for a head, or is in the midst of one */
    PHASE_BODY,   /* has a head */
    PHASE_WORK,   /* the handler has the exchange */
    PHASE_FLUSH,  /* the reply is complete; a slow reader has not taken all of it */
    PHASE_LINGER, /* nothing more is sent; what still comes is thrown away, so that the caller can read the reply */
    PHASE_ABORT,  /* what was written still gets out, then the connection is reset */
    PHASE_CLOSED,
};

struct connection {
    uv_poll_t poll;
    struct http1_server *server;
    struct connection *prev, *next;                 /* all of the server's */
    struct connection *sooner, *later;              /* with the same kind of deadline */
    struct connection *pending_prev, *pending_next; /* with something to do before the loop sleeps */
    struct http1_exchange *exchange;
    uint64_t deadline;
    char *in; /* not used yet: part of a head, or pipelined */
    size_t in_len, in_size;
    size_t checked; /* of the head's bytes, by the guard */
    char *out;      /* not taken by the socket yet */
    size_t out_start, out_len, out_size;
    size_t in_chunk; /* of its last bytes: of a chunk that may still grow; in front of them is room for its size */
    struct head_guard guard;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer;
    int fd;
    int interest;
    uint8_t phase, deadline_kind, abort_turns;
    bool pending, running, keep_alive;
    bool input_waits; /* in the kernel, while the handler works */
    bool blocked;     /* the socket takes nothing now; otherwise out waits for company */
    bool half_closed; /* by the peer, and that is known */
    bool broken;      /* the socket failed under a write */
    bool wants_room;
    bool must_linger;
    bool until_close; /* the end of the connection is that of the reply */
};

struct http1_exchange {
    struct connection *c;
    void *data;
    const char *method, *target;
    struct http1_header *headers;
    size_t n_headers, max_headers;
    char *body;
    size_t body_len, body_size;
    size_t buffered;  /* what it has of all bodies' room */
    size_t max_body;  /* as the bound was when the request began: the server's may change meanwhile */
    size_t timed_len; /* how much of the body was there when its deadline began */
    uint64_t content_length;
    uint64_t left;      /* of the reply's body, by its head */
    char *ends_at;      /* where the piece that is parsed ends: made a NUL when the parser is past it */
    const char *unread; /* of a chunked body: where the guard goes on */
    struct parser parser;
    struct chunk_guard guard;
    enum refusal refusal;
    unsigned hosts, lengths, codings;
    uint8_t kind; /* of the header that is parsed */
    bool head_parsed, http_1_0, chunked, keep_alive, expects_continue, is_head;
    bool in_work, gone, has_head, has_body, counted, reply_chunked;
    char peer[INET6_ADDRSTRLEN + 16];
    _Alignas(struct http1_header) char text[]; /* the headers' array, then the head's bytes */
};

struct http1_server {
    uv_loop_t *loop;
    uv_poll_t listener;
    uv_timer_t timer;
    uv_prepare_t prepare;
    int fd, spare_fd;
    bool listening, paused, draining, closing;
    unsigned handles; /* open */
    struct http1_limits limits;
    struct http1_handler handler;
    struct http1_stats stats;
    struct connection *connections, *pending;
    struct connection *deadlines[DEADLINES];
    uint64_t armed; /* when the timer fires; UINT64_MAX: never */
    atomic_uint own_count;
    atomic_size_t own_bytes;
    void (*done)(void *user);
    void *done_user;
    char address[128];
    char unix_path[108]; /* empty: not ours to remove */
    uint64_t unix_device, unix_inode;
    int64_t date_of; /* in seconds */
    char date[DATE_SIZE];
    char read[READ_SIZE];
};

/* ---- connection.c: reading, phases --------------------------------------------------------------------------------
 */

/* Takes the descriptor, also when it fails. */
void connection_open(struct http1_server *server, int fd, const struct sockaddr *peer, socklen_t len);
/* At once. An exchange in the handler's hands gets its on_gone. */
void connection_drop(struct connection *c);
/* The same from our side: a reply that is not over does not look as if it were. */
void connection_close(struct connection *c);
/* The exchange is over and freed, the reply is in the socket or in the queue. */
void connection_replied(struct connection *c, bool keep_alive);
void connection_abort(struct connection *c);
/* Before the loop sleeps: what waits for company is sent, what broke is dropped, what is pipelined is looked at. */
void connection_settle(struct connection *c);
void connection_timeout(struct connection *c);
void connection_drain(struct connection *c);
/* Polls for what the phase needs. */
void connection_watch(struct connection *c);

/* ---- listener.c: what waits ---------------------------------------------------------------------------------------
 */

void deadline_set(struct connection *c, enum deadline kind);
void deadline_clear(struct connection *c);
void pending_add(struct connection *c);
void pending_remove(struct connection *c);
void server_handle_closed(struct http1_server *server);

/* ---- request.c ------------------------------------------------------------------------------------------------------
 */

/* Makes the exchange of a head that the guard has passed, or says why not. */
enum refusal exchange_open(struct connection *c, const char *head, size_t len);
void exchange_free(struct http1_exchange *e);
bool exchange_is_whole(const struct http1_exchange *e);
/* The next bytes of the body; *used of them belong to it. */
enum refusal exchange_take(struct http1_exchange *e, const char *bytes, size_t len, size_t *used);
/* Where the next bytes of a counted body may be read to; *len 0 when there is no memory. */
enum refusal exchange_room(struct http1_exchange *e, struct iovec *room);

/* ---- reply.c --------------------------------------------------------------------------------------------------------
 */

/* As far as the socket takes them; the rest is copied. */
void out_send(struct connection *c, struct iovec *pieces, int n);
/* What is queued. */
void out_flush(struct connection *c);
void out_free(struct connection *c);
void count_refusal(struct http1_server *server, enum refusal refusal);
/* A whole reply of our own, with `connection: close`: its length. with_body false: for HEAD. */
size_t refusal_text(struct http1_server *server, enum refusal refusal, bool with_body, char into[REFUSAL_SIZE]);
/* The same for a handler's own status. */
size_t status_text(struct http1_server *server, int status, bool with_body, char into[REFUSAL_SIZE]);

#endif
