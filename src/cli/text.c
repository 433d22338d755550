#include "text.h"

#include <stdlib.h>
#include <string.h>

bool text_add(struct text *text, const void *bytes, size_t n, size_t max)
{
    if (n > max || text->len > max - n)
        return false;
    if (text->len + n + 1 > text->size) {
        size_t size = (text->len + n + 1) * 2;
        char *grown = realloc(text->bytes, size);
        if (!grown)
            return false;
        text->bytes = grown;
        text->size = size;
    }
    if (n > 0)
        memcpy(text->bytes + text->len, bytes, n);
    text->len += n;
    text->bytes[text->len] = '\0';
    return true;
}

void text_free(struct text *text)
{
    free(text->bytes);
    *text = (struct text){NULL, 0, 0};
}
