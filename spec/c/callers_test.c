/* Who may use the gateway, and whose word goes to the central as whose: callers of this machine and of others, which no
 * test over loopback can have. */
#include "gateway/callers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>

#include <cmocka.h>

#include "http1/connection.h"

#define HERE  "127.0.0.1"
#define THERE "192.0.2.7"
#define KEY   "sk-gateway"
#define TOKEN "tok-alice"

enum { FIELDS = 4 };

struct request {
    const char *from;
    struct http1_header fields[FIELDS]; /* until one without a name */
};

struct asked {
    struct connection connection;
    union {
        max_align_t aligned;
        char bytes[sizeof(struct http1_exchange)];
    } exchange;
    struct http1_header fields[FIELDS];
};

static const struct http1_exchange *ask(struct asked *a, const struct request *r)
{
    struct http1_exchange *exchange = (struct http1_exchange *)(void *)&a->exchange;
    memset(a, 0, sizeof(*a));
    memcpy(a->fields, r->fields, sizeof(a->fields));
    if (strchr(r->from, ':')) {
        a->connection.peer.v6.sin6_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, r->from, &a->connection.peer.v6.sin6_addr), 1);
    } else if (strcmp(r->from, "unix") == 0) {
        a->connection.peer.any.sa_family = AF_UNIX;
    } else {
        a->connection.peer.v4.sin_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, r->from, &a->connection.peer.v4.sin_addr), 1);
    }
    exchange->c = &a->connection;
    exchange->headers = a->fields;
    while (exchange->n_headers < FIELDS && a->fields[exchange->n_headers].name)
        exchange->n_headers++;
    return exchange;
}

static const char *const keys[] = {"sk-other", KEY};

static const struct gateway_settings with_keys = {.listen = "0.0.0.0:80", .api_keys = {keys, 2}};
static const struct gateway_settings without_keys = {.listen = "127.0.0.1:80"};

static void who_may_run_and_as_whom(void **state)
{
    static const struct {
        const struct gateway_settings *settings;
        struct request request;
        const char *want; /* the token; "": the house's; or the code of the refusal */
        int status;       /* 0: may */
    } cases[] = {
        {&without_keys, {HERE, {{0}}}, "", 0},
        {&without_keys, {"127.9.9.9", {{0}}}, "", 0},
        {&without_keys, {"::1", {{0}}}, "", 0},
        {&without_keys, {"::ffff:127.0.0.1", {{0}}}, "", 0},
        {&without_keys, {"unix", {{0}}}, "", 0},
        {&without_keys, {HERE, {{"Authorization", "Bearer " TOKEN}}}, TOKEN, 0},
        {&without_keys, {THERE, {{0}}}, "invalid_api_key", 401},
        {&without_keys, {"::ffff:192.0.2.7", {{0}}}, "invalid_api_key", 401},
        {&without_keys, {"2001:db8::1", {{0}}}, "invalid_api_key", 401},
        {&without_keys, {THERE, {{"Authorization", "Bearer " TOKEN}}}, "invalid_api_key", 401},
        {&without_keys, {HERE, {{"X-Deputy-Key", KEY}}}, "invalid_api_key", 401},

        {&with_keys, {HERE, {{0}}}, "invalid_api_key", 401},
        {&with_keys, {THERE, {{0}}}, "invalid_api_key", 401},
        {&with_keys, {THERE, {{"Authorization", "Bearer " KEY}}}, "", 0},
        {&with_keys, {THERE, {{"Authorization", "bearer\t" KEY}}}, "", 0},
        {&with_keys, {THERE, {{"Authorization", "Bearer " KEY "x"}}}, "invalid_api_key", 401},
        {&with_keys, {THERE, {{"Authorization", "Bearer sk-gatewa"}}}, "invalid_api_key", 401},
        /* the central's token opens the gateway to callers of this machine, to nobody else */
        {&with_keys, {HERE, {{"Authorization", "Bearer " TOKEN}}}, TOKEN, 0},
        {&with_keys, {THERE, {{"Authorization", "Bearer " TOKEN}}}, "invalid_api_key", 401},
        {&with_keys, {THERE, {{"Authorization", "Bearer " TOKEN}, {"X-Deputy-Key", KEY}}}, TOKEN, 0},
        {&with_keys, {HERE, {{"Authorization", "Bearer " KEY}, {"X-Deputy-Key", "no"}}}, "invalid_api_key", 401},
        /* Anthropic's libraries send what the others call a bearer token as x-api-key; a key is never the token */
        {&with_keys, {THERE, {{"X-Api-Key", TOKEN}, {"X-Deputy-Key", KEY}}}, TOKEN, 0},
        {&with_keys, {THERE, {{"X-Api-Key", KEY}}}, "", 0},
        {&with_keys, {THERE, {{"X-Api-Key", KEY}, {"X-Deputy-Key", KEY}}}, "", 0},
        {&with_keys, {THERE, {{"X-Api-Key", KEY}, {"Authorization", "Bearer " TOKEN}}}, TOKEN, 0},
        {&with_keys, {THERE, {{"X-Api-Key", TOKEN}}}, "invalid_api_key", 401},
        {&without_keys, {HERE, {{"X-Api-Key", TOKEN}}}, TOKEN, 0},

        {&without_keys, {HERE, {{"Authorization", "Basic eDp5"}}}, "invalid_credentials", 401},
        {&without_keys, {HERE, {{"Authorization", "Bearer"}}}, "invalid_credentials", 401},
        {&without_keys, {HERE, {{"Authorization", "Bearerx"}}}, "invalid_credentials", 401},
        {&without_keys, {HERE, {{"X-Api-Key", ""}}}, "invalid_credentials", 401},
        {&without_keys, {HERE, {{"X-Api-Key", TOKEN}, {"x-api-key", TOKEN}}}, "duplicate_credentials", 400},
        {&with_keys, {HERE, {{"X-Deputy-Key", KEY}, {"x-deputy-key", KEY}}}, "duplicate_credentials", 400},
    };
    struct asked asked;
    struct caller caller;
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct problem problem = {0};
        const struct http1_exchange *exchange = ask(&asked, &cases[i].request);
        bool may = caller_identify(cases[i].settings, exchange, &caller, &problem);
        const char *got = !may ? problem.code : caller.has_token ? caller.token : "";
        if (may != (cases[i].status == 0) || strcmp(got, cases[i].want) != 0 || problem.status != cases[i].status)
            fail_msg("case %zu: got %d \"%s\", want %d \"%s\"", i, problem.status, got, cases[i].status, cases[i].want);
        caller_wipe(&caller);
        assert_false(caller.has_token);
    }
}

static void a_token_that_is_too_long(void **state)
{
    static char value[CALLER_TOKEN_SIZE + sizeof("Bearer ")] = "Bearer ";
    struct request request = {HERE, {{"Authorization", value}}};
    struct asked asked;
    struct caller caller;
    struct problem problem;
    (void)state;
    memset(value + 7, 'x', CALLER_TOKEN_SIZE - 1);
    assert_true(caller_identify(&without_keys, ask(&asked, &request), &caller, &problem));
    assert_int_equal(strlen(caller.token), CALLER_TOKEN_SIZE - 1);
    caller_wipe(&caller);
    value[7 + CALLER_TOKEN_SIZE - 1] = 'x';
    assert_false(caller_identify(&without_keys, ask(&asked, &request), &caller, &problem));
    assert_int_equal(problem.status, 401);
}

/* Metrics and page tell who uses what. */
static void who_may_look(void **state)
{
    static const struct {
        const struct gateway_settings *settings;
        struct request request;
        bool may;
    } cases[] = {
        {&without_keys, {HERE, {{0}}}, true},
        {&with_keys, {HERE, {{0}}}, true},
        {&without_keys, {THERE, {{0}}}, false},
        {&with_keys, {THERE, {{0}}}, false},
        {&with_keys, {THERE, {{"Authorization", "Bearer " TOKEN}}}, false},
        {&with_keys, {THERE, {{"Authorization", "Bearer " KEY}}}, true},
        {&with_keys, {THERE, {{"X-Deputy-Key", KEY}}}, true},
        {&with_keys, {THERE, {{"Authorization", "Bearer " KEY}, {"X-Deputy-Key", "no"}}}, false},
    };
    struct asked asked;
    struct problem problem;
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        if (caller_may_look(cases[i].settings, ask(&asked, &cases[i].request), &problem) != cases[i].may)
            fail_msg("case %zu", i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_may_run_and_as_whom),
        cmocka_unit_test(a_token_that_is_too_long),
        cmocka_unit_test(who_may_look),
    };
    return cmocka_run_group_tests_name("callers", tests, NULL, NULL);
}
