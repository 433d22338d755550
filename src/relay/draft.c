#include "relay/draft.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct draft *draft, size_t len)
{
    if (draft->failed || len > draft->max || draft->len > draft->max - len) {
        draft->failed = true;
        return false;
    }
    if (draft->size > draft->len + len)
        return true;
    size_t size = draft->size ? draft->size : 256;
    while (size <= draft->len + len)
        size *= 2;
    char *text = realloc(draft->text, size);
    if (!text) {
        draft->failed = true;
        return false;
    }
    draft->text = text;
    draft->size = size;
    return true;
}

void draft_add(struct draft *draft, const void *bytes, size_t len)
{
    if (!make_room(draft, len))
        return;
    if (len > 0)
        memcpy(draft->text + draft->len, bytes, len);
    draft->len += len;
    draft->text[draft->len] = '\0';
}

void draft_word(struct draft *draft, const char *word)
{
    draft_add(draft, word, strlen(word));
}

void draft_print(struct draft *draft, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(text))
        draft->failed = true;
    else
        draft_add(draft, text, (size_t)n);
}

size_t utf8_length(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : u[0] < 0xc2 ? 0 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : u[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xf0 && u[1] < 0x90);
    bool surrogate = u[0] == 0xed && u[1] > 0x9f;
    bool beyond = u[0] == 0xf4 && u[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : n;
}

/* NEL and the rest of C1, and the separators of lines and paragraphs: to some readers of a log a line ends there, and a
 * terminal obeys them. 0: an ordinary character. */
static unsigned line_or_control(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 2 && u[0] == 0xc2 && u[1] < 0xa0)
        return u[1];
    return n == 3 && u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9) ? 0x2000 | (u[2] & 0x3fU) : 0;
}

void draft_json(struct draft *draft, const char *s)
{
    if (!s) {
        draft_word(draft, "null");
        return;
    }
    draft_word(draft, "\"");
    while (*s) {
        size_t n = utf8_length(s);
        if (n == 0) {
            draft_word(draft, "\\ufffd");
            n = 1;
        } else if (*s == '"' || *s == '\\') {
            draft_print(draft, "\\%c", *s);
        } else if (n == 1 && ((unsigned char)*s < 0x20 || *s == 0x7f || (*s == '<' && draft->for_html))) {
            draft_print(draft, "\\u%04x", (unsigned)*s);
        } else if (line_or_control(s, n)) {
            draft_print(draft, "\\u%04x", line_or_control(s, n));
        } else {
            draft_add(draft, s, n);
        }
        s += n;
    }
    draft_word(draft, "\"");
}

void draft_clear(struct draft *draft)
{
    draft->len = 0;
    draft->failed = false;
    if (draft->text)
        draft->text[0] = '\0';
}

void draft_free(struct draft *draft)
{
    free(draft->text);
    *draft = DRAFT(draft->max);
}
