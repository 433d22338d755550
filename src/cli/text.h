/* cli/text.h - bytes that grow, up to a bound, and text that others wrote. */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* All zero: empty. */
struct text {
    char *bytes; /* ends with a NUL that len does not count; NULL while nothing was added */
    size_t len, size;
};

/* Adds n bytes. False when the text would be longer than max, or without memory; then it is as it was. */
bool text_add(struct text *text, const void *bytes, size_t n, size_t max);
void text_free(struct text *text);

/* How many bytes the control character has with which the text begins: 1, or 2 for U+0080 to U+009F in UTF-8, which
 * terminals obey as well; 0 when it begins with none. */
size_t text_control(const char *text, size_t len);
/* For a terminal: spaces in place of control characters. */
void text_print(FILE *out, const char *text, size_t len);

#endif
