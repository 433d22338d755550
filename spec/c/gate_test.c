/* The gate alone: every status number against a table written out by hand, and the life of a permit. */
#include "core/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { PERMIT_US = 5000000 };

static const struct claim mine = {.run = 7, .subject = 99};

static deputy_probe_answer answer(deputy_probe_kind kind, int status, const char *type)
{
    deputy_probe_answer a = {.kind = kind, .status = status};
    strcpy(a.content_type, type);
    return a;
}

static deputy_verdict verdict_of(deputy_probe_kind kind, int status, const char *type)
{
    deputy_probe_answer a = answer(kind, status, type);
    return gate_verdict(&a);
}

/* ---- verdicts --------------------------------------------------------------------------------------------------- */

/* A string of a thousand letters, one for each status: a(llowed), f(orbidden), u(nreachable). */
static void fill_table(char *table)
{
    memset(table, 'u', 1000);
    memcpy(table + 200,
           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 100);
    table[401] = table[403] = 'f';
}

static void every_status_number(void **state)
{
    char table[1000];
    (void)state;
    fill_table(table);
    for (int status = 0; status < 1000; status++) {
        deputy_verdict v = verdict_of(DEPUTY_PROBE_OK, status, "");
        assert_int_equal(deputy_verdict_name(v)[0], table[status]);
    }
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, -200, ""), DEPUTY_UNREACHABLE);
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, 1200, ""), DEPUTY_UNREACHABLE);
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, INT32_MAX, ""), DEPUTY_UNREACHABLE);
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, INT32_MIN, ""), DEPUTY_UNREACHABLE);
}

static void no_status_helps_a_transfer_that_failed(void **state)
{
    static const deputy_probe_kind kinds[] = {DEPUTY_PROBE_NO_TOKEN, DEPUTY_PROBE_TIMEOUT,  DEPUTY_PROBE_DNS,
                                              DEPUTY_PROBE_CONNECT,  DEPUTY_PROBE_TLS,      DEPUTY_PROBE_PROTOCOL,
                                              DEPUTY_PROBE_LIMIT,    (deputy_probe_kind)99, (deputy_probe_kind)-1};
    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        for (int status = 0; status < 1000; status++)
            assert_int_equal(verdict_of(kinds[i], status, "application/json"), DEPUTY_UNREACHABLE);
}

static void a_page_is_no_word_of_the_central(void **state)
{
    (void)state;
    for (int status = 200; status < 300; status++) {
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "text/html"), DEPUTY_UNREACHABLE);
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "TEXT/Html"), DEPUTY_UNREACHABLE);
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "application/xhtml+xml"), DEPUTY_UNREACHABLE);
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "Text/HTML; charset=utf-8"), DEPUTY_UNREACHABLE);
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "application/json"), DEPUTY_ALLOWED);
        assert_int_equal(verdict_of(DEPUTY_PROBE_OK, status, "text/plain"), DEPUTY_ALLOWED);
    }
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, 403, "text/html"), DEPUTY_FORBIDDEN);
    assert_int_equal(verdict_of(DEPUTY_PROBE_OK, 200, "text/json"), DEPUTY_ALLOWED); /* as long as text/html */
}

static void nothing_allows_by_itself(void **state)
{
    const deputy_probe_answer zeroed = {0};
    (void)state;
    assert_int_equal(gate_verdict(&zeroed), DEPUTY_UNREACHABLE);
    assert_int_equal((deputy_verdict)0, DEPUTY_UNREACHABLE);
}

static void the_stricter_of_two(void **state)
{
    const deputy_verdict u = DEPUTY_UNREACHABLE, f = DEPUTY_FORBIDDEN, a = DEPUTY_ALLOWED;
    (void)state;
    assert_int_equal(gate_stricter(a, a), a);
    assert_int_equal(gate_stricter(a, f), f);
    assert_int_equal(gate_stricter(f, a), f);
    assert_int_equal(gate_stricter(a, u), u);
    assert_int_equal(gate_stricter(u, a), u);
    assert_int_equal(gate_stricter(u, u), u);
    assert_int_equal(gate_stricter(f, f), f);
    assert_int_equal(gate_stricter(f, u), f);
    assert_int_equal(gate_stricter(u, f), f);
    assert_int_equal(gate_stricter((deputy_verdict)7, a), u);
}

/* ---- claims ----------------------------------------------------------------------------------------------------- */

static void a_claim_is_of_one_run_llm_and_caller(void **state)
{
    struct claim a = gate_claim(1, "claude", "tok-alice");
    (void)state;
    assert_true(a.subject != 0);
    assert_int_equal(a.run, 1);
    assert_true(a.subject == gate_claim(2, "claude", "tok-alice").subject);
    assert_true(a.subject != gate_claim(1, "claude", "tok-bob").subject);
    assert_true(a.subject != gate_claim(1, "opus", "tok-alice").subject);
    /* where one string ends and the other begins is part of it */
    assert_true(gate_claim(1, "ab", "c").subject != gate_claim(1, "a", "bc").subject);
    assert_true(gate_claim(1, "", "ab").subject != gate_claim(1, "ab", "").subject);
}

static void without_a_token_or_a_name_nothing_is_claimed(void **state)
{
    struct claim none[] = {gate_claim(1, "claude", NULL), gate_claim(1, NULL, "tok"), gate_claim(1, NULL, NULL)};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct permit permit = {0};
        deputy_probe_answer good = answer(DEPUTY_PROBE_OK, 204, "");
        assert_int_equal(none[i].subject, 0);
        gate_grant(&permit, &none[i], &good, 0);
        assert_false(gate_holds(&permit, &none[i], PERMIT_US, 0));
    }
}

/* ---- permits ---------------------------------------------------------------------------------------------------- */

static struct permit granted(uint64_t at_us)
{
    struct permit permit = {0};
    deputy_probe_answer good = answer(DEPUTY_PROBE_OK, 204, "");
    gate_grant(&permit, &mine, &good, at_us);
    return permit;
}

static void no_permit_without_a_probe(void **state)
{
    struct permit permit = {0}, spent;
    const struct claim nobody = {0};
    (void)state;
    assert_false(gate_holds(&permit, &mine, PERMIT_US, 0));
    assert_false(gate_holds(&permit, &nobody, PERMIT_US, 0));
    assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, 0, &spent), DEPUTY_EINVAL);
    assert_int_equal(gate_spend(&permit, &nobody, PERMIT_US, 0, &spent), DEPUTY_EINVAL);
}

static void every_answer_but_a_clean_2xx_takes_the_permit_away(void **state)
{
    static const struct {
        deputy_probe_kind kind;
        int status;
        const char *type;
    } bad[] = {
        {DEPUTY_PROBE_OK, 403, ""},       {DEPUTY_PROBE_OK, 401, ""},          {DEPUTY_PROBE_OK, 404, ""},
        {DEPUTY_PROBE_OK, 500, ""},       {DEPUTY_PROBE_OK, 302, ""},          {DEPUTY_PROBE_OK, 0, ""},
        {DEPUTY_PROBE_TIMEOUT, 200, ""},  {DEPUTY_PROBE_OK, 200, "text/html"}, {DEPUTY_PROBE_CONNECT, 0, ""},
        {DEPUTY_PROBE_NO_TOKEN, 204, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct permit permit = granted(0), spent;
        deputy_probe_answer a = answer(bad[i].kind, bad[i].status, bad[i].type);
        gate_grant(&permit, &mine, &a, 10);
        assert_false(gate_holds(&permit, &mine, PERMIT_US, 10));
        assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, 10, &spent), DEPUTY_EINVAL);
        assert_int_equal(permit.run, 0);
    }
}

static void a_permit_grows_old(void **state)
{
    const uint64_t at = 1000000;
    struct permit permit = granted(at), spent;
    (void)state;
    assert_true(gate_holds(&permit, &mine, PERMIT_US, at));
    assert_true(gate_holds(&permit, &mine, PERMIT_US, at + PERMIT_US));
    assert_false(gate_holds(&permit, &mine, PERMIT_US, at + PERMIT_US + 1));
    assert_false(gate_holds(&permit, &mine, PERMIT_US, UINT64_MAX));
    assert_false(gate_holds(&permit, &mine, PERMIT_US, at - 1)); /* a clock that ran backwards allows nothing */
    assert_true(gate_holds(&permit, &mine, 0, at));
    assert_false(gate_holds(&permit, &mine, 0, at + 1));
    assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, at + PERMIT_US + 1, &spent), DEPUTY_ESTALE);
    assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, at - 1, &spent), DEPUTY_ESTALE);
    assert_int_equal(spent.run, 0);
    assert_int_equal(spent.subject, 0);
}

static void a_permit_is_spent_once(void **state)
{
    struct permit permit = granted(5), spent, again;
    (void)state;
    assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, 6, &spent), DEPUTY_OK);
    assert_true(gate_holds(&spent, &mine, PERMIT_US, 6));
    assert_int_equal(spent.granted_us, 5);
    assert_false(gate_holds(&permit, &mine, PERMIT_US, 6));
    memset(&again, 0xff, sizeof(again));
    assert_int_equal(gate_spend(&permit, &mine, PERMIT_US, 6, &again), DEPUTY_EINVAL);
    assert_false(gate_holds(&again, &mine, PERMIT_US, 6));
    assert_int_equal(again.run, 0);
}

static void a_permit_is_nobody_elses(void **state)
{
    const struct claim others[] = {
        {.run = 8, .subject = 99}, {.run = 7, .subject = 98}, {.run = 0, .subject = 99}, {.run = 7, .subject = 0}, {0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct permit permit = granted(0), spent;
        assert_false(gate_holds(&permit, &others[i], PERMIT_US, 0));
        assert_int_equal(gate_spend(&permit, &others[i], PERMIT_US, 0, &spent), DEPUTY_EINVAL);
        assert_int_equal(gate_spend(&permit, &others[i], PERMIT_US, PERMIT_US + 1, &spent), DEPUTY_EINVAL);
        assert_true(gate_holds(&permit, &mine, PERMIT_US, 0)); /* and it was not lost */
    }
}

static void half_a_permit_is_none(void **state)
{
    struct permit no_run = {.subject = 99}, no_subject = {.run = 7};
    const struct claim nobody = {.run = 0, .subject = 99}, nothing = {.run = 7, .subject = 0};
    (void)state;
    assert_false(gate_holds(&no_run, &nobody, PERMIT_US, 0));
    assert_false(gate_holds(&no_subject, &nothing, PERMIT_US, 0));
}

static void a_subject_is_never_zero(void **state)
{
    char token[] = "\1";
    (void)state;
    for (unsigned i = 1; i < 256; i++) {
        token[0] = (char)i;
        assert_true(gate_claim(i, "x", token).subject & 1); /* the bit that keeps it from being "nothing" */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_number),
        cmocka_unit_test(no_status_helps_a_transfer_that_failed),
        cmocka_unit_test(a_page_is_no_word_of_the_central),
        cmocka_unit_test(nothing_allows_by_itself),
        cmocka_unit_test(the_stricter_of_two),
        cmocka_unit_test(a_claim_is_of_one_run_llm_and_caller),
        cmocka_unit_test(without_a_token_or_a_name_nothing_is_claimed),
        cmocka_unit_test(no_permit_without_a_probe),
        cmocka_unit_test(every_answer_but_a_clean_2xx_takes_the_permit_away),
        cmocka_unit_test(a_permit_grows_old),
        cmocka_unit_test(a_permit_is_spent_once),
        cmocka_unit_test(a_permit_is_nobody_elses),
        cmocka_unit_test(half_a_permit_is_none),
        cmocka_unit_test(a_subject_is_never_zero),
    };
    return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
