#include "gateway/heads.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

/* ---- trace context
 * --------------------------------------------------------------------------------------------------- */

static bool is_hex_id(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n && strspn(s, "0") < n;
}

static bool is_traceparent(const char *s)
{
    return strlen(s) == TRACEPARENT_SIZE - 1 && strncmp(s, "00-", 3) == 0 && is_hex_id(s + 3, 32) && s[35] == '-' &&
           is_hex_id(s + 36, 16) && s[52] == '-' && strspn(s + 53, "0123456789abcdef") == 2;
}

static void make_traceparent(char out[TRACEPARENT_SIZE])
{
    uint64_t random[3];
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random)) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        random[0] = random[1] = random[2] = (uint64_t)now.tv_nsec + ((uint64_t)now.tv_sec << 32) + 1;
    }
    snprintf(out, TRACEPARENT_SIZE, "00-%016llx%016llx-%016llx-01", (unsigned long long)random[0],
             (unsigned long long)random[1], (unsigned long long)random[2] | 1);
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------------ */

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcasecmp(name, *list) == 0)
            return true;
    return false;
}

/* Is the name an element of this comma-separated list? */
static bool is_named_in(const char *name, const char *list)
{
    size_t len = strlen(name);
    for (const char *p = list; p && *p;) {
        p += strspn(p, " \t,");
        size_t n = strcspn(p, ", \t");
        if (n == len && n > 0 && strncasecmp(p, name, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static bool is_of_this_hop(const char *name)
{
    static const char *const hop[] = {
        "connection",        "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade",    "content-length",     "proxy-connection",    NULL};
    return is_one_of(name, hop);
}

/* ---- up
 * ---------------------------------------------------------------------------------------------------------------- */

/* What a browser says about itself and its page, and what makes sense on this hop or with a GET alone. */
static bool stays_here(const char *name)
{
    static const char *const ours[] = {
        "host",        "expect",   "authorization", "x-api-key",         "api-key",
        "cookie",      "origin",   "referer",       "accept-encoding",   "range",
        "if-range",    "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
        "traceparent", NULL};
    return is_one_of(name, ours) || strncasecmp(name, "sec-", 4) == 0 || strncasecmp(name, "x-deputy-", 9) == 0;
}

int heads_up(const struct http1_exchange *exchange, deputy_header headers[HEADS_UP_MAX],
             char traceparent[TRACEPARENT_SIZE])
{
    size_t n;
    int kept = 0;
    const struct http1_header *all = http1_headers(exchange, &n);
    const char *connection = http1_header(exchange, "connection"), *parent = http1_header(exchange, "traceparent");
    bool valid = parent && is_traceparent(parent);
    if (valid)
        memcpy(traceparent, parent, TRACEPARENT_SIZE);
    else
        make_traceparent(traceparent);
    for (size_t i = 0; i < n; i++) {
        const char *name = all[i].name;
        if (is_of_this_hop(name) || stays_here(name) || is_named_in(name, connection))
            continue;
        if (!valid && strcasecmp(name, "tracestate") == 0) /* it belongs to a parent that is none */
            continue;
        if (kept == HEADS_UP_MAX - 1)
            return -1;
        headers[kept++] = (deputy_header){name, all[i].value};
    }
    headers[kept++] = (deputy_header){"traceparent", traceparent};
    return kept;
}

/* ---- down
 * -------------------------------------------------------------------------------------------------------------- */

bool heads_is_end_to_end(const char *name, const char *connection)
{
    static const char *const others[] = {"date", "alt-svc", NULL};
    return !is_of_this_hop(name) && !is_one_of(name, others) && strncasecmp(name, "x-deputy-", 9) != 0 &&
           strncasecmp(name, "access-control-", 15) != 0 && !is_named_in(name, connection);
}

int64_t heads_length(const char *value)
{
    int64_t length = 0;
    if (!value || !*value || strlen(value) > 15)
        return -1;
    for (; *value; value++) {
        if (*value < '0' || *value > '9')
            return -1;
        length = length * 10 + (*value - '0');
    }
    return length;
}
