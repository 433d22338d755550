#include "relay/heads.h"

#include <string.h>
#include <strings.h>

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

/* splitmix64: a call into the kernel for each request would cost as much as all of its headers. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static char *put_hex(char *to, uint64_t value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        *to++ = "0123456789abcdef"[(value >> shift) & 15];
    return to;
}

static void make_traceparent(uint64_t *random, char out[TRACEPARENT_SIZE])
{
    strcpy(out, "00-");
    char *to = put_hex(put_hex(out + 3, next_random(random)), next_random(random) | 1);
    *to++ = '-';
    strcpy(put_hex(to, next_random(random) | 1), "-01");
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------------ */

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list; list++)
        if ((*name | 0x20) == **list && strcasecmp(name, *list) == 0) /* most differ in the first letter */
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

/* Several fields of one name are one list (RFC 9110 section 5.3). */
static bool is_nominated_by(const char *name, const char *field, const char *value)
{
    return (*field | 0x20) == 'c' && strcasecmp(field, "connection") == 0 && is_named_in(name, value);
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

static bool is_nominated(const char *name, const struct http1_header *headers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_nominated_by(name, headers[i].name, headers[i].value))
            return true;
    return false;
}

int heads_up(const struct http1_exchange *exchange, uint64_t *random, deputy_header headers[HEADS_UP_MAX],
             char traceparent[TRACEPARENT_SIZE])
{
    size_t n;
    int kept = 0;
    const struct http1_header *all = http1_headers(exchange, &n);
    const char *parent = http1_header(exchange, "traceparent");
    bool nominates = http1_header(exchange, "connection") != NULL;
    bool valid = parent && is_traceparent(parent);
    if (valid)
        memcpy(traceparent, parent, TRACEPARENT_SIZE);
    else
        make_traceparent(random, traceparent);
    for (size_t i = 0; i < n; i++) {
        const char *name = all[i].name;
        if (is_of_this_hop(name) || stays_here(name) || (nominates && is_nominated(name, all, n)))
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

bool heads_is_end_to_end(const char *name, const deputy_header *headers, size_t n)
{
    static const char *const others[] = {"date", "alt-svc", NULL};
    if (is_of_this_hop(name) || is_one_of(name, others) || strncasecmp(name, "x-deputy-", 9) == 0 ||
        strncasecmp(name, "access-control-", 15) == 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (is_nominated_by(name, headers[i].name, headers[i].value))
            return false;
    return true;
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
