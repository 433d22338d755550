/* The registry: providers by name, and which of them may stand in for which LLM. */
#include "core/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "failing_malloc.h"

static int destroyed;

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self, (void)call, (void)request;
    return DEPUTY_OK;
}

static void destroy(void *self)
{
    (void)self;
    destroyed++;
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(vtable), .complete = complete, .destroy = destroy};

static deputy_provider *make(const char *name)
{
    deputy_provider *provider;
    assert_int_equal(deputy_provider_new(name, &vtable, NULL, &provider, NULL), DEPUTY_OK);
    return provider;
}

static void add(struct registry *r, const char *name)
{
    assert_int_equal(registry_add(r, make(name), NULL), DEPUTY_OK);
}

static int setup(void **state)
{
    fail_allocation(0, false);
    destroyed = 0;
    *state = registry_new();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    fail_allocation(0, false);
    registry_unref(*state);
    return 0;
}

/* Everything that a walk shows, as "a>b c>d ". */
struct shown {
    char text[512];
    int stop_after; /* 0: never */
    int n;
};

static int show(struct shown *s, const char *a, const char *b)
{
    size_t at = strlen(s->text);
    snprintf(s->text + at, sizeof(s->text) - at, b ? "%s>%s " : "%s ", a, b);
    return ++s->n == s->stop_after ? 42 : 0;
}

static int show_failover(void *user, const char *llm, const char *provider)
{
    return show(user, llm, provider);
}

static int show_provider(void *user, deputy_provider *provider)
{
    return show(user, deputy_provider_name(provider), NULL);
}

static void expect_failovers(const struct registry *r, const char *text)
{
    struct shown s = {0};
    assert_int_equal(registry_each_failover(r, show_failover, &s), 0);
    assert_string_equal(s.text, text);
}

static void expect_providers(const struct registry *r, const char *text)
{
    struct shown s = {0};
    assert_int_equal(registry_each_provider(r, show_provider, &s), 0);
    assert_string_equal(s.text, text);
}

static const char *first(const struct registry *r, const char *llm)
{
    deputy_provider *const *list;
    return registry_candidates(r, llm, &list) ? deputy_provider_name(list[0]) : NULL;
}

/* ---- providers -------------------------------------------------------------------------------------------------- */

static void registers_finds_and_lists(void **state)
{
    struct registry *r = *state;
    expect_providers(r, "");
    assert_null(registry_find(r, "b"));
    add(r, "b");
    add(r, "a");
    add(r, "c");
    assert_string_equal(deputy_provider_name(registry_find(r, "b")), "b");
    assert_null(registry_find(r, "B"));
    assert_null(registry_find(r, ""));
    expect_providers(r, "a b c ");
    struct shown s = {.stop_after = 2};
    assert_int_equal(registry_each_provider(r, show_provider, &s), 42);
    assert_string_equal(s.text, "a b ");
}

static void a_name_is_taken_once(void **state)
{
    struct registry *r = *state;
    deputy_error error = {0};
    add(r, "local");
    deputy_provider *second = make("local");
    assert_int_equal(registry_add(r, second, &error), DEPUTY_EEXIST);
    assert_non_null(strstr(error.message, "'local' is already registered"));
    assert_ptr_not_equal(registry_find(r, "local"), second);
    deputy_provider_unref(second);
    assert_int_equal(destroyed, 1);
    assert_int_equal(registry_remove(r, "local", NULL), DEPUTY_OK);
    assert_int_equal(destroyed, 2);
    add(r, "local");
}

static void removing_needs_one(void **state)
{
    deputy_error error = {0};
    assert_int_equal(registry_remove(*state, "ghost", &error), DEPUTY_ENOTFOUND);
    assert_non_null(strstr(error.message, "'ghost' is not registered"));
}

static void lives_as_long_as_somebody_holds_it(void **state)
{
    struct registry *r = *state;
    add(r, "a");
    registry_ref(r);
    registry_unref(r);
    assert_int_equal(destroyed, 0);
    deputy_provider *held = deputy_provider_ref(registry_find(r, "a"));
    assert_int_equal(registry_remove(r, "a", NULL), DEPUTY_OK);
    assert_int_equal(destroyed, 0);
    deputy_provider_unref(held);
    assert_int_equal(destroyed, 1);
    registry_unref(NULL);
}

/* ---- the failover map ------------------------------------------------------------------------------------------- */

static void maps_a_central_name_to_a_provider(void **state)
{
    struct registry *r = *state;
    deputy_provider *const *list = (deputy_provider *const *)1;
    expect_failovers(r, "");
    assert_int_equal(registry_candidates(r, "claude", &list), 0);
    assert_null(list);
    add(r, "local");
    assert_int_equal(registry_map(r, "claude", "local", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(r, "claude", "local", NULL), DEPUTY_OK);
    assert_int_equal(registry_candidates(r, "claude", &list), 1);
    assert_string_equal(first(r, "claude"), "local");
    assert_null(first(r, "Claude"));
    expect_failovers(r, "claude>local ");
}

static void only_a_registered_provider_can_stand_in(void **state)
{
    deputy_error error = {0};
    assert_int_equal(registry_map(*state, "claude", "ghost", &error), DEPUTY_ENOTFOUND);
    assert_non_null(strstr(error.message, "'ghost' is not registered"));
    assert_int_equal(registry_map(*state, "claude", NULL, &error), DEPUTY_ENOTFOUND);
    expect_failovers(*state, "");
}

static void a_name_that_cannot_be_probed_is_not_mapped(void **state)
{
    static const char *const bad[] = {"", ".", "..", "a\nb", "a\x7f", NULL};
    char longest[130];
    memset(longest, 'x', 129);
    longest[129] = '\0';
    add(*state, "local");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(registry_map(*state, bad[i], "local", NULL), DEPUTY_EINVAL);
    assert_int_equal(registry_map(*state, longest, "local", NULL), DEPUTY_EINVAL);
    assert_int_equal(registry_map(*state, longest + 1, "local", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(*state, "a/b", "local", NULL), DEPUTY_OK); /* one segment, escaped */
}

static void several_in_the_order_they_came(void **state)
{
    struct registry *r = *state;
    deputy_provider *const *list;
    add(r, "z");
    add(r, "a");
    add(r, "m");
    assert_int_equal(registry_map(r, "opus", "z", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(r, "opus", "a", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(r, "claude", "a", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(r, "opus", "m", NULL), DEPUTY_OK);
    assert_int_equal(registry_map(r, "opus", "z", NULL), DEPUTY_OK);
    assert_int_equal(registry_candidates(r, "opus", &list), 3);
    expect_failovers(r, "claude>a opus>z opus>a opus>m ");
    for (int stop = 1; stop <= 4; stop++) {
        struct shown s = {.stop_after = stop};
        assert_int_equal(registry_each_failover(r, show_failover, &s), 42);
        assert_int_equal(s.n, stop);
    }
}

static void unregistering_drops_what_pointed_at_it(void **state)
{
    struct registry *r = *state;
    add(r, "a");
    add(r, "b");
    registry_map(r, "one", "a", NULL);
    registry_map(r, "two", "b", NULL);
    registry_map(r, "three", "a", NULL);
    registry_map(r, "three", "b", NULL);
    assert_int_equal(registry_remove(r, "a", NULL), DEPUTY_OK);
    expect_failovers(r, "three>b two>b ");
    assert_null(first(r, "one"));
    add(r, "a"); /* the same name again brings nothing back */
    expect_failovers(r, "three>b two>b ");
    assert_int_equal(registry_remove(r, "b", NULL), DEPUTY_OK);
    expect_failovers(r, "");
    expect_providers(r, "a ");
}

static void ten_thousand_entries(void **state)
{
    struct registry *r = *state;
    char llm[32];
    add(r, "a");
    for (int i = 0; i < 10000; i++) {
        snprintf(llm, sizeof(llm), "llm-%d", i);
        assert_int_equal(registry_map(r, llm, "a", NULL), DEPUTY_OK);
    }
    assert_string_equal(first(r, "llm-9999"), "a");
    assert_null(first(r, "llm-10000"));
    assert_int_equal(registry_remove(r, "a", NULL), DEPUTY_OK);
    expect_failovers(r, "");
}

/* ---- out of memory ---------------------------------------------------------------------------------------------- */

/* One after the other, every allocation fails: the call says so, and what was there before still stands. */
static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (int and_on = 0; and_on < 2; and_on++) {
        for (long n = 1; n < 40; n++) {
            fail_allocation(n, and_on);
            struct registry *r = registry_new();
            if (!r)
                continue;
            deputy_provider *a = NULL, *b = NULL;
            deputy_provider_new("a", &vtable, NULL, &a, NULL);
            deputy_provider_new("b", &vtable, NULL, &b, NULL);
            if (a && registry_add(r, a, NULL) != DEPUTY_OK) {
                assert_null(registry_find(r, "a"));
                deputy_provider_unref(a);
            }
            if (b && registry_add(r, b, NULL) != DEPUTY_OK)
                deputy_provider_unref(b);
            bool mapped = registry_map(r, "claude", "a", NULL) == DEPUTY_OK;
            bool second = registry_map(r, "claude", "b", NULL) == DEPUTY_OK;
            deputy_provider *const *list;
            assert_int_equal(registry_candidates(r, "claude", &list), mapped + second);
            struct shown s = {0};
            int walked = registry_each_failover(r, show_failover, &s);
            assert_true(walked == DEPUTY_ENOMEM || s.n == mapped + second);
            walked = registry_each_provider(r, show_provider, &s);
            assert_true(walked == 0 || walked == DEPUTY_ENOMEM);
            fail_allocation(0, false);
            registry_unref(r);
        }
    }
}

/* A hash table that cannot grow leaves the newest out and keeps the others. */
static void a_table_that_cannot_grow(void **state)
{
    struct registry *r = *state;
    char name[16];
    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "p%d", i);
        deputy_provider *p = make(name);
        for (long n = 1; n < 4; n++) { /* its entry, then what the table itself needs */
            fail_allocation(n, false);
            int code = registry_add(r, p, NULL);
            bool hit = allocations >= n;
            fail_allocation(0, false);
            if (code == DEPUTY_OK) {
                p = NULL;
                break;
            }
            assert_true(hit);
            assert_int_equal(code, DEPUTY_ENOMEM);
            assert_null(registry_find(r, name));
        }
        if (p)
            assert_int_equal(registry_add(r, p, NULL), DEPUTY_OK);
        for (long n = 1; n < 5; n++) {
            fail_allocation(n, false);
            int code = registry_map(r, name, name, NULL);
            fail_allocation(0, false);
            if (code == DEPUTY_OK)
                break;
            assert_int_equal(code, DEPUTY_ENOMEM);
            assert_null(first(r, name));
        }
        assert_int_equal(registry_map(r, name, name, NULL), DEPUTY_OK);
    }
    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "p%d", i);
        assert_string_equal(first(r, name), name);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(registers_finds_and_lists),
        TEST(a_name_is_taken_once),
        TEST(removing_needs_one),
        TEST(lives_as_long_as_somebody_holds_it),
        TEST(maps_a_central_name_to_a_provider),
        TEST(only_a_registered_provider_can_stand_in),
        TEST(a_name_that_cannot_be_probed_is_not_mapped),
        TEST(several_in_the_order_they_came),
        TEST(unregistering_drops_what_pointed_at_it),
        TEST(ten_thousand_entries),
        TEST(every_allocation_may_fail),
        TEST(a_table_that_cannot_grow),
    };
    return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
