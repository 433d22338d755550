/* What the central's C half makes of what Lua answers, and of the keys of upstreams. */
#include "central/app.h"
#include "central/counts.h"
#include "central/upstreams.h"

#include "deputy/provider.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_malloc.h"

#define TOKEN "dpt_very_secret"

enum { MOST_ALLOCATIONS = 200 };

static const char script[] =
    "local app, n = {}, 0\n"
    "local up = { key = 'k1', name = 'claude', url = 'http://h/v1', model = 'm', api_key_env = 'KEY' }\n"
    "local many = {} for i = 1, 40 do many['x-' .. i] = 'y' end\n"
    "local function to(changes)\n"
    "  local r = { forward = {}, endpoint = 'messages', dialect = 'messages', user = 'alice' }\n"
    "  for k, v in pairs(up) do r.forward[k] = v end\n"
    "  for k, v in pairs(changes) do if k == 'endpoint' or k == 'dialect' then r[k] = v or nil\n"
    "    else r.forward[k] = v or nil end end\n"
    "  return r\n"
    "end\n"
    "local replies = {\n"
    "  fine = { status = 200, headers = { ['x-a'] = '1' }, body = 'a\\0b', user = 'alice', route = '/r' },\n"
    "  bare = { status = 204 }, forward = to{}, plain = to{ model = false, api_key_env = false, type = 'openai' },\n"
    "  bad_nothing = {}, bad_word = { status = 'x' }, bad_float = { status = 200.5 }, bad_low = { status = 199 },\n"
    "  bad_high = { status = 600 }, bad_headers = { status = 200, headers = 'x' },\n"
    "  bad_value = { status = 200, headers = { a = 1 } }, bad_name = { status = 200, headers = { 'a' } },\n"
    "  bad_many = { status = 200, headers = many }, bad_body = { status = 200, body = 1 },\n"
    "  bad_user = { status = 200, user = {} }, bad_url = to{ url = false }, bad_key = to{ key = 1 },\n"
    "  bad_endpoint = to{ endpoint = false }, bad_dialect = to{ dialect = 'latin' }, bad_type = to{ type = 'x' },\n"
    "  bad_string = 'x',\n"
    "}\n"
    "function app:handle(r)\n"
    "  if r.target == 'bad_error' then error('with ' .. r.authorization) end\n"
    "  if r.target == 'bad_table' then error(setmetatable({}, { __tostring = function() error('x') end })) end\n"
    "  if r.target == 'bad_depth' then return self:handle(r), 1 end\n"
    "  if r.target == 'seen' then return { status = 200, body = table.concat({ r.method, r.model or '-', r.body or "
    "'-',\n"
    "    r.content_type or '-', r.id, tostring(r.nothing) }, ' ') } end\n"
    "  return replies[r.target]\n"
    "end\n"
    "function app:authorize(r) if r.target == 'go' then return nil end return self:handle(r) end\n"
    "function app:tick() n = n + 1 if n == 2 then error('tick') end end\n"
    "function app:ready() if n > 0 then return nil, 'no database' end return true end\n"
    "function app:close() error('close') end\n"
    "return { new = function(o)\n"
    "  if o.db == 'none' then return nil, 'expected a database' end\n"
    "  if o.db == 'raise' then error('two\\nlines') end\n"
    "  if o.db == 'mute' then return nil end\n"
    "  o.log('info', 'opened ' .. o.db)\n"
    "  return app\n"
    "end }\n";

static char dir[64];
static struct log log_lines;

static void write_file(const char *name, const void *bytes, size_t len)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    fclose(file);
}

static struct app *open_app(const char *db)
{
    char problem[256];
    struct app *app = app_open(dir, db, &log_lines, problem, sizeof(problem));
    assert_non_null(app);
    return app;
}

static struct app_reply ask(struct app *app, const char *target)
{
    struct app_request request = {.method = "GET",
                                  .target = target,
                                  .authorization = "Bearer " TOKEN,
                                  .id = "id-1",
                                  .body = "b\0c",
                                  .body_len = 3};
    struct app_reply reply;
    app_handle(app, &request, &reply);
    return reply;
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

static void takes_what_is_a_reply(void **state)
{
    (void)state;
    struct app *app = open_app("x");
    struct app_reply r = ask(app, "fine");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.n_headers, 1);
    assert_string_equal(r.headers[0].name, "x-a");
    assert_string_equal(r.headers[0].value, "1");
    assert_int_equal(r.body_len, 3);
    assert_memory_equal(r.body, "a\0b", 3);
    assert_string_equal(r.user, "alice");
    assert_string_equal(r.route, "/r");
    r = ask(app, "bare");
    assert_int_equal(r.status, 204);
    assert_null(r.body);
    r = ask(app, "seen");
    assert_memory_equal(r.body, "GET - b\0c - id-1 nil", r.body_len);
    app_forget(app);
    app_close(app);
}

static void takes_what_is_a_way_on(void **state)
{
    (void)state;
    struct app *app = open_app("x");
    struct app_reply r = ask(app, "forward");
    assert_false(r.failed);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.forward.key, "k1");
    assert_string_equal(r.forward.api_key_env, "KEY");
    assert_null(r.forward.api_key_file);
    assert_string_equal(r.endpoint, "messages");
    assert_int_equal(r.dialect, DIALECT_MESSAGES);
    r = ask(app, "plain");
    assert_null(r.forward.model);
    assert_null(r.forward.api_key_env);
    app_close(app);
}

static void allows_nothing_when_it_is_neither(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "bad_nothing", "bad_word", "bad_float",  "bad_low",   "bad_high",  "bad_headers", "bad_value",
        "bad_name",    "bad_many", "bad_body",   "bad_user",  "bad_url",   "bad_key",     "bad_endpoint",
        "bad_dialect", "bad_type", "bad_string", "bad_error", "bad_table", "bad_depth",   "nobody_knows"};
    struct app *app = open_app("x");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct app_reply r = ask(app, bad[i]);
        assert_true(r.failed);
        assert_int_equal(r.status, 0);
        assert_null(r.forward.key);
        assert_non_null(strstr(log_lines.lines.text, "Lua failed"));
        assert_null(strstr(log_lines.lines.text, TOKEN));
        draft_clear(&log_lines.lines);
        assert_int_equal(ask(app, "fine").status, 200);
    }
    app_close(app);
}

static void goes_on_only_when_authorize_says_nothing(void **state)
{
    (void)state;
    struct app *app = open_app("x");
    struct app_request request = {.method = "POST", .target = "go", .id = "id-1"};
    struct app_reply r;
    app_authorize(app, &request, &r);
    assert_false(r.failed);
    assert_int_equal(r.status, 0);
    request.target = "bad_nothing";
    app_authorize(app, &request, &r);
    assert_true(r.failed);
    app_close(app);
}

static void survives_its_other_calls(void **state)
{
    (void)state;
    char why[64];
    struct app *app = open_app("x");
    assert_true(app_ready(app, why, sizeof(why)));
    app_tick(app);
    app_tick(app);
    assert_false(app_ready(app, why, sizeof(why)));
    assert_string_equal(why, "no database");
    assert_true(app_bytes(app) > 1000);
    app_close(app);
    app_close(NULL);
}

static void says_in_one_line_why_it_does_not_open(void **state)
{
    (void)state;
    char problem[256];
    assert_null(app_open(dir, "none", &log_lines, problem, sizeof(problem)));
    assert_string_equal(problem, "expected a database");
    assert_null(app_open(dir, "raise", &log_lines, problem, sizeof(problem)));
    assert_null(strchr(problem, '\n'));
    assert_null(app_open(dir, "mute", &log_lines, problem, sizeof(problem)));
    assert_non_null(strstr(problem, "without saying why"));
    assert_null(app_open("/nowhere", "x", &log_lines, problem, sizeof(problem)));
    assert_non_null(strstr(problem, "central.app"));
}

/* ---- upstreams --------------------------------------------------------------------------------------------------- */

static struct upstreams upstreams;

static struct app_forward to(const char *key)
{
    return (struct app_forward){.key = key, .name = "claude", .url = "http://127.0.0.1:9/v1", .model = "m"};
}

static deputy_provider *get(const struct app_forward *forward)
{
    struct problem problem;
    struct secret *secret = NULL;
    deputy_provider *provider = upstreams_get(&upstreams, forward, &secret, &problem);
    secret_unref(secret);
    assert_non_null(provider);
    return provider;
}

static void expect_refusal(const struct app_forward *forward, const char *code)
{
    struct problem problem = {0};
    struct secret *secret = NULL;
    assert_null(upstreams_get(&upstreams, forward, &secret, &problem));
    assert_null(secret);
    assert_int_equal(problem.status, 502);
    assert_string_equal(problem.code, code);
}

static void keeps_the_ones_used_last(void **state)
{
    (void)state;
    char keys[UPSTREAMS_MAX + 1][16];
    struct app_forward first = to("first"), second = to("second");
    deputy_provider *a = get(&first), *b = get(&second);
    for (int i = 0; i < UPSTREAMS_MAX - 1; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key-%d", i);
        struct app_forward forward = to(keys[i]);
        deputy_provider_unref(get(&second));
        deputy_provider_unref(get(&forward));
    }
    deputy_provider *again = get(&first), *kept = get(&second);
    assert_ptr_not_equal(a, again);
    assert_ptr_equal(b, kept);
    deputy_provider_unref(a);
    deputy_provider_unref(b);
    deputy_provider_unref(again);
    deputy_provider_unref(kept);
    upstreams_clear(&upstreams);
}

static void reads_a_key_file_again_when_it_changed(void **state)
{
    (void)state;
    char path[128];
    struct app_forward forward = to("file");
    snprintf(path, sizeof(path), "%s/key", dir);
    forward.api_key_file = path;
    write_file("key", "sk-1\n", 5);
    deputy_provider *a = get(&forward), *b = get(&forward);
    assert_ptr_equal(a, b);
    write_file("key", "sk-22\n", 6);
    deputy_provider *c = get(&forward);
    assert_ptr_not_equal(a, c);
    unlink(path);
    expect_refusal(&forward, "upstream_key_missing");
    deputy_provider_unref(a);
    deputy_provider_unref(b);
    deputy_provider_unref(c);
    upstreams_clear(&upstreams);
}

static void refuses_what_is_no_key(void **state)
{
    (void)state;
    char path[128], big[9000];
    struct app_forward forward = to("odd");
    memset(big, 'x', sizeof(big));
    snprintf(path, sizeof(path), "%s/odd", dir);
    forward.api_key_file = path;
    write_file("odd", "", 0);
    expect_refusal(&forward, "upstream_key_missing");
    write_file("odd", " \r\n\t", 4);
    expect_refusal(&forward, "upstream_key_missing");
    write_file("odd", "a\0b", 3);
    expect_refusal(&forward, "upstream_key_missing");
    write_file("odd", big, sizeof(big));
    expect_refusal(&forward, "upstream_key_missing");
    write_file("odd", "two\nlines", 9);
    expect_refusal(&forward, "upstream_misconfigured");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refusal(&forward, "upstream_key_missing"); /* and does not wait for a writer */
    unlink(path);
    forward.api_key_file = NULL;
    forward.api_key_env = "DEPUTY_SPEC_NOT_SET";
    expect_refusal(&forward, "upstream_key_missing");
    setenv("DEPUTY_SPEC_SET", "", 1);
    forward.api_key_env = "DEPUTY_SPEC_SET";
    expect_refusal(&forward, "upstream_key_missing");
    forward.api_key_env = NULL;
    forward.url = "ftp://h";
    expect_refusal(&forward, "upstream_misconfigured");
    draft_clear(&log_lines.lines);
}

/* ---- without memory ---------------------------------------------------------------------------------------------- */

static void survives_every_allocation_that_fails(void **state)
{
    (void)state;
    setenv("DEPUTY_SPEC_KEY", "sk-1", 1);
    for (long n = 1; n < MOST_ALLOCATIONS; n++) {
        struct problem problem;
        struct app_forward forward = to("memory");
        forward.api_key_env = "DEPUTY_SPEC_KEY";
        char why[256];
        log_free(&log_lines);
        long before = live_blocks;
        log_init(&log_lines, false, DEPUTY_LOG_INFO);
        fail_allocation(n, n % 2 == 0);
        struct app *app = app_open(dir, "x", &log_lines, why, sizeof(why));
        if (app) {
            ask(app, "fine");
            ask(app, "bad_error");
            app_close(app);
        }
        struct secret *first = NULL, *second = NULL;
        deputy_provider *provider = upstreams_get(&upstreams, &forward, &first, &problem);
        deputy_provider *again = provider ? upstreams_get(&upstreams, &forward, &second, &problem) : NULL;
        secret_unref(first);
        secret_unref(second);
        fail_allocation(0, false);
        deputy_provider_unref(again);
        deputy_provider_unref(provider);
        upstreams_clear(&upstreams);
        log_free(&log_lines);
        assert_int_equal(live_blocks, before);
    }
    log_init(&log_lines, false, DEPUTY_LOG_INFO);
}

static void counts_what_has_happened(void **state)
{
    (void)state;
    struct counts *counts = calloc(1, sizeof(*counts));
    struct http1_stats stats = {.connections = 2};
    struct draft text = DRAFT(1 << 16);
    assert_non_null(counts);
    counts->replies[counts_method("HEAD")][200] = 3;
    counts->replies[counts_method("PATCH")][405] = 1;
    counts_decision(counts, 20);
    counts_decision(counts, 2000000);
    counts_write(counts, &stats, 5, &text);
    assert_non_null(strstr(text.text, "replies_total{method=\"HEAD\",status=\"200\"} 3\n"));
    assert_non_null(strstr(text.text, "replies_total{method=\"other\",status=\"405\"} 1\n"));
    assert_non_null(strstr(text.text, "decision_seconds_bucket{le=\"2.5e-05\"} 1\n"));
    assert_non_null(strstr(text.text, "decision_seconds_bucket{le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(text.text, "deputy_central_connections 2\n"));
    draft_free(&text);
    free(counts);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int make_files(void **state)
{
    (void)state;
    char path[128];
    strcpy(dir, "/tmp/deputy-central-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/central", dir);
    mkdir(path, 0700);
    write_file("central/app.lua", script, sizeof(script) - 1);
    log_init(&log_lines, false, DEPUTY_LOG_INFO);
    upstreams.log = &log_lines;
    /* what the log writes is looked at before that, and is for nobody else */
    int null = open("/dev/null", O_WRONLY);
    return null >= 0 && dup2(null, STDERR_FILENO) >= 0 && close(null) == 0 ? 0 : -1;
}

static int remove_files(void **state)
{
    (void)state;
    char path[128];
    log_free(&log_lines);
    snprintf(path, sizeof(path), "%s/central/app.lua", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/central", dir);
    rmdir(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_is_a_reply),
        cmocka_unit_test(takes_what_is_a_way_on),
        cmocka_unit_test(allows_nothing_when_it_is_neither),
        cmocka_unit_test(goes_on_only_when_authorize_says_nothing),
        cmocka_unit_test(survives_its_other_calls),
        cmocka_unit_test(says_in_one_line_why_it_does_not_open),
        cmocka_unit_test(keeps_the_ones_used_last),
        cmocka_unit_test(reads_a_key_file_again_when_it_changed),
        cmocka_unit_test(refuses_what_is_no_key),
        cmocka_unit_test(survives_every_allocation_that_fails),
        cmocka_unit_test(counts_what_has_happened),
    };
    return cmocka_run_group_tests_name("central", tests, make_files, remove_files);
}
