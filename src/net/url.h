/* net/url.h - what may stand in a URL, a path segment and a header, checked before any I/O. libcurl's URL parser and
 * escaping do the work. */
#ifndef NET_URL_H
#define NET_URL_H

#include "deputy.h"

#include <curl/curl.h>

enum {
    URL_NAME_MAX = 128,
    URL_TOKEN_MAX = 8192,
    URL_ENDPOINT_MAX = 512,
    URL_MAX = 8192,
    URL_CACHE_SLOTS = 16,
    URL_CACHED_MAX = 512
};

/* An LLM's or provider's name that can be one path segment (RFC 3986 section 3.3): 1 to 128 bytes, not "." or "..", no
 * control bytes. DEPUTY_OK, or DEPUTY_EINVAL with error (may be NULL) saying what is wrong; `what` names it there. */
int url_name_check(const char *what, const char *name, deputy_error *error);

/* A bearer token: 1 to 8192 visible ASCII bytes (RFC 6750 section 2.1 allows no others). The error never shows it. */
bool url_token_ok(const char *token);
int url_token_check(const char *token, deputy_error *error);

/* An absolute http(s) URL with a host and without user, password, query or fragment. */
int url_base_check(const char *what, const char *url, deputy_error *error);

/* What was read before: parsing a URL costs as much as parsing the head of a reply. Of one thread. Zeroed, it is
 * ready. */
struct url_cache {
    struct url_parsed *slots[URL_CACHE_SLOTS];
};
void url_cache_empty(struct url_cache *cache);

/* Reads a whole URL that http.c may ask: absolute http(s), with a host, without user and password. A query is allowed.
 * *out is the caller's, for url_parsed_drop (NULL is allowed), and outlives the cache. DEPUTY_OK, DEPUTY_EINVAL,
 * DEPUTY_ENOMEM. */
int url_read(struct url_cache *cache, const char *url, struct url_parsed **out, deputy_error *error);
void url_parsed_drop(struct url_parsed *url);

/* As it came; for CURLOPT_CURLU, or NULL when libcurl has to parse the text itself. */
const char *url_parsed_text(const struct url_parsed *url);
CURLU *url_parsed_handle(const struct url_parsed *url);

/* base, checked before by url_base_check, + path with {llm} replaced by the escaped name and {endpoint} as it stands
 * ("/" kept, each segment escaped, no
 * "." or ".." segment, at most URL_ENDPOINT_MAX bytes). Any other brace in the path is refused. A slash between base
 * and path is neither doubled nor missing. llm and endpoint may be NULL when the path does not ask for them. *url is
 * malloc'ed, the caller's. DEPUTY_OK, DEPUTY_EINVAL, DEPUTY_ENOMEM. */
int url_expand(const char *base, const char *path, const char *llm, const char *endpoint, char **url,
               deputy_error *error);

/* The URL for logs and errors: user, password, query and fragment removed. Writes at most size bytes, ended by NUL. */
void url_redact(const char *url, char *out, size_t size);

#endif
