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

size_t text_control(const char *text, size_t len)
{
    unsigned char first = len > 0 ? (unsigned char)text[0] : ' ';
    if (first == 0xc2 && len > 1 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0)
        return 2;
    return first < 0x20 || first == 0x7f ? 1 : 0;
}

void text_print(FILE *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        size_t n = text_control(text + i, len - i);
        fputc(n > 0 ? ' ' : text[i], out);
        i += n > 1;
    }
}
