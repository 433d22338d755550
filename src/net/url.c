#include "net/url.h"

#include "base/error.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- names and tokens ---- */

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static bool is_dots(const char *s, size_t len)
{
    return (len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.');
}

int url_name_check(const char *what, const char *name, deputy_error *error)
{
    size_t len = name ? strnlen(name, URL_NAME_MAX + 1) : 0;
    if (len == 0)
        return error_set(error, DEPUTY_EINVAL, "%s: expected a name of 1 to %d bytes, got none", what, URL_NAME_MAX);
    if (len > URL_NAME_MAX)
        return error_set(error, DEPUTY_EINVAL, "%s: the name is longer than %d bytes", what, URL_NAME_MAX);
    if (is_dots(name, len))
        return error_set(error, DEPUTY_EINVAL, "%s: \"%s\" cannot be a name: in a URL it means a folder", what, name);
    if (has_control(name))
        return error_set(error, DEPUTY_EINVAL, "%s: the name holds a control byte", what);
    return DEPUTY_OK;
}

bool url_token_ok(const char *token)
{
    size_t len = 0;
    for (; token && token[len]; len++)
        if (token[len] < 0x21 || token[len] > 0x7e || len == URL_TOKEN_MAX)
            return false;
    return len > 0;
}

int url_token_check(const char *token, deputy_error *error)
{
    if (url_token_ok(token))
        return DEPUTY_OK;
    return error_set(error, DEPUTY_EINVAL,
                     "bearer token: expected 1 to %d visible ASCII bytes (RFC 6750); look for a line break or a space "
                     "at its ends",
                     URL_TOKEN_MAX);
}

/* ---- URLs ---- */

/* What stands before the authority; 0 when that is not http(s) with two slashes. libcurl takes one or three too. */
static size_t scheme_len(const char *url)
{
    size_t len = strncasecmp(url, "http://", 7) == 0 ? 7 : strncasecmp(url, "https://", 8) == 0 ? 8 : 0;
    return url[len] == '/' ? 0 : len;
}

/* Whether libcurl would take it, and finds a host in it but no user. */
static CURLUcode parse(const char *url, CURLU **out, bool *has_zone)
{
    CURLU *parsed = *out = curl_url();
    if (!parsed)
        return CURLUE_OUT_OF_MEMORY;
    char *host = NULL;
    CURLUcode code = curl_url_set(parsed, CURLUPART_URL, url, CURLU_PATH_AS_IS | CURLU_DISALLOW_USER);
    if (code == CURLUE_OK)
        code = curl_url_get(parsed, CURLUPART_HOST, &host, 0);
    *has_zone = code == CURLUE_OK && host[0] == '[';
    curl_free(host);
    return code;
}

static int refuse(const char *what, const char *url, const char *why, deputy_error *error)
{
    char shown[160];
    url_redact(url, shown, sizeof shown);
    return error_set(error, DEPUTY_EINVAL, "%s: expected a URL like http://host:port/path, got %s: %s", what, shown,
                     why);
}

static int check_text(const char *what, const char *url, bool base, deputy_error *error)
{
    if (!url || !*url)
        return error_set(error, DEPUTY_EINVAL, "%s: expected a URL like http://host:port/path, got none", what);
    if (strnlen(url, URL_MAX + 1) > URL_MAX)
        return error_set(error, DEPUTY_EINVAL, "%s: the URL is longer than %d bytes", what, URL_MAX);
    if (has_control(url) || strpbrk(url, " \\"))
        return refuse(what, url, "it holds a space, a backslash or a control byte", error);
    if (scheme_len(url) == 0)
        return refuse(what, url, "it does not begin with http:// or https:// and a host", error);
    if (base && strpbrk(url, "?#"))
        return refuse(what, url, "it must have no query and no fragment", error);
    return DEPUTY_OK;
}

static int judge(const char *what, const char *url, CURLUcode code, deputy_error *error)
{
    if (code == CURLUE_OUT_OF_MEMORY)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while reading a URL");
    if (code == CURLUE_USER_NOT_ALLOWED)
        return refuse(what, url, "it must have no user and no password; use a token", error);
    return code == CURLUE_OK ? DEPUTY_OK : refuse(what, url, curl_url_strerror(code), error);
}

int url_base_check(const char *what, const char *url, deputy_error *error)
{
    CURLU *parsed;
    bool has_zone;
    int code = check_text(what, url, true, error);
    if (code != DEPUTY_OK)
        return code;
    code = judge(what, url, parse(url, &parsed, &has_zone), error);
    curl_url_cleanup(parsed);
    return code;
}

/* ---- URLs that were read before ---- */

struct url_parsed {
    unsigned refs;
    bool has_zone;
    CURLU *parsed;
    char text[];
};

void url_parsed_drop(struct url_parsed *url)
{
    if (!url || --url->refs > 0)
        return;
    curl_url_cleanup(url->parsed);
    free(url);
}

void url_cache_empty(struct url_cache *cache)
{
    for (size_t i = 0; i < URL_CACHE_SLOTS; i++) {
        url_parsed_drop(cache->slots[i]);
        cache->slots[i] = NULL;
    }
}

const char *url_parsed_text(const struct url_parsed *url)
{
    return url->text;
}

/* libcurl loses the zone of an IPv6 address when it copies what was parsed. */
CURLU *url_parsed_handle(const struct url_parsed *url)
{
    return url->has_zone ? NULL : url->parsed;
}

/* NULL, with code filled, when it cannot be read. */
static struct url_parsed *read_url(const char *url, size_t len, int *code, deputy_error *error)
{
    CURLU *parsed;
    bool has_zone;
    *code = judge("request", url, parse(url, &parsed, &has_zone), error);
    struct url_parsed *made = *code == DEPUTY_OK ? malloc(sizeof(*made) + len + 1) : NULL;
    if (!made) {
        curl_url_cleanup(parsed);
        if (*code == DEPUTY_OK)
            *code = error_set(error, DEPUTY_ENOMEM, "out of memory while reading a URL");
        return NULL;
    }
    *made = (struct url_parsed){.refs = 1, .has_zone = has_zone, .parsed = parsed};
    memcpy(made->text, url, len + 1);
    return made;
}

int url_read(struct url_cache *cache, const char *url, struct url_parsed **out, deputy_error *error)
{
    *out = NULL;
    int code = check_text("request", url, false, error);
    if (code != DEPUTY_OK)
        return code;
    size_t len = strlen(url);
    unsigned hash = 0;
    for (size_t i = 0; i < len; i++)
        hash = hash * 31 + (unsigned char)url[i];
    struct url_parsed **slot = &cache->slots[hash % URL_CACHE_SLOTS];
    struct url_parsed *found = *slot;
    if (!found || strcmp(found->text, url) != 0) {
        found = read_url(url, len, &code, error);
        if (!found)
            return code;
        if (len > URL_CACHED_MAX) {
            *out = found;
            return DEPUTY_OK;
        }
        url_parsed_drop(*slot);
        *slot = found;
    }
    found->refs++;
    *out = found;
    return DEPUTY_OK;
}

/* ---- a path with its blanks filled in ---- */

struct text {
    char *bytes;
    size_t len, size;
};

static bool add(struct text *t, const char *bytes, size_t len)
{
    if (!t->bytes || t->size - t->len < len + 1) {
        size_t size = t->len + len + 128;
        char *grown = realloc(t->bytes, size);
        if (!grown)
            return false;
        t->bytes = grown;
        t->size = size;
    }
    memcpy(t->bytes + t->len, bytes, len);
    t->len += len;
    t->bytes[t->len] = '\0';
    return true;
}

static bool is_unreserved(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = bytes[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' &&
            c != '.' && c != '~')
            return false;
    }
    return true;
}

static bool add_escaped(struct text *t, const char *bytes, size_t len)
{
    if (is_unreserved(bytes, len))
        return add(t, bytes, len);
    char *escaped = curl_easy_escape(NULL, bytes, (int)len);
    bool ok = escaped && add(t, escaped, strlen(escaped));
    curl_free(escaped);
    return ok;
}

static int out_of_memory(deputy_error *error)
{
    return error_set(error, DEPUTY_ENOMEM, "out of memory while building a URL");
}

static int add_llm(struct text *t, const char *llm, deputy_error *error)
{
    int code = url_name_check("LLM", llm, error);
    if (code != DEPUTY_OK)
        return code;
    return add_escaped(t, llm, strlen(llm)) ? DEPUTY_OK : out_of_memory(error);
}

static int add_endpoint(struct text *t, const char *endpoint, deputy_error *error)
{
    if (!endpoint || strnlen(endpoint, URL_ENDPOINT_MAX + 1) > URL_ENDPOINT_MAX || has_control(endpoint))
        return error_set(error, DEPUTY_EINVAL, "endpoint: expected 1 to %d bytes without control bytes",
                         URL_ENDPOINT_MAX);
    for (const char *at = endpoint;; at++) {
        size_t len = strcspn(at, "/");
        if (len == 0 || is_dots(at, len))
            return error_set(error, DEPUTY_EINVAL, "endpoint: \"%.128s\" has an empty, \".\" or \"..\" part", endpoint);
        if (!add_escaped(t, at, len))
            return out_of_memory(error);
        at += len;
        if (!*at)
            return DEPUTY_OK;
        if (!add(t, "/", 1))
            return out_of_memory(error);
    }
}

static bool has_dot_segment(const char *path)
{
    for (const char *end = path + strcspn(path, "?"); path < end; path++) {
        size_t len = strcspn(path, "/?");
        if (is_dots(path, len))
            return true;
        path += len;
    }
    return false;
}

static int check_path(const char *path, deputy_error *error)
{
    if (!path)
        return error_set(error, DEPUTY_EINVAL, "path: expected one like /api/{llm}, got none");
    for (const char *c = path; *c; c++)
        if (*c <= 0x20 || *c > 0x7e || strchr("\"#<>\\^`|", *c))
            return error_set(error, DEPUTY_EINVAL,
                             "path: byte %zu of \"%.128s\" cannot stand in a URL; percent-encode it",
                             (size_t)(c - path) + 1, path);
    return DEPUTY_OK;
}

static int fill_in(struct text *t, const char *path, const char *llm, const char *endpoint, deputy_error *error)
{
    int code = DEPUTY_OK;
    while (code == DEPUTY_OK && *path) {
        size_t len = strcspn(path, "{}");
        if (!add(t, path, len))
            return out_of_memory(error);
        path += len;
        if (strncmp(path, "{llm}", 5) == 0) {
            code = add_llm(t, llm, error);
            path += 5;
        } else if (strncmp(path, "{endpoint}", 10) == 0) {
            code = add_endpoint(t, endpoint, error);
            path += 10;
        } else if (*path) {
            code = error_set(error, DEPUTY_EINVAL, "path: expected {llm} or {endpoint}, got \"%.32s\"", path);
        }
    }
    return code;
}

int url_expand(const char *base, const char *path, const char *llm, const char *endpoint, char **url,
               deputy_error *error)
{
    *url = NULL;
    int code = check_text("base URL", base, true, error);
    if (code == DEPUTY_OK)
        code = check_path(path, error);
    if (code != DEPUTY_OK)
        return code;
    struct text t = {0};
    size_t len = strlen(base);
    while (base[len - 1] == '/')
        len--;
    while (*path == '/')
        path++;
    code = add(&t, base, len) && add(&t, "/", 1) ? fill_in(&t, path, llm, endpoint, error) : out_of_memory(error);
    if (code == DEPUTY_OK && has_dot_segment(t.bytes + scheme_len(base)))
        code = error_set(error, DEPUTY_EINVAL, "path: \"%.128s\" must have no \".\" or \"..\" part", path);
    if (code == DEPUTY_OK && t.len > URL_MAX)
        code = error_set(error, DEPUTY_EINVAL, "path: the URL would be longer than %d bytes", URL_MAX);
    if (code != DEPUTY_OK)
        free(t.bytes);
    else
        *url = t.bytes;
    return code;
}

/* ---- for people ---- */

/* A password with "/", "?" or "#" in it ends the authority too early; then no part of it can be told from a secret. */
static bool is_host(const char *s, size_t len)
{
    const char *colon = memrchr(s, ':', len);
    if (memchr(s, ' ', len) || len == 0)
        return false;
    if (!colon || s[0] == '[')
        return true;
    return strspn(colon + 1, "0123456789") >= (size_t)(s + len - colon - 1);
}

void url_redact(const char *url, char *out, size_t size)
{
    static const char unreadable[] = "(an unreadable URL)";
    if (size == 0)
        return;
    size_t n = 0;
    const char *authority = strstr(url, "://");
    authority = authority ? authority + 3 : url;
    size_t len = strcspn(authority, "/?#");
    const char *at = memrchr(authority, '@', len);
    const char *host = at ? at + 1 : authority;
    const char *end = host + strcspn(host, "?#");
    size_t host_len = len - (size_t)(host - authority);
    const char *parts[2] = {url, host};
    size_t lens[2] = {(size_t)(authority - url), (size_t)(end - host)};
    if (!is_host(host, host_len) || (!at && strchr(host, '@'))) {
        parts[0] = unreadable;
        lens[0] = sizeof unreadable - 1;
        lens[1] = 0;
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < lens[i] && n + 1 < size; j++)
            out[n++] = (unsigned char)parts[i][j] < 0x20 || parts[i][j] == 0x7f ? '?' : parts[i][j];
    out[n] = '\0';
}
