/* Every allocation of ours fails in its turn while a model server is made, started, used and stopped: no crash, nothing
 * left behind, and with memory it is well again. libcurl's and libuv's own are oom_test.c's. */
#include "failing_malloc.h"

#include "managed_fixture.h"

#include <poll.h>

enum { NUMBERS = 150 };

struct ended {
    int n;
    deputy_result result;
};

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct ended *e = user;
    e->n++;
    e->result = outcome->result;
}

/* One request, as a run's primary; false: it could not even be started. */
static bool ask(deputy_engine *engine, deputy_provider *provider, struct ended *e)
{
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    *e = (struct ended){0, DEPUTY_RESULT_FAILED};
    request.llm = "m";
    request.body = "{\"model\":\"m\"}";
    request.body_len = strlen(request.body);
    request.primary = provider;
    request.total_ms = 2000;
    sink.user = e;
    sink.on_end = on_end;
    if (deputy_start(engine, &request, &sink, NULL, NULL) != DEPUTY_OK)
        return false;
    for (uint64_t begun = now_ms(); e->n == 0 && now_ms() - begun < PATIENCE_MS;) {
        int ms = deputy_timeout(engine);
        struct pollfd p = {.fd = deputy_fd(engine), .events = POLLIN};
        poll(&p, 1, ms < 0 || ms > 10 ? 10 : ms);
        deputy_pump(engine);
    }
    assert_int_equal(e->n, 1);
    return true;
}

static void play(long number, bool and_on)
{
    deputy_options eo = DEPUTY_INIT(deputy_options);
    deputy_engine *engine;
    static const char *const env[] = {"A_TOKEN=0123456789", NULL};
    deputy_managed_options o = options_of(NULL);
    deputy_managed *m = NULL;
    deputy_provider *provider = NULL;
    struct ended e;
    char output[64];
    o.env = env;
    o.model = "m";
    o.api_key = "sk-0123456789";
    o.backoff_ms = 1;
    o.stop_grace_ms = 300;
    assert_int_equal(deputy_engine_new(&eo, &engine, NULL), DEPUTY_OK);
    fail_allocation(number, and_on);
    bool made = deputy_managed_new(&o, &m, NULL) == DEPUTY_OK;
    if (made && deputy_managed_provider(m, &provider, NULL) == DEPUTY_OK) {
        if (!and_on)
            ask(engine, provider, &e);
        deputy_managed_output(m, output, sizeof(output));
        status_of(m);
    }
    fail_allocation(0, false);
    if (provider) { /* there is memory again */
        deputy_managed_start(m, NULL);
        REACHES(m, READY);
        assert_true(ask(engine, provider, &e));
        assert_int_equal(e.result, DEPUTY_RESULT_OK);
        deputy_provider_unref(provider);
    }
    deputy_managed_unref(m);
    deputy_engine_free(engine);
    EVENTUALLY(!owner_is_there());
    EVENTUALLY(left_behind() == 0);
}

static void each_allocation_fails_once_and_from_then_on(void **state)
{
    (void)state;
    play(0, false);
    play(0, false);
    long before = atomic_load(&live_blocks);
    for (long i = 1; i <= NUMBERS; i += i < 60 ? 1 : 7) {
        play(i, false);
        if (i < 60)
            play(i, true);
    }
    play(0, false);
    assert_int_equal(atomic_load(&live_blocks), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_allocation_fails_once_and_from_then_on, begin_test, end_test),
    };
    return cmocka_run_group_tests_name("managed, out of memory", tests, NULL, NULL);
}
