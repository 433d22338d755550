/* net/json_span: spans, strings, what RFC 8259 allows and what it does not, and that it stays linear */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

#include "deputy.h"
#include "failing_malloc.h"
#include "net/json_span.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int find(const char *text, size_t len, struct json_member *m, size_t n, size_t *offset)
{
    /* an exact copy on the heap, so that a sanitizer sees each byte read behind it */
    char *copy = malloc(len ? len : 1);
    int code;

    assert_non_null(copy);
    memcpy(copy, text, len);
    code = json_span_find(copy, len, m, n, offset);
    free(copy);
    return code;
}

static int check(const char *text)
{
    struct json_member m = {.name = "model"};

    return find(text, strlen(text), &m, 1, NULL);
}

static void spans_are_exact(void **state)
{
    static const struct {
        const char *text, *value;
        enum json_kind kind;
        unsigned count;
    } table[] = {
        {"{\"model\":\"a\"}", "\"a\"", JSON_STRING, 1},
        {"{\"model\":\"\"}", "\"\"", JSON_STRING, 1},
        {" \t\r\n{ \"model\" \n:\t \"a b\" } \n", "\"a b\"", JSON_STRING, 1},
        {"{\"x\":1,\"model\":\"a\\\"b\\\\\",\"y\":2}", "\"a\\\"b\\\\\"", JSON_STRING, 1},
        {"{\"model\":\"\\\\\"}", "\"\\\\\"", JSON_STRING, 1},
        {"{\"model\":\"}],{:\\\"model\\\":1\"}", "\"}],{:\\\"model\\\":1\"", JSON_STRING, 1},
        {"{\"model\":null}", "null", JSON_NULL, 1},
        {"{\"model\" : true , \"x\":[]}", "true", JSON_BOOLEAN, 1},
        {"{\"model\":false}", "false", JSON_BOOLEAN, 1},
        {"{\"model\":0}", "0", JSON_NUMBER, 1},
        {"{\"model\":-12.5e+30 }", "-12.5e+30", JSON_NUMBER, 1},
        {"{\"model\":123456789012345678901234567890,\"x\":1}", "123456789012345678901234567890", JSON_NUMBER, 1},
        {"{\"model\":[]}", "[]", JSON_ARRAY, 1},
        {"{\"model\": [ 1, {\"model\":2}, \"]\" ] }", "[ 1, {\"model\":2}, \"]\" ]", JSON_ARRAY, 1},
        {"{\"model\":{}}", "{}", JSON_OBJECT, 1},
        {"{\"model\":{\"model\":{\"model\":\"x\"}},\"z\":[{\"model\":1}]}", "{\"model\":{\"model\":\"x\"}}",
         JSON_OBJECT, 1},
        {"{\"messages\":[{\"model\":\"no\"}],\"x\":{\"model\":1},\"model\":\"yes\"}", "\"yes\"", JSON_STRING, 1},
        {"{\"mod\\u0065l\":\"a\"}", "\"a\"", JSON_STRING, 1},
        {"{\"\\u006D\\u006f\\u0064\\u0065\\u006C\":7}", "7", JSON_NUMBER, 1},
        {"{\"model\":1,\"mod\\u0065l\":[2]}", "[2]", JSON_ARRAY, 2},
        {"{\"model\":1,\"model\":2,\"model\":3}", "3", JSON_NUMBER, 3},
        {"{}", "", JSON_ABSENT, 0},
        {"{\"Model\":1,\"mode\":2,\"modell\":3,\"model\\u0000\":4,\"\":5,\" model\":6}", "", JSON_ABSENT, 0},
        {"{\"x\":{\"model\":1}}", "", JSON_ABSENT, 0},
        {"{\"x\":\"model\",\"y\":[\"model\",1]}", "", JSON_ABSENT, 0},
        {"{\"\\ud83d\\ude00\":1,\"\\ud800\":2,\"\\udc00\\\\u\":3,\"\\ud800\\\\u12\":4,\"model\":5}", "5", JSON_NUMBER,
         1},
        {"{\"x\":\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\",\"model\":\"\xC3\xA9\"}", "\"\xC3\xA9\"", JSON_STRING, 1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct json_member m = {.name = "model", .kind = JSON_ARRAY, .start = 7, .end = 9, .count = 9};
        size_t len = strlen(table[i].value);

        assert_int_equal(find(table[i].text, strlen(table[i].text), &m, 1, NULL), DEPUTY_OK);
        assert_int_equal(m.kind, table[i].kind);
        assert_int_equal(m.count, table[i].count);
        assert_int_equal(m.end - m.start, len);
        assert_memory_equal(table[i].text + m.start, table[i].value, len);
        assert_int_equal(m.truth, strcmp(table[i].value, "true") == 0);
    }
}

static void several_members_at_once(void **state)
{
    const char *text =
        "{\"stream\":true,\"n\":3,\"model\":\"m\",\"stream_options\":{\"include_usage\":true},\"\\\"\":[0]}";
    struct json_member m[] = {{.name = "model"}, {.name = "stream"}, {.name = "none"}, {.name = "\""}, {.name = "n"}};

    (void)state;
    assert_int_equal(find(text, strlen(text), m, COUNT(m), NULL), DEPUTY_OK);
    assert_int_equal(m[0].kind, JSON_STRING);
    assert_true(m[1].kind == JSON_BOOLEAN && m[1].truth);
    assert_int_equal(m[2].kind, JSON_ABSENT);
    assert_int_equal(m[3].kind, JSON_ARRAY);
    assert_int_equal(m[4].kind, JSON_NUMBER);
    assert_int_equal(find(text, strlen(text), NULL, 0, NULL), DEPUTY_OK);
}

static void names_beyond_ascii_are_found_in_each_spelling(void **state)
{
    const char *text = "{\"\\u00e9\":1,\"\xC3\xA9\":2,\"\\ud83d\\uDE00\\n\":3,\"\\u20ac\\/\":4}";
    struct json_member m[] = {{.name = "\xC3\xA9"}, {.name = "\xF0\x9F\x98\x80\n"}, {.name = "\xE2\x82\xAC/"}};

    (void)state;
    assert_int_equal(find(text, strlen(text), m, COUNT(m), NULL), DEPUTY_OK);
    assert_int_equal(m[0].count, 2);
    assert_int_equal(m[1].count, 1);
    assert_int_equal(m[2].count, 1);
}

static void what_is_not_one_object_is_refused(void **state)
{
    static const char *const table[] = {
        "",
        " ",
        "null",
        "1",
        "\"model\"",
        "[]",
        "[{\"model\":1}]",
        "{",
        "{\"",
        "{\"model",
        "{\"model\"",
        "{\"model\":",
        "{\"model\":1",
        "{\"model\":1,",
        "{\"model\":1,}",
        "{\"model\":tru",
        "{\"model\":\"x",
        "{\"model\":[1",
        "{\"model\":[1}",
        "{\"model\":{]",
        "{,}",
        "{\"model\"1}",
        "{\"model\" 1}",
        "{\"model\"::1}",
        "{model:1}",
        "{'model':1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1,,\"b\":2}",
        "{} x",
        "{}}",
        "{}{}",
        "{} {}",
        "{},",
        "{} 1",
        "{} tru",
        "{} \"abc",
        "\xEF\xBB\xBF{}",
        "{/**/}",
        "{}//",
        "#\n{}",
        "{\"a\":01}",
        "{\"a\":-01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":-}",
        "{\"a\":0x1}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":True}",
        "{\"a\":nul}",
        "{\"a\":undefined}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":\"\\x41\"}",
        "{\"a\":\"\\'\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u12G4\"}",
        "{\"a\":\"\\U0041\"}",
        "{\"a\":\"\x01\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\v1}",
        "{\"a\":1\f}",
        "\f{}",
        "{}\v",
        "{\"a\":1\xC2\xA0}",
        "{\"a\":\"\x80\"}",
        "{\"a\":\"\xC3\"}",
        "{\"a\":\"\xC3(\"}",
        "{\"a\":\"\xC0\xAF\"}",
        "{\"mod\xC1\xA5l\":1}",
        "{\"a\":\"\xE0\x80\xAF\"}",
        "{\"a\":\"\xE2\x82\"}",
        "{\"a\":\"\xED\xA0\x80\"}",
        "{\"a\":\"\xF0\x80\x80\xAF\"}",
        "{\"a\":\"\xF4\x90\x80\x80\"}",
        "{\"a\":\"\xF8\x88\x80\x80\x80\"}",
        "{\"a\":\"\xFF\"}",
        "{\"a\":\"aaaaaaaaaaaaaaaaaaaaaaaa\xFF\"}",
        "{\"\\ud800\\\\u\"",
        "{\"a\":\"\\ud800\\\\u\"",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct json_member m = {.name = "model"};
        size_t offset = SIZE_MAX;
        int code = find(table[i], strlen(table[i]), &m, 1, &offset);

        if (code != DEPUTY_EINVAL || offset > strlen(table[i])) {
            fail_msg("%s: code %d, offset %zu", table[i], code, offset);
        }
    }
    assert_int_equal(find("{}\0", 3, NULL, 0, NULL), DEPUTY_EINVAL);
    assert_int_equal(find("{\"a\0\":1}", 8, NULL, 0, NULL), DEPUTY_EINVAL);
    assert_int_equal(json_span_find(NULL, 0, NULL, 0, NULL), DEPUTY_EINVAL);
}

static void what_rfc_8259_allows_is_taken(void **state)
{
    static const char *const table[] = {
        "{\"a\":-0}",
        "{\"a\":-0.0e-0}",
        "{\"a\":1E400}",
        "{\"a\":1e-999}",
        "{\"a\":\"\x7f\"}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\udc00\\ud800x\"}",
        "{\"a\":\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"}",
        "{\"a\":\"\xEF\xBF\xBF\xF4\x8F\xBF\xBF\xEE\x80\x80\xE2\x80\xA8\"}",
        "{\"\":{\"\":[[],[{}],{},null]}}",
        "{\"a\":[1,true,false,null,\"\",{\"b\":[]}]}",
        "\r\n\t {}\r\n\t ",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        if (check(table[i]) != DEPUTY_OK) {
            fail_msg("refused: %s", table[i]);
        }
    }
}

static void it_says_where_it_went_wrong(void **state)
{
    static const struct {
        const char *text;
        size_t from, to;
    } table[] = {
        {"[]", 0, 0},
        {"{\"a\":1} x", 8, 8},
        {"{\"a\":\"\xFF\"}", 6, 6},
        {"{\"a\":1,\v\"b\":2}", 7, 7},
        {"{\"a\":1", 6, 6},
        {"{\"a\":\"xyz", 9, 9},
        {"{\"a\":x}", 5, 6},
        {"{\"a\":1,}", 7, 8},
        {"{\"a\":{\"b\":[1,2,,3]}}", 15, 16},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t offset = SIZE_MAX;

        assert_int_equal(find(table[i].text, strlen(table[i].text), NULL, 0, &offset), DEPUTY_EINVAL);
        assert_in_range(offset, table[i].from, table[i].to);
    }
}

static void depth_is_bounded(void **state)
{
    (void)state;
    for (size_t depth = 510; depth <= 515; depth++) {
        for (int arrays = 0; arrays < 2; arrays++) {
            char text[8192];
            size_t used = 0;
            struct json_member m = {.name = "a"};
            int code;

            for (size_t i = 0; i < depth; i++) {
                used += (size_t)sprintf(text + used, "%s", arrays && i > 0 ? "[" : i + 1 < depth ? "{\"a\":" : "{");
            }
            for (size_t i = depth; i-- > 0;) {
                text[used++] = arrays && i > 0 ? ']' : '}';
            }
            if (arrays) {
                /* the outermost object needs its key */
                text[used] = '\0';
                assert_memory_equal(text, "{\"a\":", 5);
            }
            code = find(text, used, &m, 1, NULL);
            assert_int_equal(code, depth <= 512 ? DEPUTY_OK : DEPUTY_ELIMIT);
            if (code == DEPUTY_OK) {
                assert_true(m.start == 5 && m.end == used - 1);
            }
        }
    }
}

struct seen {
    const char *text;
    char log[256];
};

static void log_element(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct seen *seen = user;
    size_t used = strlen(seen->log);

    snprintf(seen->log + used, sizeof(seen->log) - used, "%d<%.*s>", (int)kind, (int)(end - start), seen->text + start);
}

static void elements_of_an_array(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *log;
    } table[] = {
        {"[]", DEPUTY_OK, ""},
        {" [ ] ", DEPUTY_OK, ""},
        {"[1]", DEPUTY_OK, "3<1>"},
        {"[1 , \"a,]\\\"\" ,[2,[3]],{\"a\":[]} , null,true]", DEPUTY_OK,
         "3<1>4<\"a,]\\\"\">5<[2,[3]]>6<{\"a\":[]}>1<null>2<true>"},
        {"[[],[]]", DEPUTY_OK, "5<[]>5<[]>"},
        {"{}", DEPUTY_EINVAL, ""},
        {"[1,]", DEPUTY_EINVAL, ""},
        {"[1", DEPUTY_EINVAL, ""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct seen seen = {table[i].text, ""};

        assert_int_equal(json_span_each(table[i].text, strlen(table[i].text), log_element, &seen), table[i].code);
        if (table[i].code == DEPUTY_OK) {
            assert_string_equal(seen.log, table[i].log);
        }
    }
}

static void strings_are_decoded(void **state)
{
    static const struct {
        const char *text, *want; /* NULL: refused */
    } table[] = {
        {"\"\"", ""},
        {"\"abc\"", "abc"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"", "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
        {"\"\\uFFFF\\udbff\\udfff\"", "\xEF\xBF\xBF\xF4\x8F\xBF\xBF"},
        {"\"\xC3\xA9\x7f\"", "\xC3\xA9\x7f"},
        {"\"\\u0000\"", NULL},
        {"\"a\\u0000b\"", NULL},
        {"\"\\ud800\"", NULL},
        {"\"\\ud800x\"", NULL},
        {"\"\\ud800\\u0041\"", NULL},
        {"\"\\ud800\\ud800\"", NULL},
        {"\"\\ud800\\\\u\"", NULL},
        {"\"\\udc00\"", NULL},
        {"\"\\\"", NULL},
        {"\"\\x\"", NULL},
        {"\"\\u12\"", NULL},
        {"\"\\u\"", NULL},
        {"\"a\"b\"", NULL},
        {"\"a\nb\"", NULL},
        {"\"\xC0\x80\"", NULL},
        {"\"\xE2\x82\"", NULL},
        {"\"", NULL},
        {"1", NULL},
        {"12", NULL},
        {"\"abc", NULL},
        {"abc\"", NULL},
        {"null", NULL},
    };
    char out[64];

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t len = strlen(table[i].text);
        char *copy = malloc(len);
        long n;

        assert_non_null(copy);
        memcpy(copy, table[i].text, len);
        n = json_span_string(copy, 0, len, out, sizeof(out));
        if (table[i].want) {
            assert_int_equal(n, strlen(table[i].want));
            assert_string_equal(out, table[i].want);
            assert_int_equal(json_span_string(copy, 0, len, out, strlen(table[i].want)), -1);
            assert_int_equal(json_span_string(copy, 0, len, out, strlen(table[i].want) + 1), n);
        } else {
            assert_int_equal(n, -1);
        }
        free(copy);
    }
    assert_int_equal(json_span_string("\"a\\u0000b\"", 0, 10, out, sizeof(out)), -1);
    assert_int_equal(json_span_string("\"a\0b\"", 0, 5, out, sizeof(out)), -1);
    assert_int_equal(json_span_string("xx\"a\"xx", 2, 5, out, sizeof(out)), 1);
    assert_int_equal(json_span_string("\"a\"", 0, 3, out, 0), -1);
    assert_int_equal(json_span_string("\"a\"", 2, 2, out, sizeof(out)), -1);
}

static void strings_are_quoted(void **state)
{
    static const struct {
        const char *s, *want;
    } table[] = {
        {"", "\"\""},
        {"abc/", "\"abc/\""},
        {"\"\\\b\f\n\r\t\x01\x1f\x7f", "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\""},
        {"\xC3\xA9\xF0\x9F\x98\x80", "\"\xC3\xA9\xF0\x9F\x98\x80\""},
        {"a\xFF\xC3", "\"a\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
    };
    char out[64], back[64];

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t len = strlen(table[i].want);

        assert_int_equal(json_quote(table[i].s, out, sizeof(out)), len);
        assert_string_equal(out, table[i].want);
        for (size_t size = 0; size <= len; size++) {
            assert_int_equal(json_quote(table[i].s, out, size), -1);
        }
        assert_int_equal(json_quote(table[i].s, out, len + 1), len);
        assert_true(json_span_string(out, 0, len, back, sizeof(back)) >= 0);
    }
}

/* ---- size ------------------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static bool is_slowed_down(void)
{
    const char *preload = getenv("LD_PRELOAD");

    return SANITIZED || (preload && strstr(preload, "vgpreload"));
}

static void large_texts_take_linear_time_and_no_memory(void **state)
{
    static const struct {
        const char *open, *repeat, *close;
        int code;
    } table[] = {
        {"", "[", "", DEPUTY_EINVAL},
        {"", "{\"a\":", "", DEPUTY_ELIMIT},
        {"{\"model\":", "[", "", DEPUTY_ELIMIT},
        {"{\"model\":[", "[],", "0]}", DEPUTY_OK},
        {"{\"model\":[", "{\"model\":[]},", "0]}", DEPUTY_OK},
        {"{", "\"a\":0,", "\"model\":1}", DEPUTY_OK},
        {"{", "\"a\":{},", "\"model\":1}", DEPUTY_OK},
        {"{", "\"a\":\"\\\"\",", "\"model\":1}", DEPUTY_OK},
        {"{", "\"model\":\"x\",", "\"model\":1}", DEPUTY_OK},
        {"{", "\"\\u006dodel\":0,", "\"model\":1}", DEPUTY_OK},
        {"{\"model\":\"", "\\n", "\"}", DEPUTY_OK},
        {"{\"model\":\"", "\\\"", "\"}", DEPUTY_OK},
        {"{\"model\":\"", "\\\\", "\"}", DEPUTY_OK},
        {"{\"model\":\"", "\\ud83d", "\"}", DEPUTY_OK},
        {"{\"model\":\"", "x", "\"}", DEPUTY_OK},
        {"{\"model\":\"", "\xE2\x82\xAC", "\"}", DEPUTY_OK},
        {"{\"model\":1,\"", "k", "\":1}", DEPUTY_OK},
        {"{\"model\":1,\"", "\\n", "\":1}", DEPUTY_OK},
        {"{\"model\":", "1", "}", DEPUTY_OK},
        {"{\"model\":", " ", "1}", DEPUTY_OK},
        {"{\"model\":1", " ", "}", DEPUTY_OK},
        {"{\"model\":1}", " ", "", DEPUTY_OK},
        {"", " ", "{\"model\":1}", DEPUTY_OK},
        {"{\"model\":\"", "x", "", DEPUTY_EINVAL},
        {"{\"model\":\"", "\\n", "", DEPUTY_EINVAL},
        {"{\"", "x", "", DEPUTY_EINVAL},
        {"{\"model\":", "1", "", DEPUTY_EINVAL},
        {"{\"model\":1} \"", "x", "", DEPUTY_EINVAL},
        {"{", "\"a\":0,", "", DEPUTY_EINVAL},
    };
    size_t size = is_slowed_down() ? (size_t)1 << 20 : (size_t)32 << 20;
    char *text = malloc(size + 64);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < COUNT(table); i++) {
        struct json_member m = {.name = "model"};
        struct rusage before, after;
        size_t used = strlen(table[i].open), n = strlen(table[i].repeat);
        double seconds;
        clock_t start;
        int code;

        memset(text, 0, size + 64);
        memcpy(text, table[i].open, used);
        while (used + n <= size) {
            memcpy(text + used, table[i].repeat, n);
            used += n;
        }
        memcpy(text + used, table[i].close, strlen(table[i].close));
        used += strlen(table[i].close);

        getrusage(RUSAGE_SELF, &before);
        start = clock();
        fail_allocation(1, true);
        code = json_span_find(text, used, &m, 1, NULL);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        assert_int_equal(allocations, 0);
        fail_allocation(0, false);
        getrusage(RUSAGE_SELF, &after);
        if (getenv("VERBOSE")) {
            print_message("%.3f s  %s%s...%s\n", seconds, table[i].open, table[i].repeat, table[i].close);
        }
        assert_int_equal(code, table[i].code);
        if (code == DEPUTY_OK) {
            assert_true(m.count >= 1 && m.start < m.end && m.end <= used);
        }
        if (!is_slowed_down()) {
            assert_true(seconds < 2.0);
            assert_true(after.ru_maxrss - before.ru_maxrss < 2048);
        }
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_are_exact),
        cmocka_unit_test(several_members_at_once),
        cmocka_unit_test(names_beyond_ascii_are_found_in_each_spelling),
        cmocka_unit_test(what_is_not_one_object_is_refused),
        cmocka_unit_test(what_rfc_8259_allows_is_taken),
        cmocka_unit_test(it_says_where_it_went_wrong),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(elements_of_an_array),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(strings_are_quoted),
        cmocka_unit_test(large_texts_take_linear_time_and_no_memory),
    };

    return cmocka_run_group_tests_name("json_span", tests, NULL, NULL);
}
