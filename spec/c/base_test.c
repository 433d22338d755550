/* base: errors, words, buffers */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/error.h"
#include "failing_malloc.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void error_holds_code_and_sentence(void **state)
{
    deputy_error error;

    (void)state;
    assert_int_equal(error_set(&error, DEPUTY_EINVAL, "expected %d, got \"%s\"", 3, "x"), DEPUTY_EINVAL);
    assert_int_equal(error.code, DEPUTY_EINVAL);
    assert_string_equal(error.message, "expected 3, got \"x\"");
    assert_int_equal(error_set(NULL, DEPUTY_ENOMEM, "nobody reads this"), DEPUTY_ENOMEM);
}

static void error_turns_control_bytes_into_spaces(void **state)
{
    deputy_error error;

    (void)state;
    error_set(&error, DEPUTY_EIO, "a\r\nb\tc\x1b[31md\x7f%c", 1);
    assert_string_equal(error.message, "a  b c [31md  ");
}

static void error_may_quote_itself(void **state)
{
    deputy_error error;

    (void)state;
    error_set(&error, DEPUTY_EIO, "inner");
    error_set(&error, DEPUTY_EPOLICY, "outer: %s", error.message);
    assert_string_equal(error.message, "outer: inner");
}

static void error_is_never_cut_inside_a_character(void **state)
{
    static const char *const characters[] = {"x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    deputy_error error;
    char text[1200];

    (void)state;
    for (size_t c = 0; c < COUNT(characters); c++) {
        size_t n = strlen(characters[c]);

        for (size_t lead = 0; lead < 8; lead++) {
            size_t used = lead, len;

            memset(text, 'a', lead);
            while (used + n < sizeof(text)) {
                memcpy(text + used, characters[c], n);
                used += n;
            }
            text[used] = '\0';
            error_set(&error, DEPUTY_EIO, "%s", text);
            len = strlen(error.message);
            assert_true(len > sizeof(error.message) - 1 - 4 && len < sizeof(error.message));
            assert_int_equal((len - lead) % n, 0);
            assert_memory_equal(error.message, text, len);
        }
    }
}

static void error_survives_bytes_that_are_not_utf8(void **state)
{
    deputy_error error;
    char text[1200];

    (void)state;
    memset(text, 0x80, sizeof(text));
    text[sizeof(text) - 1] = '\0';
    error_set(&error, DEPUTY_EIO, "%s", text);
    assert_int_equal(strlen(error.message), sizeof(error.message) - 1);
    memset(text, 0xFF, sizeof(text) - 1);
    error_set(&error, DEPUTY_EIO, "%s", text);
    assert_true(strlen(error.message) >= sizeof(error.message) - 4);
}

static void failure_is_filled(void **state)
{
    deputy_failure failure;
    char text[400];

    (void)state;
    memset(&failure, 0xAA, sizeof(failure));
    failure_set(&failure, DEPUTY_FAILURE_STATUS, 503, "over\nloaded", "the primary said %d", 503);
    assert_int_equal(failure.kind, DEPUTY_FAILURE_STATUS);
    assert_int_equal(failure.status, 503);
    assert_string_equal(failure.code, "over loaded");
    assert_string_equal(failure.message, "the primary said 503");
    assert_int_equal(failure.retry_after_ms, -1);

    failure_set(&failure, DEPUTY_FAILURE_CUT, 0, failure.code, "%s", failure.message);
    assert_string_equal(failure.code, "over loaded");
    assert_string_equal(failure.message, "the primary said 503");

    memset(text, 'y', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    failure_set(&failure, DEPUTY_FAILURE_DNS, 0, text, "%s\xC3\xA9", text + sizeof(text) - sizeof(failure.message) + 1);
    assert_int_equal(strlen(failure.code), sizeof(failure.code) - 1);
    assert_int_equal(strlen(failure.message), sizeof(failure.message) - 2);
    failure_set(&failure, DEPUTY_FAILURE_DNS, 0, NULL, "x");
    assert_string_equal(failure.code, "");
    failure_set(NULL, DEPUTY_FAILURE_DNS, 0, NULL, "nobody reads this");
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static void every_number_has_its_word(void **state)
{
    (void)state;
    assert_string_equal(deputy_version(), DEPUTY_VERSION);
    assert_string_equal(deputy_strerror(DEPUTY_OK), "done");
    assert_string_equal(deputy_strerror(DEPUTY_EFAILED), "the run ended with the primary's error");
#define X(name, number, text) assert_string_equal(deputy_strerror(number), text);
    DEPUTY_CODES(X)
#undef X
#define X(name, text) assert_string_equal(deputy_failure_name(DEPUTY_FAILURE_##name), text);
    DEPUTY_FAILURES(X)
#undef X
#define X(name, text) assert_string_equal(deputy_probe_kind_name(DEPUTY_PROBE_##name), text);
    DEPUTY_PROBE_KINDS(X)
#undef X
    assert_string_equal(deputy_verdict_name((deputy_verdict)0), "unreachable");
    assert_string_equal(deputy_verdict_name(DEPUTY_FORBIDDEN), "forbidden");
    assert_string_equal(deputy_verdict_name(DEPUTY_ALLOWED), "allowed");
    assert_string_equal(deputy_leg_name(DEPUTY_LEG_PRIMARY), "primary");
    assert_string_equal(deputy_leg_name(DEPUTY_LEG_PROBE), "probe");
    assert_string_equal(deputy_leg_name(DEPUTY_LEG_LOCAL), "local");
    assert_string_equal(deputy_leg_name(DEPUTY_LEG_POLICY), "policy");
}

static void unknown_numbers_say_so(void **state)
{
    (void)state;
    assert_string_equal(deputy_strerror(-99), "unknown code");
    assert_string_equal(deputy_strerror(2), "unknown code");
    assert_string_equal(deputy_verdict_name((deputy_verdict)3), "unknown verdict");
    assert_string_equal(deputy_failure_name((deputy_failure_kind)99), "unknown failure");
    assert_string_equal(deputy_probe_kind_name((deputy_probe_kind)99), "unknown probe kind");
    assert_string_equal(deputy_leg_name((deputy_leg)99), "unknown leg");
}

/* ---- buffers ---------------------------------------------------------------------------------------------------- */

static void buffer_holds_up_to_its_bound(void **state)
{
    struct buffer b;

    (void)state;
    buffer_init(&b, 10);
    assert_int_equal(buffer_len(&b), 0);
    assert_non_null(buffer_bytes(&b));
    assert_int_equal(buffer_append(&b, NULL, 0), DEPUTY_OK);
    assert_int_equal(buffer_append(&b, "0123456789x", 11), DEPUTY_ELIMIT);
    assert_int_equal(buffer_len(&b), 0);
    assert_int_equal(buffer_append(&b, "01234567", 8), DEPUTY_OK);
    assert_int_equal(buffer_append(&b, "xyz", 3), DEPUTY_ELIMIT);
    assert_int_equal(buffer_append(&b, "89", 2), DEPUTY_OK);
    assert_int_equal(buffer_append(&b, "!", 1), DEPUTY_ELIMIT);
    assert_memory_equal(buffer_bytes(&b), "0123456789", 10);
    buffer_consume(&b, 4);
    assert_int_equal(buffer_append(&b, "abcd", 4), DEPUTY_OK);
    assert_int_equal(buffer_append(&b, "!", 1), DEPUTY_ELIMIT);
    assert_memory_equal(buffer_bytes(&b), "456789abcd", 10);
    buffer_consume(&b, 10);
    assert_int_equal(buffer_len(&b), 0);
    assert_null(b.data);
    buffer_free(&b);
    buffer_init(&b, 0);
    assert_int_equal(buffer_append(&b, "x", 1), DEPUTY_ELIMIT);
    buffer_init(&b, SIZE_MAX);
    assert_int_equal(buffer_append(&b, "x", 1), DEPUTY_OK);
    assert_int_equal(buffer_append(&b, "x", SIZE_MAX), DEPUTY_ELIMIT);
    buffer_free(&b);
}

static void buffer_is_a_queue(void **state)
{
    struct buffer b;
    unsigned seed = 1, put = 0, got = 0;

    (void)state;
    buffer_init(&b, 3000);
    for (int i = 0; i < 20000; i++) {
        unsigned char bytes[97];
        size_t n = (seed = seed * 1103515245U + 12345U) / 65536U % sizeof(bytes);

        for (size_t j = 0; j < n; j++) {
            bytes[j] = (unsigned char)(put + j);
        }
        if (buffer_append(&b, bytes, n) == DEPUTY_OK) {
            put += (unsigned)n;
        } else {
            assert_true(buffer_len(&b) + n > 3000);
        }
        assert_true(b.size <= 3000 + 3000 / 4);
        n = (seed = seed * 1103515245U + 12345U) / 65536U % 90;
        n = n < buffer_len(&b) ? n : buffer_len(&b);
        for (size_t j = 0; j < n; j++) {
            assert_int_equal((unsigned char)buffer_bytes(&b)[j], (unsigned char)(got + j));
        }
        buffer_consume(&b, n);
        got += (unsigned)n;
        assert_int_equal(buffer_len(&b), put - got);
    }
    buffer_free(&b);
}

static void full_buffer_taken_in_small_bites_stays_linear(void **state)
{
    enum { MAX = 1 << 20 };
    char *fill = calloc(1, MAX);
    struct buffer b;
    clock_t start;

    (void)state;
    assert_non_null(fill);
    buffer_init(&b, MAX);
    assert_int_equal(buffer_append(&b, fill, MAX), DEPUTY_OK);
    start = clock();
    for (int i = 0; i < 200000; i++) {
        buffer_consume(&b, 1);
        assert_int_equal(buffer_append(&b, "x", 1), DEPUTY_OK);
    }
    /* a move of 1 MiB each time would take ten seconds and more */
    assert_true(clock() - start < 2 * CLOCKS_PER_SEC);
    buffer_free(&b);
    free(fill);
}

static void buffer_hands_its_bytes_over(void **state)
{
    struct buffer b;
    char *bytes;
    size_t len = 99;

    (void)state;
    buffer_init(&b, 100);
    bytes = buffer_take(&b, &len);
    assert_string_equal(bytes, "");
    assert_int_equal(len, 0);
    free(bytes);
    buffer_append(&b, "hello world", 11);
    buffer_consume(&b, 6);
    bytes = buffer_take(&b, &len);
    assert_string_equal(bytes, "world");
    assert_int_equal(len, 5);
    assert_int_equal(buffer_len(&b), 0);
    free(bytes);
    assert_int_equal(buffer_append(&b, "again", 5), DEPUTY_OK);
    buffer_free(&b);
}

static void buffer_keeps_its_bytes_when_memory_runs_out(void **state)
{
    (void)state;
    for (long n = 1; n < 8; n++) {
        struct buffer b;
        char *bytes;
        size_t len = 0, held = 0;
        char block[300];

        memset(block, 'b', sizeof(block));
        buffer_init(&b, 1200);
        fail_allocation(n, n % 2 == 0);
        for (int i = 0; i < 5; i++) {
            int code = buffer_append(&b, block, sizeof(block));

            held += code == DEPUTY_OK ? sizeof(block) : 0;
            assert_true(code == DEPUTY_OK || code == DEPUTY_ENOMEM || code == DEPUTY_ELIMIT);
            assert_int_equal(buffer_len(&b), held);
        }
        bytes = buffer_take(&b, &len);
        assert_int_equal(bytes ? len : buffer_len(&b), held);
        fail_allocation(0, false);
        free(bytes);
        buffer_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_holds_code_and_sentence),
        cmocka_unit_test(error_turns_control_bytes_into_spaces),
        cmocka_unit_test(error_may_quote_itself),
        cmocka_unit_test(error_is_never_cut_inside_a_character),
        cmocka_unit_test(error_survives_bytes_that_are_not_utf8),
        cmocka_unit_test(failure_is_filled),
        cmocka_unit_test(every_number_has_its_word),
        cmocka_unit_test(unknown_numbers_say_so),
        cmocka_unit_test(buffer_holds_up_to_its_bound),
        cmocka_unit_test(buffer_is_a_queue),
        cmocka_unit_test(full_buffer_taken_in_small_bites_stays_linear),
        cmocka_unit_test(buffer_hands_its_bytes_over),
        cmocka_unit_test(buffer_keeps_its_bytes_when_memory_runs_out),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
