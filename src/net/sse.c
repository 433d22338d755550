#include "net/sse.h"

#include <stdlib.h>
#include <string.h>

#include "deputy.h"
#include "net/json_span.h"

/* ---- what an event means ---------------------------------------------------------------------------------------- */

enum { OUTPUT = 1, ERROR = 2, FINISH = 4, DONE = 8 };

enum { CODE_SIZE = sizeof(((struct sse *)0)->code), WORD_SIZE = 64 };

/* An event's JSON, or a part of it. */
struct json {
    const char *text;
    size_t len;
};

static struct json part(struct json whole, const struct json_member *m)
{
    return (struct json){whole.text + m->start, m->end - m->start};
}

static bool find(struct json object, struct json_member *members, size_t n)
{
    return json_span_find(object.text, object.len, members, n, NULL) == DEPUTY_OK;
}

static void count_element(void *user, enum json_kind kind, size_t start, size_t end)
{
    (void)kind;
    (void)start;
    (void)end;
    ++*(size_t *)user;
}

/* A string, array or object with something in it. */
static bool is_filled(struct json whole, const struct json_member *m)
{
    struct json value = part(whole, m);
    size_t inside = 0;

    switch (m->kind) {
    case JSON_STRING:
        return value.len > 2;
    case JSON_ARRAY:
        json_span_each(value.text, value.len, count_element, &inside);
        return inside > 0;
    case JSON_OBJECT:
        return memchr(value.text, '"', value.len) != NULL;
    default:
        return false;
    }
}

static bool has_filled(struct json object, struct json_member *members, size_t n)
{
    if (!find(object, members, n)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (is_filled(object, &members[i])) {
            return true;
        }
    }
    return false;
}

static void read_word(struct json whole, const struct json_member *m, char out[WORD_SIZE])
{
    out[0] = '\0';
    if (m->kind == JSON_STRING && json_span_string(whole.text, m->start, m->end, out, WORD_SIZE) < 0) {
        out[0] = '\0';
    }
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

struct trouble {
    char code[CODE_SIZE];
    int status;
};

/* Anthropic's error types are documented with their status; OpenAI's codes are those of its plain replies. */
static int status_of(const char *word)
{
    static const struct {
        const char *word;
        int status;
    } known[] = {
        {"invalid_request_error", 400}, {"context_length_exceeded", 400}, {"content_policy_violation", 400},
        {"invalid_prompt", 400},        {"authentication_error", 401},    {"invalid_api_key", 401},
        {"billing_error", 402},         {"permission_error", 403},        {"not_found_error", 404},
        {"model_not_found", 404},       {"request_too_large", 413},       {"rate_limit_error", 429},
        {"rate_limit_exceeded", 429},   {"insufficient_quota", 429},      {"api_error", 500},
        {"server_error", 500},          {"timeout_error", 504},           {"overloaded_error", 529},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(word, known[i].word) == 0) {
            return known[i].status;
        }
    }
    return 0;
}

static void name_trouble(struct trouble *trouble, struct json whole, const struct json_member *m)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    char word[WORD_SIZE];

    read_word(whole, m, word);
    if (strlen(word) >= CODE_SIZE || word[strspn(word, allowed)] != '\0') {
        return;
    }
    if (trouble->code[0] == '\0') {
        memcpy(trouble->code, word, strlen(word) + 1);
    }
    if (trouble->status == 0) {
        trouble->status = status_of(word);
    }
}

static int http_status(struct json whole, const struct json_member *m)
{
    struct json value = part(whole, m);
    int status = 0;

    if (m->kind != JSON_NUMBER || value.len != 3) {
        return 0;
    }
    for (size_t i = 0; i < value.len; i++) {
        if (value.text[i] < '0' || value.text[i] > '9') {
            return 0;
        }
        status = status * 10 + (value.text[i] - '0');
    }
    return status >= 400 && status <= 599 ? status : 0;
}

/* From an object that describes an error; its "type" may be the word "error" alone, which says nothing. */
static void read_trouble(struct json object, struct trouble *trouble)
{
    struct json_member m[] = {{.name = "code"}, {.name = "type"}, {.name = "status"}};

    if (!find(object, m, 3)) {
        return;
    }
    trouble->status = http_status(object, &m[2]);
    if (trouble->status == 0) {
        trouble->status = http_status(object, &m[0]);
    }
    name_trouble(trouble, object, &m[0]);
    if (m[1].kind != JSON_STRING || part(object, &m[1]).len != strlen("\"error\"") ||
        memcmp(object.text + m[1].start, "\"error\"", strlen("\"error\"")) != 0) {
        name_trouble(trouble, object, &m[1]);
    }
}

/* From a member whose value is such an object, or just a word or sentence. */
static void read_error(struct json whole, const struct json_member *m, struct trouble *trouble)
{
    if (m->kind == JSON_OBJECT) {
        read_trouble(part(whole, m), trouble);
    } else {
        name_trouble(trouble, whole, m);
    }
}

/* ---- each API --------------------------------------------------------------------------------------------------- */

/* Those with an index of 63 and more are one. */
struct choices {
    struct json array;
    unsigned means;
    uint64_t seen, ended; /* a bit for each index */
};

static bool delta_has_output(struct json delta)
{
    struct json_member m[] = {{.name = "content"},      {.name = "reasoning_content"}, {.name = "reasoning"},
                              {.name = "refusal"},      {.name = "reasoning_details"}, {.name = "tool_calls"},
                              {.name = "function_call"}};
    struct json_member audio = {.name = "audio"};
    struct json_member in_audio[] = {{.name = "data"}, {.name = "transcript"}};

    /* audio that has an id and nothing else is no output yet */
    return has_filled(delta, m, sizeof(m) / sizeof(m[0])) ||
           (find(delta, &audio, 1) && audio.kind == JSON_OBJECT && has_filled(part(delta, &audio), in_audio, 2));
}

static uint64_t choice_bit(struct json choice, const struct json_member *index)
{
    struct json value = part(choice, index);
    unsigned i = 0;

    for (size_t at = 0; index->kind == JSON_NUMBER && at < value.len && at < 3; at++) {
        if (value.text[at] < '0' || value.text[at] > '9') {
            break;
        }
        i = i * 10 + (unsigned)(value.text[at] - '0');
    }
    return (uint64_t)1 << (i < 63 ? i : 63);
}

/* One of chat.completion.chunk's or text_completion's choices. */
static void read_choice(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct choices *choices = user;
    struct json choice = {choices->array.text + start, end - start};
    struct json_member m[] = {{.name = "delta"}, {.name = "text"}, {.name = "finish_reason"}, {.name = "index"}};

    if (kind != JSON_OBJECT || !find(choice, m, 4)) {
        return;
    }
    choices->seen |= choice_bit(choice, &m[3]);
    if ((m[0].kind == JSON_OBJECT && delta_has_output(part(choice, &m[0]))) || is_filled(choice, &m[1])) {
        choices->means |= OUTPUT;
    }
    if (is_filled(choice, &m[2])) {
        choices->means |= FINISH;
        choices->ended |= choice_bit(choice, &m[3]);
    }
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), n = strlen(end);

    return len >= n && strcmp(text + len - n, end) == 0;
}

/* The top level's members that matter to one API or another. */
enum { TYPE, OBJECT, ERROR_MEMBER, CHOICES, DELTA, BLOCK, RESPONSE, ITEM, IMAGE, N_MEMBERS };

static unsigned read_response(const char *type, struct json event, const struct json_member *m, struct trouble *trouble)
{
    struct json_member in_response[] = {{.name = "output"}, {.name = "error"}};
    struct json_member in_item[] = {{.name = "content"}, {.name = "arguments"}, {.name = "input"}, {.name = "summary"}};

    if (ends_with(type, ".delta")) {
        return is_filled(event, &m[DELTA]) ? OUTPUT : 0;
    }
    if (strcmp(type, "response.output_item.added") == 0 || strcmp(type, "response.output_item.done") == 0) {
        return m[ITEM].kind == JSON_OBJECT && has_filled(part(event, &m[ITEM]), in_item, 4) ? OUTPUT : 0;
    }
    if (strcmp(type, "response.completed") == 0 || strcmp(type, "response.incomplete") == 0) {
        return FINISH | DONE |
               (m[RESPONSE].kind == JSON_OBJECT && has_filled(part(event, &m[RESPONSE]), in_response, 1) ? OUTPUT : 0);
    }
    if (strcmp(type, "response.failed") == 0) {
        if (m[RESPONSE].kind == JSON_OBJECT && find(part(event, &m[RESPONSE]), in_response, 2)) {
            read_error(part(event, &m[RESPONSE]), &in_response[1], trouble);
        }
        return ERROR;
    }
    return is_filled(event, &m[IMAGE]) ? OUTPUT : 0;
}

static unsigned read_messages(const char *type, struct json event, const struct json_member *m)
{
    struct json_member in_delta[] = {{.name = "text"}, {.name = "partial_json"}, {.name = "thinking"}};
    struct json_member in_block[] = {{.name = "text"}, {.name = "thinking"}, {.name = "type"}};
    struct json_member stop = {.name = "stop_reason"};
    char kind[WORD_SIZE];

    if (strcmp(type, "message_stop") == 0) {
        return DONE;
    }
    if (strcmp(type, "content_block_delta") == 0) {
        return m[DELTA].kind == JSON_OBJECT && has_filled(part(event, &m[DELTA]), in_delta, 3) ? OUTPUT : 0;
    }
    if (strcmp(type, "message_delta") == 0) {
        return m[DELTA].kind == JSON_OBJECT && has_filled(part(event, &m[DELTA]), &stop, 1) ? FINISH : 0;
    }
    if (strcmp(type, "content_block_start") == 0 && m[BLOCK].kind == JSON_OBJECT) {
        struct json block = part(event, &m[BLOCK]);

        if (has_filled(block, in_block, 2)) {
            return OUTPUT;
        }
        /* any other block (a tool's use or result, redacted thinking) says something by being there */
        if (find(block, &in_block[2], 1) && in_block[2].kind == JSON_STRING) {
            read_word(block, &in_block[2], kind);
            return strcmp(kind, "text") != 0 && strcmp(kind, "thinking") != 0 ? OUTPUT : 0;
        }
    }
    return 0;
}

static unsigned read_event(const char *name, struct json event, struct trouble *trouble, struct choices *choices)
{
    struct json_member m[N_MEMBERS] = {
        [TYPE] = {.name = "type"},         [OBJECT] = {.name = "object"}, [ERROR_MEMBER] = {.name = "error"},
        [CHOICES] = {.name = "choices"},   [DELTA] = {.name = "delta"},   [BLOCK] = {.name = "content_block"},
        [RESPONSE] = {.name = "response"}, [ITEM] = {.name = "item"},     [IMAGE] = {.name = "partial_image_b64"},
    };
    bool named_error = strcmp(name, "error") == 0;
    char type[WORD_SIZE], object[WORD_SIZE];

    if (event.len == strlen("[DONE]") && memcmp(event.text, "[DONE]", event.len) == 0) {
        return DONE;
    }
    if (!find(event, m, N_MEMBERS)) {
        return named_error ? ERROR : 0;
    }
    if (m[ERROR_MEMBER].kind == JSON_OBJECT || is_filled(event, &m[ERROR_MEMBER])) {
        read_error(event, &m[ERROR_MEMBER], trouble);
        return ERROR;
    }
    read_word(event, &m[TYPE], type);
    read_word(event, &m[OBJECT], object);
    if (named_error || strcmp(type, "error") == 0 || strcmp(object, "error") == 0) {
        read_trouble(event, trouble);
        return ERROR;
    }
    if (m[CHOICES].kind == JSON_ARRAY) {
        choices->array = part(event, &m[CHOICES]);
        json_span_each(choices->array.text, choices->array.len, read_choice, choices);
        return choices->means;
    }
    if (m[TYPE].kind == JSON_STRING) {
        name = type;
    }
    if (strncmp(name, "response.", strlen("response.")) == 0) {
        return read_response(name, event, m, trouble);
    }
    return read_messages(name, event, m);
}

enum sse_meaning sse_meaning(const char *event, const char *data, size_t len, char code[48], int *status)
{
    struct trouble trouble = {0};
    struct choices choices = {0};
    unsigned means = read_event(event, (struct json){data, len}, &trouble, &choices);

    if (code) {
        memcpy(code, trouble.code, CODE_SIZE);
    }
    if (status) {
        *status = trouble.status;
    }
    return means & ERROR    ? SSE_ERROR
           : means & OUTPUT ? SSE_OUTPUT
           : means & DONE   ? SSE_DONE
           : means & FINISH ? SSE_FINISH
                            : SSE_NOTHING;
}

/* ---- the stream ------------------------------------------------------------------------------------------------- */

enum { IN_FIELD = 0, BEFORE_DATA, IN_DATA, BEFORE_EVENT, IN_EVENT, IN_OTHER };

enum { FIRST_SIZE = 512, BOM_SIZE = 3 };

void sse_init(struct sse *sse, size_t max_event)
{
    *sse = (struct sse){.max_event = max_event};
}

void sse_free(struct sse *sse)
{
    free(sse->data);
    sse_init(sse, sse->max_event);
}

/* Does a value other than null follow one of the members ..._reason? Chunks carry them as null until the last. */
static bool has_reason(const char *data, size_t len)
{
    static const char word[] = "_reason\"";
    const char *p = data, *end = data + len;

    while ((p = memmem(p, (size_t)(end - p), word, sizeof(word) - 1))) {
        p += sizeof(word) - 1;
        while (p < end && strchr(" \t\r\n:", *p)) {
            p++;
        }
        if (end - p < 4 || memcmp(p, "null", 4) != 0) {
            return true;
        }
    }
    return false;
}

static bool has_word(const char *data, size_t len, const char *word)
{
    return memmem(data, len, word, strlen(word)) != NULL;
}

/* Does it belong to a choice that is not the first, as far as can be seen without reading it? */
static bool has_other_choice(const char *data, size_t len)
{
    static const char word[] = "\"index\"";
    const char *p = data, *end = data + len;

    while ((p = memmem(p, (size_t)(end - p), word, sizeof(word) - 1))) {
        p += sizeof(word) - 1;
        while (p < end && strchr(" \t\r\n:", *p)) {
            p++;
        }
        if (p < end && *p >= '1' && *p <= '9') {
            return true;
        }
    }
    return false;
}

/* Once there was output only an error or the end is news, so most events need not be read: none without these words.
 * An ASCII letter can hide only behind \u00. */
static bool may_be_news(const struct sse *sse)
{
    static const char *const ends[] = {"error", "message_stop", "response.completed", "response.incomplete",
                                       "response.failed"};
    bool responses = has_word(sse->data, sse->len, "response.");

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (strcmp(sse->event, ends[i]) == 0 || ((i < 2 || responses) && has_word(sse->data, sse->len, ends[i]))) {
            return true;
        }
    }
    if (sse->choices && (!(sse->choices & 1) || has_other_choice(sse->data, sse->len))) {
        return true;
    }
    return strcmp(sse->event, "message_delta") == 0 || has_reason(sse->data, sse->len) ||
           has_word(sse->data, sse->len, "\\u00") || (sse->len == 6 && memcmp(sse->data, "[DONE]", 6) == 0);
}

static void note(struct sse *sse, unsigned means, const struct trouble *trouble)
{
    if (means & ERROR) {
        if (!sse->error) {
            sse->error = true;
            memcpy(sse->code, trouble->code, CODE_SIZE);
            sse->status = trouble->status;
        }
        return;
    }
    if (means & OUTPUT && !sse->error) {
        sse->output = true;
    }
    sse->finished = sse->finished || means & FINISH;
    sse->done = sse->done || means & DONE;
}

/* The model is done when each choice is that has begun. */
static void note_choices(struct sse *sse, const struct choices *choices)
{
    sse->choices |= choices->seen;
    sse->ended |= choices->ended;
    if (choices->seen) {
        sse->finished = (sse->choices & ~sse->ended) == 0;
    }
}

static bool is_named(const struct sse *sse, const char *a, const char *b)
{
    return strcmp(sse->event, a) == 0 || strcmp(sse->event, b) == 0;
}

static void end_event(struct sse *sse)
{
    /* the last event of a response repeats all of it, and may well be too large: its name says enough */
    if (sse->overflow && is_named(sse, "response.completed", "response.incomplete")) {
        note(sse, FINISH | DONE, &(struct trouble){0});
    }
    if (sse->has_data && !sse->overflow && (sse->len > 0 || sse->event[0] != '\0')) {
        struct trouble trouble = {0};
        struct choices choices = {0};

        if (!sse->data) {
            note(sse, strcmp(sse->event, "error") == 0 ? ERROR : 0, &trouble);
        } else if (!sse->output || may_be_news(sse)) {
            note(sse, read_event(sse->event, (struct json){sse->data, sse->len}, &trouble, &choices), &trouble);
            note_choices(sse, &choices);
        }
    }
    sse->has_data = sse->overflow = false;
    sse->len = 0;
    sse->event[0] = '\0';
}

/* Keeps data bytes. *taken is how many fitted, or one more when the event became too large by the next one. */
static int keep(struct sse *sse, const char *bytes, size_t n, size_t *taken)
{
    *taken = n;
    if (sse->overflow || n == 0) {
        return DEPUTY_OK;
    }
    if (n > sse->max_event - sse->len) {
        struct trouble trouble = {0};

        *taken = sse->max_event - sse->len + 1;
        sse->overflow = true;
        free(sse->data); /* the rest of the event may be long in coming */
        sse->data = NULL;
        sse->len = sse->size = 0;
        note(sse, is_named(sse, "error", "response.failed") ? ERROR : OUTPUT, &trouble);
        return DEPUTY_OK;
    }
    if (n > sse->size - sse->len) {
        size_t size = sse->size <= sse->max_event / 2 ? sse->size * 2 : sse->max_event;
        char *data;

        if (size < FIRST_SIZE && FIRST_SIZE <= sse->max_event) {
            size = FIRST_SIZE;
        }
        if (size < sse->len + n) {
            size = sse->len + n;
        }
        data = realloc(sse->data, size);
        if (!data) {
            return DEPUTY_ENOMEM;
        }
        sse->data = data;
        sse->size = size;
    }
    memcpy(sse->data + sse->len, bytes, n);
    sse->len += n;
    return DEPUTY_OK;
}

/* The field's name is complete. */
static int begin_value(struct sse *sse)
{
    size_t taken;

    sse->state = IN_OTHER;
    if (sse->field_len == 5 && memcmp(sse->field, "event", 5) == 0) {
        sse->state = BEFORE_EVENT;
        sse->event[0] = '\0';
        sse->field_len = 0;
    } else if (sse->field_len == 4 && memcmp(sse->field, "data", 4) == 0) {
        sse->state = BEFORE_DATA;
        if (sse->has_data) {
            return keep(sse, "\n", 1, &taken);
        }
        sse->has_data = true;
    }
    return DEPUTY_OK;
}

/* Reads bytes of one line, without its end. *at moves behind what was read. */
static int read_line(struct sse *sse, const char **at, const char *end)
{
    size_t n = (size_t)(end - *at);

    switch (sse->state) {
    case IN_FIELD:
        if (**at == ':') {
            ++*at;
            return begin_value(sse);
        }
        if (sse->field_len == sizeof(sse->field)) {
            sse->state = IN_OTHER;
            return DEPUTY_OK;
        }
        sse->field[sse->field_len++] = *(*at)++;
        return DEPUTY_OK;
    case BEFORE_DATA:
    case BEFORE_EVENT:
        *at += **at == ' ';
        sse->state++;
        return DEPUTY_OK;
    case IN_DATA: {
        int code = keep(sse, *at, n, &n);

        *at += n;
        return code;
    }
    case IN_EVENT:
        /* here field_len counts the bytes of the event's name */
        for (; *at < end; ++*at) {
            if (sse->field_len + 1U < sizeof(sse->event)) {
                sse->event[sse->field_len++] = **at ? **at : '?';
                sse->event[sse->field_len] = '\0';
            }
        }
        return DEPUTY_OK;
    default:
        *at = end;
        return DEPUTY_OK;
    }
}

static int end_line(struct sse *sse)
{
    int code = DEPUTY_OK;

    if (sse->state == IN_FIELD) {
        if (sse->field_len == 0) {
            end_event(sse);
        } else {
            code = begin_value(sse);
        }
    }
    sse->state = IN_FIELD;
    sse->field_len = 0;
    return code;
}

/* Skips what a byte order mark at the very beginning has at *at. What only begins like one is part of a line. */
static void read_bom(struct sse *sse, const char **at, const char *end)
{
    static const char bom[BOM_SIZE] = "\xEF\xBB\xBF";

    while (sse->bom < BOM_SIZE && *at < end) {
        if (**at != bom[sse->bom]) {
            sse->state = sse->bom > 0 ? IN_OTHER : IN_FIELD;
            sse->bom = BOM_SIZE;
            return;
        }
        sse->bom++;
        ++*at;
    }
}

static const char *find_byte(const char *at, const char *end, char byte)
{
    const char *found = at < end ? memchr(at, byte, (size_t)(end - at)) : NULL;

    return found ? found : end;
}

int sse_feed(struct sse *sse, const char *bytes, size_t len, size_t *output_at)
{
    const char *at = bytes, *end = bytes + len;
    const char *lf, *cr;
    bool before = sse->output;
    int code = DEPUTY_OK;

    read_bom(sse, &at, end);
    lf = find_byte(at, end, '\n');
    cr = find_byte(at, end, '\r');
    while (at < end && code == DEPUTY_OK) {
        const char *stop;

        if (sse->cr) {
            sse->cr = false;
            if (*at == '\n') {
                at++;
                continue;
            }
        }
        /* each is looked for again only once it was passed: a memchr per line would be quadratic in CRs alone */
        lf = lf < at ? find_byte(at, end, '\n') : lf;
        cr = cr < at ? find_byte(at, end, '\r') : cr;
        stop = lf < cr ? lf : cr;
        if (at < stop) {
            code = read_line(sse, &at, stop);
        } else {
            sse->cr = *at == '\r';
            at++;
            code = end_line(sse);
        }
        if (sse->output && !before) {
            before = true;
            if (output_at) {
                *output_at = (size_t)(at - bytes);
            }
        }
    }
    return code;
}
