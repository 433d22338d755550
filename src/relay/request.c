#include "relay/request.h"

#include "relay/heads.h"

#include <string.h>
#include <strings.h>

enum { EARLY_BYTES = 65536 };

const char *request_path(const char *target, size_t *len)
{
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        target = strstr(target, "://") + 3;
        target += strcspn(target, "/?");
        if (*target != '/') {
            *len = 1;
            return "/";
        }
    }
    *len = strcspn(target, "?");
    return target;
}

bool request_agrees_with_host(const struct http1_exchange *exchange, struct problem *problem)
{
    const char *target = http1_target(exchange), *host = http1_header(exchange, "host");
    const char *authority = target[0] == '/' || target[0] == '*' ? NULL : strstr(target, "://");
    if (!authority)
        return true;
    authority += 3;
    size_t n = strcspn(authority, "/?");
    if (host && strlen(host) == n && strncasecmp(host, authority, n) == 0)
        return true;
    return problem_set(problem, 400, "host_mismatch", "the request line and the Host header name different hosts");
}

bool request_sends_json(const struct http1_exchange *exchange, struct problem *problem)
{
    const char *type = http1_header(exchange, "content-type"), *coding = http1_header(exchange, "content-encoding");
    static const char json[] = "application/json";
    size_t len = type ? strcspn(type, "; \t") : 0;
    if (len != sizeof(json) - 1 || strncasecmp(type, json, len) != 0)
        return problem_set(problem, 415, "unsupported_media_type",
                           "expected a body of type application/json, got %.100s", type ? type : "none");
    if (coding && strcasecmp(coding, "identity") != 0)
        return problem_set(problem, 415, "unsupported_encoding", "expected a body that is not compressed, got %.100s",
                           coding);
    return true;
}

bool request_is_long(const struct http1_exchange *exchange)
{
    const char *length = http1_header(exchange, "content-length");
    int64_t bytes = length ? heads_length(length) : 0;
    return bytes < 0 || bytes >= EARLY_BYTES || http1_header(exchange, "transfer-encoding") ||
           http1_header(exchange, "expect");
}
