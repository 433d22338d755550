/* A request means the same however its bytes are cut; what the guard lets through, the parser takes the same way; and
 * what a handler is given keeps the promises of RFC 9112. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http1/connection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { MAX_HEADER_BYTES = 2000, MAX_HEADERS = 10, MAX_BODY = 1000 };

struct outcome {
    enum refusal refusal;
    bool head, whole;
    size_t used, body_len;
    char body[MAX_BODY];
};

static void demand(int truth)
{
    if (!truth) {
        abort();
    }
}

static void check_exchange(const struct http1_exchange *e)
{
    unsigned hosts = 0, lengths = 0, codings = 0;
    size_t n;
    const struct http1_header *headers = http1_headers(e, &n);

    demand(n <= MAX_HEADERS && is_token(http1_method(e)) && http1_target(e)[0] && !strpbrk(http1_target(e), " \r\n\t"));
    for (size_t i = 0; i < n; i++) {
        demand(is_token(headers[i].name) && is_field_value(headers[i].value));
        hosts += strcasecmp(headers[i].name, "host") == 0;
        lengths += strcasecmp(headers[i].name, "content-length") == 0;
        codings += strcasecmp(headers[i].name, "transfer-encoding") == 0;
    }
    demand(hosts <= 1 && (hosts == 1 || e->http_1_0));
    demand(lengths + codings <= 1 && (codings == 1) == e->chunked);
    demand(!e->chunked || strcasecmp(http1_header(e, "transfer-encoding"), "chunked") == 0);
    demand(lengths == 0 || strtoull(http1_header(e, "content-length"), NULL, 10) == e->content_length);
}

/* Returns false when more bytes must come. */
static bool feed_head(struct connection *c, const char *bytes, size_t len, struct outcome *outcome)
{
    size_t most = MAX_HEADER_BYTES + 1 - c->checked, fresh = len - c->checked, used;

    outcome->refusal = head_guard_feed(&c->guard, MAX_HEADERS, bytes + c->checked, fresh < most ? fresh : most, &used);
    demand(used <= fresh);
    c->checked += used;
    if (outcome->refusal == REFUSAL_NONE && c->checked > MAX_HEADER_BYTES) {
        outcome->refusal = REFUSAL_HEADER_BYTES;
    }
    if (outcome->refusal != REFUSAL_NONE || !c->guard.done) {
        return outcome->refusal != REFUSAL_NONE;
    }
    outcome->head = true;
    outcome->used = c->checked;
    outcome->refusal = exchange_open(c, bytes, c->checked);
    if (outcome->refusal == REFUSAL_NONE) {
        check_exchange(c->exchange);
    }
    return true;
}

static void feed_body(struct connection *c, const char *bytes, size_t len, struct outcome *outcome)
{
    size_t used;

    if (!exchange_is_whole(c->exchange) && len > 0) {
        char *copy = malloc(len); /* so that a byte too far is seen */

        demand(copy != NULL);
        memcpy(copy, bytes, len);
        outcome->refusal = exchange_take(c->exchange, copy, len, &used);
        free(copy);
        demand(used <= len && c->exchange->body_len <= MAX_BODY);
        outcome->used += used;
    }
}

static void feed(const char *text, size_t len, const uint8_t *cuts, size_t n_cuts, struct outcome *outcome)
{
    static struct http1_server server;
    struct connection c = {.server = &server};
    size_t have = 0;

    memset(outcome, 0, sizeof(*outcome));
    server.limits.max_body_bytes = MAX_BODY;
    server.limits.max_header_bytes = MAX_HEADER_BYTES;
    head_guard_init(&c.guard);
    for (size_t i = 0; have < len && outcome->refusal == REFUSAL_NONE && !outcome->whole; i++) {
        size_t n = n_cuts > 0 ? cuts[i % n_cuts] % 32U + 1U : len;
        char *copy;

        have += n < len - have ? n : len - have;
        if (!outcome->head) {
            copy = malloc(have);
            demand(copy != NULL);
            memcpy(copy, text, have);
            feed_head(&c, copy, have, outcome);
            free(copy);
        }
        if (outcome->head && outcome->refusal == REFUSAL_NONE) {
            feed_body(&c, text + outcome->used, have - outcome->used, outcome);
            outcome->whole = outcome->refusal == REFUSAL_NONE && exchange_is_whole(c.exchange);
        }
    }
    if (outcome->whole) {
        outcome->body_len = c.exchange->body_len;
        memcpy(outcome->body, http1_body(c.exchange, &(size_t){0}), outcome->body_len);
    }
    exchange_free(c.exchange);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct outcome whole, cut;
    size_t n_cuts = len < 4 ? len : 4;
    const char *text = (const char *)data + n_cuts;

    len -= n_cuts;
    feed(text, len, NULL, 0, &whole);
    feed(text, len, data, n_cuts, &cut);
    demand(whole.head == cut.head && whole.whole == cut.whole && whole.refusal == cut.refusal);
    demand(!whole.whole || (whole.used == cut.used && whole.body_len == cut.body_len &&
                            memcmp(whole.body, cut.body, whole.body_len) == 0));
    return 0;
}
