/* relay/draft.h - a text that grows while it is written, up to a bound. Once it fails it stays as it was: look at
 * `failed` at the end. */
#ifndef RELAY_DRAFT_H
#define RELAY_DRAFT_H

#include <stdbool.h>
#include <stddef.h>

struct draft {
    char *text; /* ended by NUL; NULL while empty */
    size_t len, size, max;
    bool failed;
    bool for_html; /* "<" is escaped in JSON strings, for what may come to stand in a page */
};

#define DRAFT(limit) ((struct draft){.max = (limit)})

void draft_add(struct draft *draft, const void *bytes, size_t len);
void draft_word(struct draft *draft, const char *word);
void draft_print(struct draft *draft, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As a JSON string (RFC 8259), quotes included; what is not UTF-8 becomes U+FFFD. NULL: null. */
void draft_json(struct draft *draft, const char *s);

/* Empties it and forgets a failure; the memory stays. */
void draft_clear(struct draft *draft);
void draft_free(struct draft *draft);

/* How many bytes the UTF-8 character at s takes (RFC 3629), or 0 when it is none. s ends with NUL. */
size_t utf8_length(const char *s);

#endif
