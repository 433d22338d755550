#include "gateway/callers.h"

#include "relay/address.h"

#include <string.h>
#include <strings.h>

/* ---- where from ---------------------------------------------------------------------------------------------------
 */

/* An allowed host without a port stands for all its ports. */
static bool names_host(const char *allowed, const char *host, const char *port)
{
    char name[256];
    const char *its_port;
    return address_split(allowed, name, sizeof(name), &its_port) && strcasecmp(name, host) == 0 &&
           (!*its_port || strcmp(its_port, port) == 0);
}

static bool host_is_ours(const struct gateway_settings *settings, const char *value)
{
    char host[256], own[256];
    const char *port, *own_port;
    if (!address_split(value, host, sizeof(host), &port))
        return false;
    if (address_is_loopback(host))
        return true;
    if (address_split(settings->listen, own, sizeof(own), &own_port) && strcasecmp(own, host) == 0)
        return true;
    for (size_t i = 0; i < settings->allowed_hosts.n; i++)
        if (names_host(settings->allowed_hosts.items[i], host, port))
            return true;
    return false;
}

static bool is_listed(const struct gateway_list *list, const char *value)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i], value) == 0)
            return true;
    return false;
}

bool caller_may_come(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct problem *problem)
{
    const char *host = http1_header(exchange, "host"), *origin = http1_header(exchange, "origin");
    bool by_socket = strncmp(settings->listen, "unix:", 5) == 0; /* no name leads there, so none can be rebound */
    if (!by_socket && (!host || !host_is_ours(settings, host)))
        return problem_set(
            problem, 403, "host_not_allowed",
            "the Host header%s%.100s is not one that this gateway answers to: use localhost, or add it to "
            "gateway.allowedHosts",
            host ? " " : "", host ? host : "");
    if (origin && !is_listed(&settings->allowed_origins, origin))
        return problem_set(problem, 403, "origin_not_allowed",
                           "pages of the origin %.100s may not use this gateway: add it to gateway.allowedOrigins",
                           origin);
    return true;
}

/* ---- who ----------------------------------------------------------------------------------------------------------
 */

/* Takes the same time whatever the first difference is. */
static bool same(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned char different = la != lb;
    for (size_t i = 0; i < la; i++)
        different |= (unsigned char)(a[i] ^ b[lb ? i % lb : 0]);
    return different == 0;
}

static bool is_key(const struct gateway_settings *settings, const char *value)
{
    bool found = false;
    for (size_t i = 0; i < settings->api_keys.n; i++)
        found |= same(value, settings->api_keys.items[i]);
    return found;
}

struct credentials {
    const char *bearer, *x_api_key, *deputy_key; /* NULL: not sent */
};

static const char *skip_spaces(const char *s)
{
    return s + strspn(s, " \t");
}

static bool find_credentials(const struct http1_exchange *exchange, struct credentials *c, struct problem *problem)
{
    size_t n;
    const struct http1_header *headers = http1_headers(exchange, &n);
    *c = (struct credentials){NULL, NULL, NULL};
    for (size_t i = 0; i < n; i++) {
        const char *name = headers[i].name, *value = headers[i].value;
        const char **place = strcasecmp(name, "authorization") == 0  ? &c->bearer
                             : strcasecmp(name, "x-api-key") == 0    ? &c->x_api_key
                             : strcasecmp(name, "x-deputy-key") == 0 ? &c->deputy_key
                                                                     : NULL;
        if (!place)
            continue;
        if (*place)
            return problem_set(problem, 400, "duplicate_credentials", "the %s header was sent twice", name);
        if (place == &c->bearer) {
            if (strncasecmp(value, "bearer", 6) != 0 || (value[6] != ' ' && value[6] != '\t' && value[6] != '\0'))
                return problem_set(problem, 401, "invalid_credentials",
                                   "expected an Authorization header of the form: Bearer TOKEN");
            value = skip_spaces(value + 6);
        }
        if (!*value)
            return problem_set(problem, 401, "invalid_credentials",
                               "the %s header holds no token: send one, or leave it "
                               "out",
                               name);
        *place = value;
    }
    return true;
}

static bool refuse(struct problem *problem, const char *why)
{
    problem_set(problem, 401, "invalid_api_key", "%s", why);
    problem->header = "www-authenticate";
    problem->value = "Bearer";
    return false;
}

static bool check_key(const struct gateway_settings *settings, const struct credentials *c, bool *has_key,
                      struct problem *problem)
{
    bool bearer = c->bearer && is_key(settings, c->bearer);
    bool x_api_key = c->x_api_key && is_key(settings, c->x_api_key);
    bool deputy_key = c->deputy_key && is_key(settings, c->deputy_key);
    *has_key = bearer || x_api_key || deputy_key;
    if (c->deputy_key && !deputy_key)
        return refuse(problem, "x-deputy-key is none of this gateway's keys");
    return true;
}

bool caller_identify(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct caller *caller, struct problem *problem)
{
    struct credentials c;
    bool has_key;
    caller->has_token = false;
    if (!find_credentials(exchange, &c, problem) || !check_key(settings, &c, &has_key, problem))
        return false;
    const char *token = c.bearer && !is_key(settings, c.bearer) ? c.bearer : NULL;
    if (!token && c.x_api_key && !is_key(settings, c.x_api_key))
        token = c.x_api_key;
    if (settings->api_keys.n > 0 && !has_key && !(token && http1_is_local(exchange)))
        return refuse(problem,
                      token ? "the token is none of this gateway's keys: send one of them as x-deputy-key too"
                            : "this gateway wants one of its keys: send it as a bearer token, or as x-deputy-key "
                              "beside a token of the central");
    if (settings->api_keys.n == 0 && !http1_is_local(exchange))
        return refuse(problem, "this gateway serves callers of its own machine alone: it has no keys");
    if (!token)
        return true;
    size_t len = strlen(token);
    if (len >= sizeof(caller->token))
        return refuse(problem, "the token is longer than 8192 bytes");
    memcpy(caller->token, token, len + 1);
    caller->has_token = true;
    return true;
}

bool caller_may_look(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct problem *problem)
{
    struct credentials c;
    bool has_key;
    if (http1_is_local(exchange))
        return true;
    if (!find_credentials(exchange, &c, problem) || !check_key(settings, &c, &has_key, problem))
        return false;
    return has_key || refuse(problem, "callers of other machines need one of this gateway's keys to look at this");
}

void caller_wipe(struct caller *caller)
{
    if (caller->has_token)
        explicit_bzero(caller->token, strlen(caller->token));
    caller->has_token = false;
}
