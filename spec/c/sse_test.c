/* net/sse: what each API's events mean, however the bytes are cut */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "deputy.h"
#include "failing_malloc.h"
#include "net/sse.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { O = 1, E = 2, F = 4, D = 8, MAX_EVENT = 4096 };

static const size_t NEVER = SIZE_MAX;

struct result {
    unsigned flags;
    size_t output_at;
    char code[48];
    int status;
};

/* Feeds text in pieces: up to `first`, then `step` bytes at a time (0: the rest at once). */
static struct result feed(const char *text, size_t len, size_t first, size_t step, size_t max_event)
{
    struct result result = {0, NEVER, "", 0};
    struct sse sse;
    size_t at = 0;

    sse_init(&sse, max_event);
    while (at < len || at == 0) {
        size_t n = at == 0 && first > 0 ? first : step > 0 ? step : len - at;
        size_t output_at = NEVER;
        char *copy;

        n = n < len - at ? n : len - at;
        copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, text + at, n);
        assert_int_equal(sse_feed(&sse, copy, n, &output_at), DEPUTY_OK);
        free(copy);
        if (output_at != NEVER) {
            assert_true(sse.output && result.output_at == NEVER && output_at > 0 && output_at <= n);
            result.output_at = at + output_at;
        }
        at += n;
        if (n == 0) {
            break;
        }
    }
    result.flags = (sse.output ? O : 0U) | (sse.error ? E : 0U) | (sse.finished ? F : 0U) | (sse.done ? D : 0U);
    assert_int_equal(sse.output, result.output_at != NEVER);
    memcpy(result.code, sse.code, sizeof(result.code));
    result.status = sse.status;
    sse_free(&sse);
    return result;
}

static bool same(const struct result *a, const struct result *b)
{
    return a->flags == b->flags && a->output_at == b->output_at && a->status == b->status &&
           strcmp(a->code, b->code) == 0;
}

/* Whole, byte by byte, in threes and cut in two at every offset. */
static struct result feed_each_way(const char *text, size_t len)
{
    struct result whole = feed(text, len, 0, 0, MAX_EVENT);

    for (size_t step = 1; step <= 3; step++) {
        struct result r = feed(text, len, 0, step, MAX_EVENT);

        if (!same(&whole, &r)) {
            fail_msg("step %zu: flags %u not %u, output at %zd not %zd: %s", step, r.flags, whole.flags,
                     (ssize_t)r.output_at, (ssize_t)whole.output_at, text);
        }
    }
    for (size_t cut = 1; cut < len; cut++) {
        struct result r = feed(text, len, cut, 0, MAX_EVENT);

        if (!same(&whole, &r)) {
            fail_msg("cut at %zu: flags %u not %u, output at %zd not %zd: %s", cut, r.flags, whole.flags,
                     (ssize_t)r.output_at, (ssize_t)whole.output_at, text);
        }
    }
    return whole;
}

/* ---- one event -------------------------------------------------------------------------------------------------- */

#define CHAT(rest)                                                                                                     \
    "{\"id\":\"chatcmpl-B9\",\"object\":\"chat.completion.chunk\",\"created\":1741569952,\"model\":\"gpt-4.1\","       \
    "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44709d6fcb\"," rest "}"
#define DELTA(delta, reason)                                                                                           \
    CHAT("\"choices\":[{\"index\":0,\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" reason "}]")
#define TEXT(rest) "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\"," rest "}"

static const struct {
    const char *event, *data;
    enum sse_meaning means;
    const char *code;
    int status;
} events[] = {
    /* OpenAI chat completions, and what speaks like it */
    {"", DELTA("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{\"role\":\"assistant\",\"content\":null}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{\"content\":\"Hello\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"content\":\" \"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"content\":\"\\n\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"content\":\"\\ud83d\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"cont\\u0065nt\":\"x\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"refusal\":\"I'm sorry\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"reasoning_content\":\"Let me think\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"reasoning\":\"Hm\",\"content\":\"\"}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"reasoning_content\":\"\",\"reasoning\":null,\"tool_calls\":[]}", "null"), SSE_NOTHING, "", 0},
    {"",
     DELTA("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":"
           "\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":\"\"}}]}",
           "null"),
     SSE_OUTPUT, "", 0},
    {"", DELTA("{\"tool_calls\":[ ]}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{\"function_call\":{\"name\":\"f\",\"arguments\":\"\"}}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"function_call\":{ }}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{\"audio\":{\"id\":\"audio_1\"}}", "null"), SSE_NOTHING, "", 0},
    {"", DELTA("{\"audio\":{\"id\":\"audio_1\",\"transcript\":\"Hi\"}}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{\"audio\":{\"data\":\"AAAA\"}}", "null"), SSE_OUTPUT, "", 0},
    {"", DELTA("{}", "\"stop\""), SSE_FINISH, "", 0},
    {"", DELTA("{}", "\"tool_calls\""), SSE_FINISH, "", 0},
    {"", DELTA("{}", "\"\""), SSE_NOTHING, "", 0},
    {"", DELTA("{\"content\":\"bye\"}", "\"length\""), SSE_OUTPUT, "", 0},
    {"", CHAT("\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12}"), SSE_NOTHING, "", 0},
    {"", CHAT("\"choices\":[{\"index\":0,\"delta\":{}},{\"index\":1,\"delta\":{\"content\":\"x\"}}]"), SSE_OUTPUT, "",
     0},
    {"", CHAT("\"choices\":[1,null,{\"delta\":\"x\"},{\"delta\":null}]"), SSE_NOTHING, "", 0},
    {"", CHAT("\"choices\":{\"delta\":{\"content\":\"x\"}}"), SSE_NOTHING, "", 0},
    {"", CHAT("\"error\":null,\"choices\":[{\"delta\":{\"content\":\"x\"}}]"), SSE_OUTPUT, "", 0},
    {"", CHAT("\"x\":{\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"error\":\"x\"}"), SSE_NOTHING, "", 0},
    {"", "[DONE]", SSE_DONE, "", 0},

    /* completions */
    {"", TEXT("\"choices\":[{\"text\":\"This\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]"), SSE_OUTPUT, "",
     0},
    {"", TEXT("\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]"), SSE_NOTHING, "",
     0},
    {"", TEXT("\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}]"), SSE_FINISH,
     "", 0},

    /* errors in band */
    {"", "{\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\",\"param\":null,\"code\":null}}",
     SSE_ERROR, "server_error", 500},
    {"error",
     "{\"error\":{\"message\":\"Rate limit\",\"type\":\"requests\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}",
     SSE_ERROR, "rate_limit_exceeded", 429},
    {"",
     "{\"error\":{\"object\":\"error\",\"message\":\"x\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}",
     SSE_ERROR, "BadRequestError", 400},
    {"", "{\"object\":\"error\",\"message\":\"x\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}",
     SSE_ERROR, "InternalServerError", 500},
    {"", "{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}", SSE_ERROR,
     "unavailable_error", 503},
    {"", "{\"error\":\"model not found\"}", SSE_ERROR, "", 0},
    {"", "{\"error\":\"overloaded_error\"}", SSE_ERROR, "overloaded_error", 529},
    {"", "{\"error\":{}}", SSE_ERROR, "", 0},
    {"", "{\"error\":\"\"}", SSE_NOTHING, "", 0},
    {"", "{\"error\":false}", SSE_NOTHING, "", 0},
    {"", "{\"error\":{\"code\":\"has space\",\"type\":\"fine\"}}", SSE_ERROR, "fine", 0},
    {"", "{\"error\":{\"code\":\"line\\nbreak\"}}", SSE_ERROR, "", 0},
    {"", "{\"error\":{\"code\":200}}", SSE_ERROR, "", 0},
    {"", "{\"error\":{\"code\":600,\"status\":418}}", SSE_ERROR, "", 418},
    {"", "{\"error\":{\"code\":\"0123456789012345678901234567890123456789012345678\"}}", SSE_ERROR, "", 0},
    {"",
     CHAT("\"error\":{\"code\":502,\"message\":\"Provider disconnected\"},\"choices\":[{\"index\":0,\"delta\":"
          "{\"content\":\"x\"},\"finish_reason\":\"error\"}]"),
     SSE_ERROR, "", 502},
    {"error", "{\"message\":\"x\"}", SSE_ERROR, "", 0},
    {"error", "overloaded", SSE_ERROR, "", 0},
    {"error", "", SSE_ERROR, "", 0},

    /* OpenAI responses */
    {"response.created",
     "{\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":"
     "\"in_progress\",\"error\":null,\"incomplete_details\":null,\"output\":[]}}",
     SSE_NOTHING, "", 0},
    {"response.in_progress", "{\"type\":\"response.in_progress\",\"response\":{\"id\":\"resp_1\",\"error\":null}}",
     SSE_NOTHING, "", 0},
    {"response.output_item.added",
     "{\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"id\":\"msg_1\",\"type\":\"message\","
     "\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}}",
     SSE_NOTHING, "", 0},
    {"",
     "{\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"id\":\"fc_1\",\"type\":"
     "\"function_call\",\"status\":\"in_progress\",\"arguments\":\"\",\"call_id\":\"call_1\",\"name\":\"f\"}}",
     SSE_NOTHING, "", 0},
    {"response.content_part.added",
     "{\"type\":\"response.content_part.added\",\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"part\":"
     "{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}}",
     SSE_NOTHING, "", 0},
    {"response.output_text.delta",
     "{\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,"
     "\"delta\":\"Hi\"}",
     SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.output_text.delta\",\"delta\":\"\"}", SSE_NOTHING, "", 0},
    {"response.output_text.delta", "{\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.refusal.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.reasoning_text.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.reasoning_summary_text.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.audio.delta\",\"delta\":\"AAAA\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.audio.transcript.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.custom_tool_call_input.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.mcp_call_arguments.delta\",\"delta\":\"{\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.code_interpreter_call_code.delta\",\"delta\":\"x\"}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.image_generation_call.partial_image\",\"partial_image_b64\":\"AAAA\"}", SSE_OUTPUT, "",
     0},
    {"",
     "{\"type\":\"response.output_item.done\",\"item\":{\"type\":\"message\",\"content\":[{\"type\":\"output_text\","
     "\"text\":\"Hi\"}]}}",
     SSE_OUTPUT, "", 0},
    {"response.completed", "{\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"output\":[]}}", SSE_DONE,
     "", 0},
    {"", "{\"type\":\"response.completed\",\"response\":{\"output\":[{\"type\":\"message\"}]}}", SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"response.incomplete\",\"response\":{\"incomplete_details\":{\"reason\":\"max_output_tokens\"}}}",
     SSE_DONE, "", 0},
    {"response.failed",
     "{\"type\":\"response.failed\",\"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":{\"code\":"
     "\"server_error\",\"message\":\"The model failed\"}}}",
     SSE_ERROR, "server_error", 500},
    {"", "{\"type\":\"response.failed\"}", SSE_ERROR, "", 0},
    {"error", "{\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"x\",\"param\":null}", SSE_ERROR,
     "rate_limit_exceeded", 429},
    {"", "{\"type\":\"error\",\"code\":null,\"message\":\"x\",\"param\":null}", SSE_ERROR, "", 0},

    /* Anthropic messages */
    {"message_start",
     "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\","
     "\"content\":[],\"model\":\"claude\",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,"
     "\"output_tokens\":1}}}",
     SSE_NOTHING, "", 0},
    {"content_block_start",
     "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}", SSE_NOTHING,
     "", 0},
    {"content_block_start",
     "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"Hi\"}}", SSE_OUTPUT,
     "", 0},
    {"content_block_start",
     "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\","
     "\"signature\":\"\"}}",
     SSE_NOTHING, "", 0},
    {"content_block_start",
     "{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\","
     "\"name\":\"get_weather\",\"input\":{}}}",
     SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"server_tool_use\",\"id\":\"x\"}}", SSE_OUTPUT,
     "", 0},
    {"", "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"E\"}}",
     SSE_OUTPUT, "", 0},
    {"", "{\"type\":\"content_block_start\",\"content_block\":{}}", SSE_NOTHING, "", 0},
    {"ping", "{\"type\": \"ping\"}", SSE_NOTHING, "", 0},
    {"content_block_delta",
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}",
     SSE_OUTPUT, "", 0},
    {"content_block_delta", "{\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}", SSE_OUTPUT, "", 0},
    {"content_block_delta",
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\"}}", SSE_NOTHING,
     "", 0},
    {"content_block_delta",
     "{\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}",
     SSE_OUTPUT, "", 0},
    {"content_block_delta",
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm\"}}",
     SSE_OUTPUT, "", 0},
    {"content_block_delta",
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"E\"}}",
     SSE_NOTHING, "", 0},
    {"content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}", SSE_NOTHING, "", 0},
    {"message_delta",
     "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":"
     "{\"output_tokens\":15}}",
     SSE_FINISH, "", 0},
    {"message_delta", "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":null}}", SSE_NOTHING, "", 0},
    {"message_stop", "{\"type\":\"message_stop\"}", SSE_DONE, "", 0},
    {"message_stop", "{}", SSE_DONE, "", 0},
    {"error", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}", SSE_ERROR,
     "overloaded_error", 529},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"x\"}}", SSE_ERROR,
     "rate_limit_error", 429},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}", SSE_ERROR, "api_error", 500},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\"}}", SSE_ERROR, "authentication_error", 401},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"permission_error\"}}", SSE_ERROR, "permission_error", 403},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"}}", SSE_ERROR, "invalid_request_error",
     400},
    {"", "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\"}}", SSE_ERROR, "not_found_error", 404},

    /* nothing anybody knows */
    {"", "", SSE_NOTHING, "", 0},
    {"", "hello", SSE_NOTHING, "", 0},
    {"", "[DONE", SSE_NOTHING, "", 0},
    {"", "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]", SSE_NOTHING, "", 0},
    {"", "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]} x", SSE_NOTHING, "", 0},
    {"", "[{\"error\":\"x\"}]", SSE_NOTHING, "", 0},
    {"", "{\"type\":7,\"choices\":null,\"delta\":\"x\",\"content_block\":1,\"response\":[],\"item\":0}", SSE_NOTHING,
     "", 0},
    {"tick", "{\"type\":\"tock\",\"delta\":{\"text\":\"x\"}}", SSE_NOTHING, "", 0},
};

static void each_event_means_what_its_api_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(events); i++) {
        char code[48] = "?";
        int status = -1;
        enum sse_meaning means = sse_meaning(events[i].event, events[i].data, strlen(events[i].data), code, &status);

        if (means != events[i].means || strcmp(code, events[i].code) != 0 || status != events[i].status) {
            fail_msg("%s %s: %d \"%s\" %d", events[i].event, events[i].data, (int)means, code, status);
        }
        assert_int_equal(sse_meaning(events[i].event, events[i].data, strlen(events[i].data), NULL, NULL), means);
    }
}

/* What was found in one event must also be found in a stream: alone, and, where it is news, after output. */
static void each_event_is_found_in_a_stream(void **state)
{
    static const char output[] = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";

    (void)state;
    for (size_t i = 0; i < COUNT(events); i++) {
        char text[2048];
        size_t skip = sizeof(output) - 1;
        size_t len =
            (size_t)snprintf(text, sizeof(text), "%sevent: %s\ndata: %s\n\n", output, events[i].event, events[i].data);
        struct result alone = feed_each_way(text + skip, len - skip);
        struct result later = feed_each_way(text, len);
        unsigned bit = events[i].means == SSE_OUTPUT   ? O
                       : events[i].means == SSE_ERROR  ? E
                       : events[i].means == SSE_FINISH ? F
                       : events[i].means == SSE_DONE   ? D
                                                       : 0;

        assert_int_equal(alone.flags & bit, bit);
        assert_int_equal(alone.output_at, alone.flags & O ? len - skip : NEVER);
        assert_string_equal(alone.code, events[i].code);
        assert_int_equal(alone.status, events[i].status);
        assert_int_equal(later.flags, alone.flags | O);
        assert_int_equal(later.output_at, skip);
        assert_string_equal(later.code, events[i].code);
        assert_int_equal(later.status, events[i].status);
    }
}

/* ---- the format ------------------------------------------------------------------------------------------------- */

#define HI "{\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}"

static void the_format_is_read_as_whatwg_says(void **state)
{
    static const struct {
        const char *text;
        unsigned flags;
        ssize_t output_at; /* -1: never; -2: at the end */
    } table[] = {
        {"", 0, -1},
        {"\n\n\r\r\r\n\r\n", 0, -1},
        {"data: " HI "\n\n", O, -2},
        {"data:" HI "\n\n", O, -2},
        {"data: " HI "\r\r", O, -2},
        {"data: " HI "\r\n\r", O, -2},
        {"data: " HI "\n\r", O, -2},
        {"data: " HI "\r\n\n", O, -2},
        {"data: " HI "\n", 0, -1},
        {"data: " HI "\r\n", 0, -1},
        {"data: " HI, 0, -1},
        {"\xEF\xBB\xBF"
         "data: " HI "\n\n",
         O, -2},
        {"\xEF\xBB\xBF\xEF\xBB\xBF"
         "data: " HI "\n\n",
         0, -1},
        {"\xEF\xBB"
         "data: " HI "\n\n",
         0, -1},
        {"\xEF\xBB\ndata: " HI "\n\n", O, -2},
        {"\n\xEF\xBB\xBF"
         "data: " HI "\n\n",
         0, -1},
        {"Data: " HI "\n\n", 0, -1},
        {" data: " HI "\n\n", 0, -1},
        {"data : " HI "\n\n", 0, -1},
        {"dat: " HI "\n\n", 0, -1},
        {"datax: " HI "\n\n", 0, -1},
        {"datadata: " HI "\n\n", 0, -1},
        {": data: " HI "\n\n", 0, -1},
        {":" HI "\n\n", 0, -1},
        {": keep-alive\n\nid: 7\nretry: 10\nfoo: bar\nlonelyword\ndata: " HI "\n\n", O, -2},
        {"data: {\"choices\":\ndata: [{\"delta\":\ndata:{\"content\":\"hi\"}}]}\n\n", O, -2},
        {"data: {\"choices\":[{\"delta\":{\"content\":\"h\ndata: i\"}}]}\n\n", 0, -1},
        {"data\ndata: " HI "\ndata\n\n", O, -2},
        {"data: {\"choices\":\n\ndata: [{\"delta\":{\"content\":\"hi\"}}]}\n\n", 0, -1},
        {"data:  [DONE]\n\n", 0, -1},
        {"data: [DONE]\n\n", D, -1},
        {"data:[DONE]\r\n\r\n", D, -1},
        {"data: [DONE]\ndata\n\n", 0, -1},
        {"event: error\ndata: x\n\n", E, -1},
        {"data: x\nevent: error\n\n", E, -1},
        {"data: x\nevent:error\n\n", E, -1},
        {"event: error\nevent: ping\ndata: x\n\n", 0, -1},
        {"event: error\nevent\ndata: x\n\n", 0, -1},
        {"event: error\n\ndata: x\n\n", 0, -1},
        {"event: error\n\n", 0, -1},
        {"event: error\ndata\n\n", E, -1},
        {"event: errors\ndata: x\n\n", 0, -1},
        {"event:  error\ndata: x\n\n", 0, -1},
        {"event: message_stop\ndata: {}\n\n", D, -1},
        {"event: "
         "errorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerrorerror\ndata: x\n\n",
         0, -1},
        {"data: {\"error\":{\"code\":\"x\"}}\n\ndata: " HI "\n\n", E, -1},
        {"data: " HI "\n\ndata: {\"error\":{\"code\":\"x\"}}\n\n", O | E, sizeof("data: " HI "\n\n") - 1},
        {"data: " HI "\n\ndata: {\"err\\u006fr\":{\"code\":\"x\"}}\n\n", O | E, sizeof("data: " HI "\n\n") - 1},
        {"data: " HI "\r\n\r\ndata: [DONE]\r\n\r\n", O | D, sizeof("data: " HI "\r\n\r") - 1},
        {"data: nonsense\n\ndata: {\n\ndata: " HI "\n\n", O, -2},
        {"data: " HI "\n\ndata: {\"choices\":[{\"finish_reason\":null},{\"finish_reason\" : \"stop\"}]}\n\n", O | F,
         sizeof("data: " HI "\n\n") - 1},
        {"data: " HI "\n\ndata: {\"choices\":[{\"finish\\u005freason\":\"stop\"}]}\n\n", O | F,
         sizeof("data: " HI "\n\n") - 1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t len = strlen(table[i].text);
        struct result r = feed_each_way(table[i].text, len);
        size_t at = table[i].output_at == -1 ? NEVER : table[i].output_at == -2 ? len : (size_t)table[i].output_at;

        if (r.flags != table[i].flags || r.output_at != at) {
            fail_msg("flags %u, output at %zd: %s", r.flags, (ssize_t)r.output_at, table[i].text);
        }
    }
}

static void a_nul_is_a_byte_like_any_other(void **state)
{
    static const char name[] = "event: error\0x\ndata: x\n\n", data[] = "data: [DONE]\0\n\n", field[] = "data\0: x\n\n";

    (void)state;
    assert_int_equal(feed_each_way(name, sizeof(name) - 1).flags, 0);
    assert_int_equal(feed_each_way(data, sizeof(data) - 1).flags, 0);
    assert_int_equal(feed_each_way(field, sizeof(field) - 1).flags, 0);
}

static void whole_streams(void **state)
{
    static const struct {
        const char *text;
        unsigned flags;
        const char *first_output;
    } table[] = {
        {"data: " DELTA("{\"role\":\"assistant\",\"content\":\"\"}",
                        "null") "\n\n"
                                "data: " DELTA("{\"content\":\"Hel\"}",
                                               "null") "\n\n"
                                                       "data: " DELTA("{\"content\":\"lo\"}",
                                                                      "null") "\n\n"
                                                                              "data: " DELTA(
                                                                                  "{}", "\"stop\"") "\n\n"
                                                                                                    "data: [DONE]\n\n",
         O | F | D, "Hel"},
        {": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
         "data: " DELTA("{\"role\":\"assistant\",\"content\":\"\"}",
                        "null") "\n\n"
                                "data: {\"error\":{\"code\":502,\"message\":\"Provider returned error\"}}\n\n",
         E, NULL},
        {"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"stop_reason\":null}}\n\n"
         "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
         "\"text\",\"text\":\"\"}}\n\n"
         "event: ping\ndata: {\"type\": \"ping\"}\n\n"
         "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
         "\"text_delta\",\"text\":\"Hello\"}}\n\n"
         "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
         "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n"
         "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
         O | F | D, "Hello"},
        {"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n"
         "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n"
         "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[1]}}\n\n",
         O | F | D, "Hi"},
        {"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n"
         "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n"
         "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"x\"}}}\n\n",
         O | E, "Hi"},
        {"event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{}}\r\n\r\n"
         "event: error\r\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\r\n\r\n",
         E, NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct result r = feed_each_way(table[i].text, strlen(table[i].text));
        size_t at = NEVER;

        if (table[i].first_output) {
            const char *event = strstr(table[i].text, table[i].first_output);

            assert_non_null(event);
            at = (size_t)(strstr(event, "\n\n") - table[i].text) + 2;
        }
        assert_int_equal(r.flags, table[i].flags);
        assert_int_equal(r.output_at, at);
    }
}

static void the_first_error_is_kept(void **state)
{
    const char *text =
        "data: {\"error\":{\"code\":\"first\",\"status\":503}}\n\ndata: {\"error\":{\"code\":\"second\"}}\n\n";
    struct result r = feed_each_way(text, strlen(text));

    (void)state;
    assert_string_equal(r.code, "first");
    assert_int_equal(r.status, 503);
}

static void an_event_that_is_too_large_counts_as_output(void **state)
{
    enum { MAX = 32 };
    char text[400];

    (void)state;
    for (size_t n = 0; n < 100; n++) {
        for (int lines = 0; lines < 2; lines++) {
            size_t used = (size_t)sprintf(text, lines ? "data: abc\ndata: " : "data: ");
            size_t before = used, held = lines ? 4 : 0;
            struct result whole;

            memset(text + used, 'x', n);
            used += n;
            used += (size_t)sprintf(text + used, "\n\ndata: [DONE]\n\n");
            whole = feed(text, used, 0, 0, MAX);
            assert_int_equal(whole.flags, n + held > MAX ? (O | D) : D);
            assert_int_equal(whole.output_at, n + held > MAX ? before + MAX - held + 1 : NEVER);
            for (size_t cut = 1; cut < used; cut++) {
                struct result r = feed(text, used, cut, 0, MAX);

                assert_true(same(&whole, &r));
            }
        }
    }
    memset(text, 'x', sizeof(text));
    memcpy(text, "event: error\ndata: ", 19);
    assert_int_equal(feed(text, sizeof(text), 0, 0, MAX).flags, E);
    memcpy(text, "event: response.failed\ndata: ", 29);
    assert_int_equal(feed(text, sizeof(text), 0, 0, MAX).flags, E);
    memcpy(text, "event: response.completed\ndata: ", 32);
    assert_int_equal(feed(text, sizeof(text), 0, 0, MAX).flags, O);
    memcpy(text + sizeof(text) - 2, "\n\n", 2);
    for (size_t cut = 1; cut < sizeof(text); cut++)
        assert_int_equal(feed(text, sizeof(text), cut, 0, MAX).flags, O | F | D);
    memset(text, 'x', sizeof(text));
    memcpy(text, "ignored: abcdefghij", 19);
    assert_int_equal(feed(text, sizeof(text), 0, 7, MAX).flags, 0);
    assert_int_equal(feed("data: x\n\n", 9, 0, 0, 0).flags, O);
}

static void odd_streams_stay_linear(void **state)
{
    static const char *const table[] = {"\r",
                                        "\n",
                                        "\r\n",
                                        "data:\r",
                                        "data\n",
                                        ":",
                                        "x",
                                        "data: x\r\r",
                                        "event: e\r",
                                        "data: {\"a\":[]}\n\n",
                                        "data: _reason\":null\n"};
    enum { SIZE = 4 << 20, PIECE = 65536 };
    char *text = malloc(SIZE);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t n = strlen(table[i]);
        struct sse sse;
        clock_t start;
        double seconds;

        for (size_t j = 0; j < SIZE; j++) {
            text[j] = table[i][j % n];
        }
        sse_init(&sse, PIECE);
        start = clock();
        for (size_t at = 0; at < SIZE; at += PIECE) {
            assert_int_equal(sse_feed(&sse, text + at, PIECE, NULL), DEPUTY_OK);
        }
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (getenv("VERBOSE")) {
            print_message("%.3f s  %s\n", seconds, table[i]);
        }
        /* what is quadratic takes a minute */
        assert_true(seconds < 8.0);
        assert_true(sse.size <= PIECE);
        sse_free(&sse);
    }
    free(text);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void a_steady_stream_allocates_nothing(void **state)
{
    static const char event[] = "data: " DELTA("{\"content\":\"word\"}", "null") "\n\n";
    struct sse sse;
    clock_t start;
    int rounds = 20000;

    (void)state;
    sse_init(&sse, MAX_EVENT);
    assert_int_equal(sse_feed(&sse, event, sizeof(event) - 1, NULL), DEPUTY_OK);
    fail_allocation(1, true);
    start = clock();
    for (int i = 0; i < rounds; i++) {
        assert_int_equal(sse_feed(&sse, event, sizeof(event) - 1, NULL), DEPUTY_OK);
    }
    if (getenv("VERBOSE")) {
        print_message("%.0f ns an event\n", (double)(clock() - start) / CLOCKS_PER_SEC * 1e9 / rounds);
    }
    assert_int_equal(allocations, 0);
    fail_allocation(0, false);
    sse_free(&sse);
}

static void every_allocation_may_fail(void **state)
{
    char text[8192];
    size_t len = 0;

    (void)state;
    for (int i = 1; i < 6; i++) {
        len += (size_t)sprintf(text + len, "event: x\ndata: %0*d\n\n", i * 300, 0);
    }
    for (long n = 1; n < 10; n++) {
        for (int on = 0; on < 2; on++) {
            struct sse sse;
            int code;

            sse_init(&sse, MAX_EVENT);
            fail_allocation(n, on);
            code = sse_feed(&sse, text, len, NULL);
            assert_int_equal(code, allocations >= n ? DEPUTY_ENOMEM : DEPUTY_OK);
            assert_false(sse.output || sse.error || sse.finished || sse.done);
            fail_allocation(0, false);
            sse_free(&sse);
            sse_free(&sse);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_event_means_what_its_api_says),
        cmocka_unit_test(each_event_is_found_in_a_stream),
        cmocka_unit_test(the_format_is_read_as_whatwg_says),
        cmocka_unit_test(a_nul_is_a_byte_like_any_other),
        cmocka_unit_test(whole_streams),
        cmocka_unit_test(the_first_error_is_kept),
        cmocka_unit_test(an_event_that_is_too_large_counts_as_output),
        cmocka_unit_test(odd_streams_stay_linear),
        cmocka_unit_test(a_steady_stream_allocates_nothing),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
