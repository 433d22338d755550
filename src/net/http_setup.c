#include "net/http_setup.h"

#include "base/error.h"
#include "net/url.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    COPIED_BODY_MAX = 16384,
    OWN_FIELDS = 6,       /* that add_fields may add */
    OWN_FIELD_BYTES = 192 /* of them, without the token and the user agent */
};

/* ---- what is small lies in the transfer itself ---- */

/* Aligned for anything. NULL when out of memory. */
static void *take_room(struct http_transfer *t, size_t size)
{
    size_t at = t->used;
    if (size > sizeof t->room - at)
        return malloc(size);
    t->used += (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (t->used > sizeof t->room)
        t->used = sizeof t->room;
    return t->room + at;
}

static void give_room(struct http_transfer *t, void *block)
{
    uintptr_t at = (uintptr_t)block, room = (uintptr_t)t->room;
    if (at < room || at >= room + sizeof t->room)
        free(block);
}

/* ---- the fields ---- */

/* Fields that say how this connection carries the message (RFC 9110 section 7.6.1): libcurl writes its own. */
static bool is_ours(const char *name)
{
    static const char *const names[] = {"Accept-Encoding",
                                        "Connection",
                                        "Content-Length",
                                        "Expect",
                                        "Host",
                                        "Keep-Alive",
                                        "Proxy-Authorization",
                                        "Proxy-Connection",
                                        "TE",
                                        "Trailer",
                                        "Transfer-Encoding",
                                        "Upgrade"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*name | 0x20) == (*names[i] | 0x20) && strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool value_ok(const char *value)
{
    for (const unsigned char *c = (const unsigned char *)value; *c; c++)
        if ((*c < 0x20 && *c != '\t') || *c == 0x7f)
            return false;
    return true;
}

static int check_headers(const struct http_request *request, deputy_error *error)
{
    for (size_t i = 0; i < request->n_headers; i++) {
        const deputy_header *h = &request->headers[i];
        if (!h->name || !head_token_ok(h->name, strlen(h->name)))
            return error_set(error, DEPUTY_EINVAL, "header name number %zu is not a token (RFC 9110 section 5.1)",
                             i + 1);
        if (!h->value || !value_ok(h->value))
            return error_set(error, DEPUTY_EINVAL, "the value of header %.64s holds a control byte; it cannot be sent",
                             h->name);
    }
    if (request->pinned_user_agent && !value_ok(request->pinned_user_agent))
        return error_set(error, DEPUTY_EINVAL, "the user agent holds a control byte; it cannot be sent");
    return DEPUTY_OK;
}

int setup_check(const struct http_request *request, deputy_error *error)
{
    size_t len = request->method ? strlen(request->method) : 0;
    if (len > METHOD_MAX || !head_token_ok(request->method, len))
        return error_set(error, DEPUTY_EINVAL, "the method is not a token (RFC 9110 section 9.1)");
    int code = request->bearer ? url_token_check(request->bearer, error) : DEPUTY_OK;
    return code == DEPUTY_OK ? check_headers(request, error) : code;
}

/* The room was counted before. libcurl's spelling: "Name:" keeps a field away, "Name;" sends it empty. */
static void add_field(struct http_transfer *t, const char *name, const char *before, const char *value, bool blank)
{
    size_t name_len = strlen(name), before_len = strlen(before), len = strlen(value);
    struct curl_slist *field = &t->fields[t->n_fields];
    char *to = t->fields_end;
    head_trim(&value, &len);
    field->data = to;
    field->next = NULL;
    if (t->n_fields++ > 0)
        field[-1].next = field;
    memcpy(to, name, name_len);
    to += name_len;
    *to++ = len > 0 || !blank ? ':' : ';';
    if (len > 0) {
        *to++ = ' ';
        memcpy(to, before, before_len);
        memcpy(to + before_len, value, len);
        to += before_len + len;
    }
    *to++ = '\0';
    t->fields_end = to;
}

static bool make_fields(struct http_transfer *t, const struct http_request *request, const char *user_agent)
{
    size_t n = request->n_headers + OWN_FIELDS;
    size_t bytes = n * sizeof(*t->fields) + OWN_FIELD_BYTES + strlen(user_agent);
    bytes += request->bearer ? strlen(request->bearer) : 0;
    for (size_t i = 0; i < request->n_headers; i++)
        bytes += strlen(request->headers[i].name) + strlen(request->headers[i].value) + sizeof ": ";
    t->fields = take_room(t, bytes);
    t->fields_end = (char *)(t->fields + n);
    return t->fields != NULL;
}

static bool add_fields(struct http_transfer *t, const struct http_request *request)
{
    const char *user_agent = request->pinned_user_agent ? request->pinned_user_agent : "deputy/" DEPUTY_VERSION;
    bool has_type = false, has_agent = false;
    if (!make_fields(t, request, user_agent))
        return false;
    for (size_t i = 0; i < request->n_headers; i++) {
        const deputy_header *h = &request->headers[i];
        if (is_ours(h->name) || (request->bearer && strcasecmp(h->name, "Authorization") == 0))
            continue;
        has_type = has_type || strcasecmp(h->name, "Content-Type") == 0;
        has_agent = has_agent || strcasecmp(h->name, "User-Agent") == 0;
        add_field(t, h->name, "", h->value, true);
    }
    if (request->bearer)
        add_field(t, "Authorization", "Bearer ", request->bearer, true);
    if (!has_agent)
        add_field(t, "User-Agent", "", user_agent, false);
    if (!t->safe)
        add_field(t, "Expect", "", "", false);
    if (!t->no_body)
        add_field(t, "Accept-Encoding", "", "identity", true);
    if (!t->safe && !has_type)
        add_field(t, "Content-Type", "", "", false);
    if (request->fresh)
        add_field(t, "Connection", "", "close", true);
    return true;
}

/* ---- libcurl's options ---- */

/* A copy of what is small goes out together with the head and leaves libcurl no borrowed pointer. */
static bool copy_body(struct http_transfer *t)
{
    t->copied_body = take_room(t, t->body_len + 1);
    if (!t->copied_body)
        return false;
    char *to = t->copied_body;
    for (size_t i = 0; i < BODY_SPANS; i++) {
        if (t->body[i].len > 0)
            memcpy(to, t->body[i].ptr, t->body[i].len);
        to += t->body[i].len;
    }
    return true;
}

static bool set_up_method(struct http_transfer *t)
{
    CURL *easy = t->easy;
    bool is_post = strcmp(t->method, "POST") == 0;
    if (curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, t->safe || is_post ? NULL : t->method) != CURLE_OK)
        return false;
    if (t->no_body)
        return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
    if (t->safe)
        return curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    bool ok = curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body_len) == CURLE_OK;
    if (ok && t->body_len <= COPIED_BODY_MAX)
        return copy_body(t) && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, t->copied_body) == CURLE_OK;
    return ok;
}

/* A bundle of ours instead of the system's: libcurl would look into the system's folder as well. Without the folder
 * libcurl parses the system's bundle once, not for every connection. */
static bool set_up_trust(CURL *easy, const char *ca_file)
{
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
    const char *bundle = ca_file ? ca_file : info->cainfo;
    return curl_easy_setopt(easy, CURLOPT_CAINFO, bundle) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CAPATH, bundle ? NULL : info->capath) == CURLE_OK;
}

static long milliseconds(uint32_t ms)
{
    return ms > 0 && ms < INT_MAX ? (long)ms : INT_MAX;
}

struct number {
    CURLoption option;
    long value;
};

static bool set_numbers(CURL *easy, const struct number *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (curl_easy_setopt(easy, numbers[i].option, numbers[i].value) != CURLE_OK)
            return false;
    return true;
}

bool setup_handle(CURL *easy)
{
    static const struct number numbers[] = {
        {CURLOPT_NOSIGNAL, 1},
        {CURLOPT_QUICK_EXIT, 1}, /* a slow resolver outlives the deadline otherwise */
        {CURLOPT_FOLLOWLOCATION, 0},
        {CURLOPT_NETRC, CURL_NETRC_IGNORED},
        {CURLOPT_DISALLOW_USERNAME_IN_URL, 1},
        {CURLOPT_PATH_AS_IS, 1},
        {CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1},
        {CURLOPT_HTTP09_ALLOWED, 0},
        {CURLOPT_SSL_VERIFYPEER, 1},
        {CURLOPT_SSL_VERIFYHOST, 2},
        {CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2},
        {CURLOPT_SUPPRESS_CONNECT_HEADERS, 1},
        {CURLOPT_BUFFERSIZE, LOOP_BUFFER_BYTES}, /* a thousand waiting transfers hold one each */
        {CURLOPT_UPLOAD_BUFFERSIZE, 16384},
    };
    return set_numbers(easy, numbers, sizeof numbers / sizeof *numbers) &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "*") == CURLE_OK && set_up_trust(easy, NULL);
}

/* With the text beside what was parsed libcurl neither parses the one nor prints the other. */
static bool set_up_url(CURL *easy, const struct url_parsed *url)
{
    return curl_easy_setopt(easy, CURLOPT_URL, url_parsed_text(url)) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CURLU, url_parsed_handle(url)) == CURLE_OK;
}

static bool set_up_options(struct http_transfer *t, const struct http_request *request)
{
    CURL *easy = t->easy;
    bool encrypted = strncasecmp(request->url, "https:", 6) == 0;
    const struct number numbers[] = {
        {CURLOPT_FRESH_CONNECT, request->fresh || request->anew},
        {CURLOPT_FORBID_REUSE, request->fresh},
        {CURLOPT_TCP_KEEPALIVE, !request->fresh},
        {CURLOPT_TCP_NODELAY, !request->fresh || encrypted},            /* one small packet waits for nothing */
        {CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request->connect_ms)}, /* 0 would be libcurl's 300 s */
        {CURLOPT_TIMEOUT_MS, request->total_ms ? milliseconds(request->total_ms) : 0},
    };
    t->trusts_other = request->ca_file != NULL;
    return set_numbers(easy, numbers, sizeof numbers / sizeof *numbers) && set_up_url(easy, t->url) &&
           loop_own_sockets(t->loop, easy, request->fresh) &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t->fields) == CURLE_OK &&
           (!request->ca_file || set_up_trust(easy, request->ca_file)) && set_up_method(t);
}

bool setup_request(struct http_transfer *t, const struct http_request *request)
{
    return add_fields(t, request) && set_up_options(t, request);
}

/* What is not set for each request anew must be as it was. */
bool setup_undo(const struct http_transfer *t)
{
    CURL *easy = t->easy;
    return curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_POSTFIELDS, NULL) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CURLU, NULL) == CURLE_OK && (!t->trusts_other || set_up_trust(easy, NULL));
}

void setup_free(struct http_transfer *t)
{
    give_room(t, t->fields);
    give_room(t, t->copied_body);
}
