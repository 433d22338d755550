/* cli/text.h - bytes that grow, up to a bound. */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* All zero: empty. */
struct text {
    char *bytes; /* ends with a NUL that len does not count; NULL while nothing was added */
    size_t len, size;
};

/* Adds n bytes. False when the text would be longer than max, or without memory; then it is as it was. */
bool text_add(struct text *text, const void *bytes, size_t n, size_t max);
void text_free(struct text *text);

#endif
