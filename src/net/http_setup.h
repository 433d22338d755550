/* net/http_setup.h - what http.c runs, and how it is set up: the fields that are sent, libcurl's options. Only for
 * net/http.c. */
#ifndef NET_HTTP_SETUP_H
#define NET_HTTP_SETUP_H

#include "net/head.h"
#include "net/http.h"

#include <curl/curl.h>
#include <stddef.h>

enum { METHOD_MAX = 32, TRANSFER_ROOM = 1024, BODY_SPANS = 3 };

enum reason { NOT_OURS, OVER_LIMIT, MALFORMED, STOPPED, STARVED, WITHHELD, LOST };

struct http_transfer {
    struct loop_exchange exchange; /* first: the loop knows no more */
    struct loop *loop;
    CURL *easy;
    struct url_parsed *url;
    struct curl_slist *fields; /* an array, with the lines behind it */
    size_t n_fields;
    char *fields_end;

    void *user;
    bool (*before_send)(void *user);
    void (*on_head)(void *user, int status, const deputy_header *headers, size_t n_headers);
    int (*on_bytes)(void *user, const void *bytes, size_t len);
    void (*on_end)(void *user, const struct http_result *result);

    struct http_span body[BODY_SPANS];
    size_t body_len, body_at;
    char *copied_body;
    size_t header_bytes, max_header_bytes; /* of all heads and trailers */

    enum reason ours; /* why one of our callbacks made libcurl stop */
    bool added, dead, paused, resume, connected, head_done, no_body, safe, trusts_other;
    char method[METHOD_MAX + 1];
    char text[CURL_ERROR_SIZE];

    size_t used; /* of the room */
    struct head head;
    _Alignas(max_align_t) char room[TRANSFER_ROOM]; /* for what is small; from head.first on nothing is zeroed */
};

/* Whether it can be sent: DEPUTY_OK, or DEPUTY_EINVAL and which part of it cannot. The URL is looked at elsewhere. */
int setup_check(const struct http_request *request, deputy_error *error);

/* What a handle keeps for as long as it lives: the safe defaults. false: out of memory. */
bool setup_handle(CURL *easy);

/* Gives t->easy what this request asks for; t has its method, url and body already, and the request has passed
 * setup_check. false: out of memory. */
bool setup_request(struct http_transfer *t, const struct http_request *request);

/* The handle lets go of all that is this transfer's, to be used again. false: it cannot be. */
bool setup_undo(const struct http_transfer *t);

/* What setup_request took. */
void setup_free(struct http_transfer *t);

#endif
