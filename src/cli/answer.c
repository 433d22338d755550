#include "answer.h"

#include "json_in.h"

#include <string.h>

enum { MAX_EVENT = 16 << 20 };

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* content is a string, or an array of parts that have one each; a refusal stands in its place. */
static bool is_words(const char *path, const char *message)
{
    size_t n = strlen(message);
    if (!has_prefix(path, message) || path[n] != '.')
        return false;
    path += n + 1;
    if (strcmp(path, "content") == 0 || strcmp(path, "refusal") == 0)
        return true;
    const char *close = has_prefix(path, "content[") ? strchr(path, ']') : NULL;
    return close && strcmp(close, "].text") == 0;
}

static void on_string(void *user, const char *path, const char *text, size_t len)
{
    struct answer *answer = user;
    if (len == 0 || (!is_words(path, "choices[0].message") && !is_words(path, "choices[0].delta")))
        return;
    answer->any = true;
    answer->on_text(answer->user, text, len);
}

bool answer_read(struct answer *answer, const char *json, size_t len)
{
    return json_each_string(json, len, on_string, answer);
}

/* An empty line ends an event; what follows "data:" in its lines is its text. */
static bool end_line(struct answer *answer)
{
    const char *line = answer->line.bytes;
    size_t len = answer->line.len;
    bool ok = true;
    if (len == 0) {
        if (answer->data.len > 0)
            answer_read(answer, answer->data.bytes, answer->data.len); /* "[DONE]" and the like are no JSON */
        answer->data.len = 0;
    } else if (has_prefix(line, "data:")) {
        size_t skip = line[5] == ' ' ? 6 : 5;
        ok = text_add(&answer->data, line + skip, len - skip, MAX_EVENT) && text_add(&answer->data, "\n", 1, MAX_EVENT);
    }
    answer->line.len = 0;
    return ok;
}

bool answer_feed(struct answer *answer, const char *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t n = 0;
        if (answer->after_cr && bytes[at] == '\n')
            at++;
        answer->after_cr = false;
        while (at + n < len && bytes[at + n] != '\r' && bytes[at + n] != '\n')
            n++;
        if (!text_add(&answer->line, bytes + at, n, MAX_EVENT))
            return false;
        at += n;
        if (at == len)
            break;
        answer->after_cr = bytes[at++] == '\r';
        if (!end_line(answer))
            return false;
    }
    return true;
}

void answer_free(struct answer *answer)
{
    text_free(&answer->line);
    text_free(&answer->data);
}
