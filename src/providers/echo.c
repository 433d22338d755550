/* Repeats the last thing the user said. It copies the bytes of that JSON string as they stand, escapes and all, so that
 * nothing is decoded or encoded: what was a valid string in the request is one in the reply. */
#include "deputy/provider.h"

#include "base/buffer.h"
#include "base/error.h"
#include "net/json_span.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 20, OUT_MAX = 4 << 20, PIECES = 64, MODEL_MAX = 512, INPUTS_MAX = 2048 };

/* $M: the model as a JSON string. $T: the whole text, $P: the next piece of it, both without quotes. */
struct shape {
    const char *endpoint;
    const char *plain, *open, *piece, *close;
};

/* clang-format off */
#define DATA(json) "data: " json "\n\n"
#define EVENT(name, json) "event: " name "\ndata: " json "\n\n"
#define CHAT(delta, finish)                                                                                            \
    DATA("{\"id\":\"chatcmpl-echo\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":$M,\"choices\":["     \
         "{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}")
#define TEXT(text, finish)                                                                                             \
    DATA("{\"id\":\"cmpl-echo\",\"object\":\"text_completion\",\"created\":0,\"model\":$M,\"choices\":[{\"index\":0,"  \
         "\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" finish "}]}")
#define RESPONSE(status, output)                                                                                       \
    "{\"id\":\"resp_echo\",\"object\":\"response\",\"created_at\":0,\"status\":\"" status "\",\"model\":$M,"           \
    "\"output\":[" output "],\"usage\":{\"input_tokens\":0,\"output_tokens\":0,\"total_tokens\":0}}"
#define OUTPUT(status, content)                                                                                        \
    "{\"id\":\"msg_echo\",\"type\":\"message\",\"status\":\"" status "\",\"role\":\"assistant\",\"content\":["         \
    content "]}"
#define OUTPUT_TEXT "{\"type\":\"output_text\",\"text\":\"$T\",\"annotations\":[]}"
#define USAGE "\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}"
#define AT "\"item_id\":\"msg_echo\",\"output_index\":0,\"content_index\":0"

static const struct shape shapes[] = {
    {
        .endpoint = "chat/completions",
        .plain = "{\"id\":\"chatcmpl-echo\",\"object\":\"chat.completion\",\"created\":0,\"model\":$M,\"choices\":["
                 "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"$T\"},\"finish_reason\":\"stop\"}],"
                 USAGE "}",
        .open = CHAT("{\"role\":\"assistant\",\"content\":\"\"}", "null"),
        .piece = CHAT("{\"content\":\"$P\"}", "null"),
        .close = CHAT("{}", "\"stop\"") DATA("[DONE]"),
    },
    {
        .endpoint = "completions",
        .plain = "{\"id\":\"cmpl-echo\",\"object\":\"text_completion\",\"created\":0,\"model\":$M,\"choices\":["
                 "{\"index\":0,\"text\":\"$T\",\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE "}",
        .open = "",
        .piece = TEXT("$P", "null"),
        .close = TEXT("", "\"stop\"") DATA("[DONE]"),
    },
    {
        .endpoint = "responses",
        .plain = RESPONSE("completed", OUTPUT("completed", OUTPUT_TEXT)),
        .open = EVENT("response.created",
                      "{\"type\":\"response.created\",\"response\":" RESPONSE("in_progress", "") "}")
            EVENT("response.output_item.added", "{\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":"
                  OUTPUT("in_progress", "") "}")
            EVENT("response.content_part.added", "{\"type\":\"response.content_part.added\"," AT
                  ",\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}}"),
        .piece = EVENT("response.output_text.delta",
                       "{\"type\":\"response.output_text.delta\"," AT ",\"delta\":\"$P\"}"),
        .close = EVENT("response.output_text.done",
                       "{\"type\":\"response.output_text.done\"," AT ",\"text\":\"$T\"}")
            EVENT("response.content_part.done",
                  "{\"type\":\"response.content_part.done\"," AT ",\"part\":" OUTPUT_TEXT "}")
            EVENT("response.output_item.done", "{\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":"
                  OUTPUT("completed", OUTPUT_TEXT) "}")
            EVENT("response.completed", "{\"type\":\"response.completed\",\"response\":"
                  RESPONSE("completed", OUTPUT("completed", OUTPUT_TEXT)) "}"),
    },
    {
        .endpoint = "messages",
        .plain = "{\"id\":\"msg_echo\",\"type\":\"message\",\"role\":\"assistant\",\"model\":$M,\"content\":["
                 "{\"type\":\"text\",\"text\":\"$T\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,"
                 "\"usage\":{\"input_tokens\":0,\"output_tokens\":0}}",
        .open = EVENT("message_start", "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_echo\",\"type\":"
                      "\"message\",\"role\":\"assistant\",\"model\":$M,\"content\":[],\"stop_reason\":null,"
                      "\"stop_sequence\":null,\"usage\":{\"input_tokens\":0,\"output_tokens\":0}}}")
            EVENT("content_block_start", "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":"
                  "{\"type\":\"text\",\"text\":\"\"}}"),
        .piece = EVENT("content_block_delta", "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
                       "{\"type\":\"text_delta\",\"text\":\"$P\"}}"),
        .close = EVENT("content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}")
            EVENT("message_delta", "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
                  "\"stop_sequence\":null},\"usage\":{\"output_tokens\":0}}")
            EVENT("message_stop", "{\"type\":\"message_stop\"}"),
    },
};
/* clang-format on */

/* ---- what the user said ----------------------------------------------------------------------------------------- */

struct said {
    const char *base;   /* what the spans of the walk under way are offsets into */
    struct buffer text; /* inside the quotes, escapes kept */
    size_t n;           /* embeddings: inputs */
    int code;
};

static void add_string(struct said *said, const char *quoted, size_t len)
{
    if (said->code == DEPUTY_OK)
        said->code = buffer_append(&said->text, quoted + 1, len - 2);
}

/* One part of a message: {"type":"text","text":"..."}; or a plain string, as in a list of prompts. */
static void take_part(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct said *said = user;
    struct json_member text = {.name = "text"};
    const char *at = said->base + start;
    if (kind == JSON_STRING)
        add_string(said, at, end - start);
    else if (kind == JSON_OBJECT && json_span_find(at, end - start, &text, 1, NULL) == DEPUTY_OK &&
             text.kind == JSON_STRING)
        add_string(said, at + text.start, text.end - text.start);
}

static void take_content(struct said *said, const char *at, const struct json_member *content)
{
    const char *outer = said->base;
    at += content->start;
    buffer_free(&said->text); /* the last one counts */
    said->code = DEPUTY_OK;
    if (content->kind == JSON_STRING) {
        add_string(said, at, content->end - content->start);
    } else if (content->kind == JSON_ARRAY) {
        said->base = at;
        json_span_each(at, content->end - content->start, take_part, said);
        said->base = outer;
    }
}

static void take_message(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct said *said = user;
    struct json_member in[] = {{.name = "role"}, {.name = "content"}};
    const char *at = said->base + start;
    char role[16];
    if (kind == JSON_OBJECT && json_span_find(at, end - start, in, 2, NULL) == DEPUTY_OK &&
        json_span_string(at, in[0].start, in[0].end, role, sizeof(role)) >= 0 && strcmp(role, "user") == 0)
        take_content(said, at, &in[1]);
}

static void take_input(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct said *said = user;
    (void)start;
    (void)end;
    said->n += kind == JSON_STRING || kind == JSON_ARRAY;
}

/* A list of strings is one text; a list of messages has a last one. */
static void take_list(struct said *said, size_t len)
{
    json_span_each(said->base, len, take_message, said);
    if (buffer_len(&said->text) == 0)
        json_span_each(said->base, len, take_part, said);
}

struct asked {
    char model[MODEL_MAX]; /* a JSON string */
    struct said said;
};

static int read_request(const deputy_request *request, struct asked *asked)
{
    struct json_member in[] = {{.name = "model"}, {.name = "messages"}, {.name = "prompt"}, {.name = "input"}};
    const char *body = request->body;
    struct said *said = &asked->said;
    int code = body ? json_span_find(body, request->body_len, in, 4, NULL) : DEPUTY_EINVAL;
    buffer_init(&said->text, TEXT_MAX);
    strcpy(asked->model, "\"echo\"");
    if (code != DEPUTY_OK)
        return code == DEPUTY_ENOMEM ? code : DEPUTY_EINVAL;
    size_t len = in[0].end - in[0].start;
    if (in[0].kind == JSON_STRING && len < sizeof(asked->model)) {
        memcpy(asked->model, body + in[0].start, len);
        asked->model[len] = '\0';
    }
    for (size_t i = 1; i < 4; i++) {
        said->base = body + in[i].start;
        len = in[i].end - in[i].start;
        if (in[i].kind == JSON_STRING)
            add_string(said, said->base, len);
        else if (in[i].kind == JSON_ARRAY)
            take_list(said, len);
    }
    said->base = body + in[3].start;
    if (in[3].kind == JSON_ARRAY)
        json_span_each(said->base, in[3].end - in[3].start, take_input, said);
    if (said->n == 0)
        said->n = 1;
    return said->code;
}

/* ---- what it answers -------------------------------------------------------------------------------------------- */

/* A stream under way. */
struct echo {
    const struct shape *shape;
    struct asked asked;
    size_t at; /* in the text */
    enum { OPENING, PIECES_LEFT, CLOSING, SENT } step;
    struct buffer out; /* composed, not taken yet */
};

static int compose(struct buffer *out, const char *form, const struct asked *asked, const char *piece, size_t len)
{
    int code = DEPUTY_OK;
    while (*form && code == DEPUTY_OK) {
        size_t n = strcspn(form, "$");
        code = buffer_append(out, form, n);
        form += n;
        if (code != DEPUTY_OK || !*form)
            break;
        if (form[1] == 'M')
            code = buffer_append(out, asked->model, strlen(asked->model));
        else if (form[1] == 'T')
            code = buffer_append(out, buffer_bytes(&asked->said.text), buffer_len(&asked->said.text));
        else
            code = buffer_append(out, piece, len);
        form += 2;
    }
    return code;
}

/* Up to the next blank after a 64th of the text: a blank never stands inside an escape or a character. */
static size_t next_piece(const struct buffer *text, size_t at)
{
    const char *bytes = buffer_bytes(text);
    size_t len = buffer_len(text), end = at + len / PIECES + 1;
    while (end < len && bytes[end] != ' ')
        end++;
    return end < len ? end : len;
}

static int compose_next(struct echo *echo)
{
    const struct buffer *text = &echo->asked.said.text;
    size_t from = echo->at;
    switch (echo->step) {
    case OPENING:
        echo->step = buffer_len(text) > 0 ? PIECES_LEFT : CLOSING;
        return compose(&echo->out, echo->shape->open, &echo->asked, NULL, 0);
    case PIECES_LEFT:
        echo->at = next_piece(text, from);
        if (echo->at == buffer_len(text))
            echo->step = CLOSING;
        return compose(&echo->out, echo->shape->piece, &echo->asked, buffer_bytes(text) + from, echo->at - from);
    case CLOSING:
        echo->step = SENT;
        return compose(&echo->out, echo->shape->close, &echo->asked, NULL, 0);
    case SENT:
        break;
    }
    return DEPUTY_OK;
}

static void free_echo(struct echo *echo)
{
    buffer_free(&echo->asked.said.text);
    buffer_free(&echo->out);
    free(echo);
}

static void fail(deputy_call *call, int code)
{
    deputy_failure failure;
    if (code == DEPUTY_ELIMIT)
        failure_set(&failure, DEPUTY_FAILURE_LIMIT, 0, "too_large", "the text to repeat is over %d bytes", TEXT_MAX);
    else
        failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "memory", "out of memory for the reply");
    deputy_reply_fail(call, &failure);
}

/* Sends events until all are out or the reader wants a pause. */
static void stream(struct echo *echo, deputy_call *call)
{
    for (;;) {
        int code = buffer_len(&echo->out) > 0 ? DEPUTY_OK : compose_next(echo);
        if (code != DEPUTY_OK) {
            deputy_call_set_data(call, NULL);
            free_echo(echo);
            fail(call, code);
            return;
        }
        if (buffer_len(&echo->out) == 0 && echo->step != SENT)
            continue;
        if (buffer_len(&echo->out) == 0) {
            deputy_call_set_data(call, NULL);
            free_echo(echo);
            deputy_reply_end(call);
            return;
        }
        code = deputy_reply_bytes(call, buffer_bytes(&echo->out), buffer_len(&echo->out));
        if (code == DEPUTY_PAUSE)
            return;
        if (code != DEPUTY_OK) {
            deputy_call_set_data(call, NULL);
            free_echo(echo);
            return;
        }
        buffer_consume(&echo->out, buffer_len(&echo->out));
    }
}

static void resume(void *self, deputy_call *call)
{
    struct echo *echo = deputy_call_data(call);
    (void)self;
    if (echo)
        stream(echo, call);
}

static void cancel(void *self, deputy_call *call)
{
    struct echo *echo = deputy_call_data(call);
    (void)self;
    if (echo)
        free_echo(echo);
}

static int begin_stream(deputy_call *call, const struct shape *shape, struct asked *asked)
{
    static const deputy_header type = {"content-type", "text/event-stream"};
    struct echo *echo = calloc(1, sizeof(*echo));
    int code = echo ? deputy_reply_head(call, 200, &type, 1) : DEPUTY_ENOMEM;
    if (code != DEPUTY_OK) {
        free(echo);
        return code;
    }
    echo->shape = shape;
    echo->asked = *asked;
    buffer_init(&asked->said.text, TEXT_MAX); /* it has moved */
    buffer_init(&echo->out, OUT_MAX);
    deputy_call_set_data(call, echo);
    stream(echo, call);
    return DEPUTY_OK;
}

/* A vector for each input: the same for the same request, and nothing more is to be had from an echo. */
static int compose_embeddings(struct buffer *out, const struct asked *asked)
{
    static const char open[] = "{\"object\":\"list\",\"model\":$M,\"data\":[";
    static const char close[] = "],\"usage\":{\"prompt_tokens\":0,\"total_tokens\":0}}";
    const unsigned char *p = (const unsigned char *)buffer_bytes(&asked->said.text);
    unsigned hash = 2166136261u;
    char item[160];
    for (size_t i = 0; i < buffer_len(&asked->said.text); i++)
        hash = (hash ^ p[i]) * 16777619u;
    int code = asked->said.n <= INPUTS_MAX ? compose(out, open, asked, NULL, 0) : DEPUTY_ELIMIT;
    for (size_t i = 0; i < asked->said.n && code == DEPUTY_OK; i++) {
        int n = snprintf(item, sizeof(item), "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":[%.4f,%.4f]}",
                         i ? "," : "", i, (hash & 0xffff) / 65536.0, (hash >> 16) / 65536.0);
        code = buffer_append(out, item, (size_t)n);
    }
    return code == DEPUTY_OK ? compose(out, close, asked, NULL, 0) : code;
}

static void answer_error(deputy_call *call, int status, const char *code, const char *message)
{
    static const deputy_header type = {"content-type", "application/json"};
    char body[256];
    int len =
        snprintf(body, sizeof(body),
                 "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\",\"code\":\"%s\"}}", message, code);
    if (deputy_reply_head(call, status, &type, 1) == DEPUTY_OK &&
        deputy_reply_bytes(call, body, (size_t)len) == DEPUTY_OK)
        deputy_reply_end(call);
    else
        fail(call, DEPUTY_ENOMEM);
}

static void answer(deputy_call *call, const deputy_request *request, const struct shape *shape, struct asked *asked)
{
    struct buffer out;
    int code;
    buffer_init(&out, OUT_MAX);
    if (shape && request->stream == DEPUTY_STREAM_YES)
        code = begin_stream(call, shape, asked);
    else
        code = shape ? compose(&out, shape->plain, asked, NULL, 0) : compose_embeddings(&out, asked);
    if (code == DEPUTY_OK && buffer_len(&out) > 0)
        code = deputy_reply_json(call, buffer_bytes(&out), buffer_len(&out));
    if (code == DEPUTY_ENOMEM || code == DEPUTY_ELIMIT)
        fail(call, code);
    buffer_free(&out);
}

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    const struct shape *shape = NULL;
    struct asked asked = {0};
    (void)self;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (strcmp(shapes[i].endpoint, request->endpoint) == 0)
            shape = &shapes[i];
    if (!shape && strcmp(request->endpoint, "embeddings") != 0) {
        answer_error(call, 404, "not_found",
                     "echo knows chat/completions, completions, responses, messages, embeddings");
        return DEPUTY_OK;
    }
    int code = read_request(request, &asked);
    if (code == DEPUTY_OK)
        answer(call, request, shape, &asked);
    else if (code == DEPUTY_EINVAL)
        answer_error(call, 400, "invalid_json", "expected the body to be a JSON object");
    else
        fail(call, code);
    buffer_free(&asked.said.text);
    return DEPUTY_OK;
}

static int list_models(void *self, deputy_call *call)
{
    (void)self;
    int code = deputy_reply_model(call, "echo");
    return code == DEPUTY_OK ? deputy_reply_end(call) : code;
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(vtable),
    .complete = complete,
    .list_models = list_models,
    .cancel = cancel,
    .resume = resume,
};

int deputy_echo_new(const char *name, deputy_provider **provider, deputy_error *error)
{
    return deputy_provider_new(name, &vtable, NULL, provider, error);
}
