#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static size_t utf8_length(unsigned char lead)
{
    return lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
}

/* Where text of len bytes has to end so that no character is left in halves. */
static size_t whole_characters(const char *text, size_t len)
{
    size_t start = len;

    while (start > 0 && len - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0) {
        return len;
    }
    start--;
    return start + utf8_length((unsigned char)text[start]) > len ? start : len;
}

/* Copies to out (size bytes) what fits of text (len bytes, of which more may have been cut off before). */
static void copy_clean(char *out, size_t size, const char *text, size_t len, bool cut)
{
    if (len >= size) {
        len = size - 1;
        cut = true;
    }
    if (cut) {
        len = whole_characters(text, len);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < 0x20 || c == 0x7F ? ' ' : text[i];
    }
    out[len] = '\0';
}

static void format_clean(char *out, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
static void format_clean(char *out, size_t size, const char *format, va_list args)
{
    /* not straight into out: an argument may be the message that stands there now */
    char text[sizeof(((deputy_error *)0)->message)];
    int len = vsnprintf(text, sizeof(text), format, args);

    if (len < 0) {
        len = 0;
    }
    if ((size_t)len >= sizeof(text)) {
        copy_clean(out, size, text, sizeof(text) - 1, true);
    } else {
        copy_clean(out, size, text, (size_t)len, false);
    }
}

int error_set(deputy_error *error, int code, const char *format, ...)
{
    if (error) {
        va_list args;

        va_start(args, format);
        format_clean(error->message, sizeof(error->message), format, args);
        va_end(args);
        error->code = code;
    }
    return code;
}

void failure_set(deputy_failure *failure, deputy_failure_kind kind, int status, const char *code, const char *format,
                 ...)
{
    char word[sizeof(failure->code)] = ""; /* all of it: the whole field is copied */
    va_list args;

    if (!failure) {
        return;
    }
    if (!code) {
        code = "";
    }
    copy_clean(word, sizeof(word), code, strlen(code), false);
    va_start(args, format);
    format_clean(failure->message, sizeof(failure->message), format, args);
    va_end(args);
    memcpy(failure->code, word, sizeof(word));
    failure->kind = kind;
    failure->status = status;
    failure->retry_after_ms = -1;
}
