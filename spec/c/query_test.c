/* What a host can ask an engine besides runs: providers, without waiting, and what the script says about how things
 * are. */
#include "deputy/provider.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include <cmocka.h>

#include "failing_malloc.h"

/* ---- a provider that answers when the test says so ----------------------------------------------------------------
 */

enum conduct { YES, NO, LATER };

struct actor {
    enum conduct conduct;
    int asked, cancelled;
    deputy_call *call;
};

static int answer_as_told(void *self, deputy_call *call)
{
    static const deputy_failure no = {.kind = DEPUTY_FAILURE_CONNECT, .message = "not today"};
    struct actor *a = self;
    a->asked++;
    a->call = call;
    if (a->conduct == YES)
        return deputy_reply_end(call);
    return a->conduct == NO ? deputy_reply_fail(call, &no) : DEPUTY_OK;
}

static int name_two(void *self, deputy_call *call)
{
    deputy_reply_model(call, "one");
    deputy_reply_model(call, "two");
    return answer_as_told(self, call);
}

static int complete_nothing(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self;
    (void)request;
    return deputy_reply_end(call);
}

static void note_cancel(void *self, deputy_call *call)
{
    struct actor *a = self;
    a->cancelled++;
    if (a->call == call)
        a->call = NULL;
}

static int wait_a_little(void *self, deputy_call *call)
{
    ((struct actor *)self)->asked++;
    nanosleep(&(struct timespec){.tv_nsec = 30 * 1000000}, NULL);
    return deputy_reply_end(call);
}

static const deputy_provider_vtable actor_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(actor_vtable),
    .complete = complete_nothing,
    .list_models = name_two,
    .is_available = answer_as_told,
    .cancel = note_cancel,
};

static const deputy_provider_vtable blocking_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(blocking_vtable),
    .flags = DEPUTY_PROVIDER_BLOCKS,
    .complete = complete_nothing,
    .list_models = wait_a_little,
    .is_available = wait_a_little,
};

/* ---- a host -------------------------------------------------------------------------------------------------------
 */

struct answer {
    deputy_engine *engine;
    int told, code;
    char why[128], models[64];
    void (*inside)(struct answer *);
};

struct host {
    uv_loop_t loop;
    deputy_engine *engine;
    struct actor local, slow;
    struct answer answer;
};

static void on_model(void *user, const char *model)
{
    struct answer *a = user;
    size_t n = strlen(a->models);
    snprintf(a->models + n, sizeof(a->models) - n, "%s;", model);
}

static void on_answer(void *user, int code, const char *why)
{
    struct answer *a = user;
    a->told++;
    a->code = code;
    snprintf(a->why, sizeof(a->why), "%s", why);
    if (a->inside)
        a->inside(a);
}

static void add_provider(struct host *h, const char *name, const deputy_provider_vtable *vtable, void *self)
{
    deputy_provider *provider;
    assert_int_equal(deputy_provider_new(name, vtable, self, &provider, NULL), DEPUTY_OK);
    assert_int_equal(deputy_register(h->engine, provider, NULL), DEPUTY_OK);
}

static void new_engine(struct host *h)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    o.loop = &h->loop;
    o.verify = DEPUTY_VERIFY_OFF;
    assert_int_equal(deputy_engine_new(&o, &h->engine, NULL), DEPUTY_OK);
    add_provider(h, "local", &actor_vtable, &h->local);
    add_provider(h, "slow", &blocking_vtable, &h->slow);
    h->answer.engine = h->engine;
}

static struct host *host_new(void)
{
    struct host *h = calloc(1, sizeof(*h));
    assert_non_null(h);
    assert_int_equal(uv_loop_init(&h->loop), 0);
    new_engine(h);
    return h;
}

static void host_free(struct host *h)
{
    deputy_engine_free(h->engine);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&h->loop), 0);
    free(h);
}

/* ---- asking -------------------------------------------------------------------------------------------------------
 */

static void on_a_lent_loop(void **state)
{
    struct host *h = host_new();
    struct answer *a = &h->answer;
    bool available;
    (void)state;
    assert_int_equal(deputy_is_available(h->engine, "local", 10, &available, NULL), DEPUTY_EBUSY);
    assert_int_equal(deputy_ask_available(h->engine, "local", 1000, on_answer, a, NULL), DEPUTY_OK);
    assert_int_equal(h->local.asked, 0); /* nothing happens inside */
    assert_int_equal(a->told, 0);
    uv_run(&h->loop, UV_RUN_DEFAULT); /* an answered question keeps no loop alive */
    assert_int_equal(a->told, 1);
    assert_int_equal(a->code, DEPUTY_OK);
    assert_string_equal(a->why, "");

    h->local.conduct = NO;
    assert_int_equal(deputy_ask_available(h->engine, "local", 1000, on_answer, a, NULL), DEPUTY_OK);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_int_equal(a->told, 2);
    assert_int_equal(a->code, DEPUTY_EFAILED);
    assert_string_equal(a->why, "not today");
    host_free(h);
}

static void models_come_before_the_answer(void **state)
{
    struct host *h = host_new();
    (void)state;
    assert_int_equal(deputy_ask_models(h->engine, "local", 1000, on_model, on_answer, &h->answer, NULL), DEPUTY_OK);
    assert_string_equal(h->answer.models, "");
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_string_equal(h->answer.models, "one;two;");
    assert_int_equal(h->answer.code, DEPUTY_OK);
    assert_int_equal(deputy_ask_models(h->engine, "local", 1000, NULL, on_answer, &h->answer, NULL), DEPUTY_OK);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_int_equal(h->answer.told, 2);
    host_free(h);
}

static void within_its_time(void **state)
{
    struct host *h = host_new();
    (void)state;
    h->local.conduct = LATER;
    assert_int_equal(deputy_ask_available(h->engine, "local", 20, on_answer, &h->answer, NULL), DEPUTY_OK);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_int_equal(h->answer.code, DEPUTY_EFAILED);
    assert_non_null(strstr(h->answer.why, "in time"));
    assert_int_equal(h->local.cancelled, 1);
    assert_int_equal(deputy_ask_available(h->engine, "slow", 1000, on_answer, &h->answer, NULL), DEPUTY_OK);
    while (h->answer.told < 2)
        uv_run(&h->loop, UV_RUN_ONCE);
    assert_int_equal(h->answer.code, DEPUTY_OK);
    host_free(h);
}

static void refuses_what_cannot_be_asked(void **state)
{
    struct host *h = host_new();
    deputy_error error = {0};
    (void)state;
    h->local.conduct = LATER;
    assert_int_equal(deputy_ask_available(h->engine, "ghost", 0, on_answer, NULL, &error), DEPUTY_ENOTFOUND);
    assert_non_null(strstr(error.message, "ghost"));
    assert_int_equal(deputy_ask_available(h->engine, NULL, 0, on_answer, NULL, NULL), DEPUTY_ENOTFOUND);
    assert_int_equal(deputy_ask_available(h->engine, "local", 0, NULL, NULL, NULL), DEPUTY_EINVAL);
    assert_int_equal(deputy_ask_models(h->engine, "local", 0, NULL, NULL, NULL, NULL), DEPUTY_EINVAL);
    assert_int_equal(deputy_ask_available(NULL, "local", 0, on_answer, NULL, NULL), DEPUTY_EINVAL);
    for (int i = 0; i < 256; i++)
        assert_int_equal(deputy_ask_available(h->engine, "local", 60000, on_answer, &h->answer, NULL), DEPUTY_OK);
    assert_int_equal(deputy_ask_available(h->engine, "local", 0, on_answer, &h->answer, &error), DEPUTY_ELIMIT);
    host_free(h);
}

static void ask_anew(struct answer *a)
{
    bool available;
    a->inside = NULL;
    assert_int_equal(deputy_is_available(a->engine, "local", 10, &available, NULL), DEPUTY_EBUSY);
    assert_int_equal(deputy_ask_available(a->engine, "local", 1000, on_answer, a, NULL), DEPUTY_OK);
    assert_int_equal(a->told, 1);
}

static void from_inside_an_answer(void **state)
{
    struct host *h = host_new();
    (void)state;
    h->answer.inside = ask_anew;
    assert_int_equal(deputy_ask_available(h->engine, "local", 1000, on_answer, &h->answer, NULL), DEPUTY_OK);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_int_equal(h->answer.told, 2);
    host_free(h);
}

static void ask_too_late(struct answer *a)
{
    assert_int_equal(a->code, DEPUTY_ECANCELED);
    assert_int_equal(deputy_ask_available(a->engine, "local", 1000, on_answer, a, NULL), DEPUTY_ECANCELED);
}

static void freed_meanwhile(void **state)
{
    struct host *h = host_new();
    (void)state;
    h->local.conduct = LATER;
    h->answer.inside = ask_too_late;
    assert_int_equal(deputy_ask_available(h->engine, "local", 60000, on_answer, &h->answer, NULL), DEPUTY_OK);
    assert_int_equal(deputy_ask_available(h->engine, "slow", 60000, on_answer, &h->answer, NULL), DEPUTY_OK);
    uv_run(&h->loop, UV_RUN_NOWAIT);
    assert_int_equal(h->local.asked, 1);
    assert_int_equal(deputy_ask_available(h->engine, "local", 60000, on_answer, &h->answer, NULL), DEPUTY_OK);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    assert_int_equal(h->answer.told, 3);
    assert_true(h->local.cancelled >= 1);
    host_free(h);
}

/* An engine's own loop, turned by deputy_pump. */
static void on_a_pumped_loop(void **state)
{
    struct host h = {0};
    deputy_options o = DEPUTY_INIT(deputy_options);
    bool available = false;
    (void)state;
    assert_int_equal(deputy_engine_new(&o, &h.engine, NULL), DEPUTY_OK);
    add_provider(&h, "local", &actor_vtable, &h.local);
    assert_int_equal(deputy_ask_available(h.engine, "local", 1000, on_answer, &h.answer, NULL), DEPUTY_OK);
    assert_int_equal(deputy_timeout(h.engine), 0);
    deputy_pump(h.engine);
    assert_int_equal(h.answer.told, 1);
    assert_int_equal(deputy_is_available(h.engine, "local", 1000, &available, NULL), DEPUTY_OK);
    assert_true(available);
    deputy_engine_free(h.engine);
}

static void without_memory(void **state)
{
    (void)state;
    for (long at = 1; at < 12; at++) {
        struct host *h = host_new();
        fail_allocation(at, false);
        int code = deputy_ask_available(h->engine, "local", 1000, on_answer, &h->answer, NULL);
        assert_true(code == DEPUTY_OK || code == DEPUTY_ENOMEM);
        uv_run(&h->loop, UV_RUN_DEFAULT);
        fail_allocation(0, false);
        assert_int_equal(h->answer.told, code == DEPUTY_OK);
        host_free(h);
    }
}

/* ---- what a script says --------------------------------------------------------------------------------------------
 */

#define REST " return { route = print, verdict = print, should_failover = print }"

struct listing {
    char text[1024];
    int n, stop_after;
};

static int add_state(void *user, const char *topic, const char *name, const char *word, int64_t left_ms)
{
    struct listing *l = user;
    size_t n = strlen(l->text);
    const char *left = left_ms < 0 ? "always" : left_ms == 0 ? "over" : left_ms <= 10000 ? "soon" : "later";
    snprintf(l->text + n, sizeof(l->text) - n, "%s.%s=%s,%s;", topic, name, word, left);
    l->n++;
    return l->stop_after && l->n == l->stop_after ? 7 : 0;
}

static const char *load(struct host *h, const char *text)
{
    static deputy_error error;
    int code = deputy_load_policy_text(h->engine, "test", text, strlen(text), &error);
    return code == DEPUTY_OK ? "" : error.message;
}

static const char *states_of(struct host *h)
{
    static struct listing listing;
    memset(&listing, 0, sizeof(listing));
    assert_int_equal(deputy_list_states(h->engine, add_state, &listing), 0);
    return listing.text;
}

static void states_are_listed_in_order(void **state)
{
    struct host *h = host_new();
    struct listing two = {.stop_after = 2};
    (void)state;
    assert_string_equal(states_of(h), ""); /* no script yet */
    assert_string_equal(load(h, "state('breaker', 'opus', 'open', 10) state('mood', 'a', 'good')"
                                "state('breaker', 'claude', 'open', 0) state('breaker', 'gone', 'open')"
                                "state('breaker', 'opus', 'half_open', 3600) state('breaker', 'gone')"
                                "state('breaker', 'never')" REST),
                        "");
    assert_string_equal(states_of(h), "breaker.claude=open,over;breaker.opus=half_open,later;mood.a=good,always;");
    assert_int_equal(deputy_list_states(h->engine, add_state, &two), 7);
    assert_int_equal(two.n, 2);
    host_free(h);
}

static void states_go_with_their_script(void **state)
{
    struct host *h = host_new();
    (void)state;
    assert_string_equal(load(h, "state('breaker', 'claude', 'open')" REST), "");
    assert_non_null(strstr(load(h, "state('breaker', 'claude', 'lost') error('no')"), "no"));
    assert_string_equal(states_of(h), "breaker.claude=open,always;");
    assert_string_equal(load(h, REST), "");
    assert_string_equal(states_of(h), "");
    host_free(h);
}

static void states_are_bounded(void **state)
{
    struct host *h = host_new();
    (void)state;
    assert_string_equal(load(h, "for i = 1, 1024 do assert(state('t', 'n' .. i, 'on') == true) end "
                                "assert(state('t', 'n1025', 'on') == false) assert(state('t', 'n7', 'off'))"
                                "assert(state('t', 'n9')) assert(state('t', 'n1025', 'on'))" REST),
                        "");
    static const char *const wrong[] = {
        "state()",
        "state('Breaker', 'x', 'open')",
        "state(('t'):rep(33), 'x', 'open')",
        "state('t', '', 'open')",
        "state('t', ('n'):rep(129), 'open')",
        "state('t', 'x', 'Open!')",
        "state('t', 'x', 'open', -1)",
        "state('t', 'x', 'open', 0/0)",
        "state('t', 'x', 'open', 1e10)",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char text[200];
        snprintf(text, sizeof(text), "%s" REST, wrong[i]);
        assert_non_null(strstr(load(h, text), "bad argument"));
    }
    host_free(h);
}

static void states_without_memory(void **state)
{
    (void)state;
    struct host *h = host_new();
    for (long at = 1; at < 400; at++) {
        fail_allocation(at, false);
        load(h, "for i = 1, 40 do state('t', 'n' .. i, 'on') end" REST);
        fail_allocation(0, false);
        states_of(h);
    }
    host_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_a_lent_loop),
        cmocka_unit_test(models_come_before_the_answer),
        cmocka_unit_test(within_its_time),
        cmocka_unit_test(refuses_what_cannot_be_asked),
        cmocka_unit_test(from_inside_an_answer),
        cmocka_unit_test(freed_meanwhile),
        cmocka_unit_test(on_a_pumped_loop),
        cmocka_unit_test(without_memory),
        cmocka_unit_test(states_are_listed_in_order),
        cmocka_unit_test(states_go_with_their_script),
        cmocka_unit_test(states_are_bounded),
        cmocka_unit_test(states_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
