#include "net/head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool head_token_ok(const char *s, size_t len)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (!is_digit(c) && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c && strchr(marks, c)))
            return false;
    }
    return len > 0;
}

void head_trim(const char **s, size_t *len)
{
    while (*len > 0 && is_space(**s)) {
        (*s)++;
        (*len)--;
    }
    while (*len > 0 && is_space((*s)[*len - 1]))
        (*len)--;
}

static bool grow(struct head *head, size_t size)
{
    bool inside = head->bytes == head->first;
    char *grown = size == HEAD_FIRST ? head->first : realloc(inside ? NULL : head->bytes, size);
    if (!grown)
        return false;
    if (inside)
        memcpy(grown, head->first, head->len);
    head->bytes = grown;
    head->size = size;
    return true;
}

static bool keep(struct head *head, const char *s, size_t len)
{
    if (head->size - head->len < len + 1) {
        size_t size = head->size ? head->size : HEAD_FIRST;
        while (size - head->len < len + 1)
            size *= 2;
        if (!grow(head, size))
            return false;
    }
    memcpy(head->bytes + head->len, s, len);
    head->len += len;
    head->bytes[head->len++] = '\0';
    return true;
}

static bool read_status(struct head *head, const char *s, size_t len)
{
    if (len < 12 || memcmp(s, "HTTP/1.", 7) != 0 || !is_digit(s[7]) || s[8] != ' ' || (len > 12 && s[12] != ' '))
        return false;
    if (!is_digit(s[9]) || !is_digit(s[10]) || !is_digit(s[11]))
        return false;
    head->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
    return head->status >= 100 && head->status != 101; /* we never ask to switch protocols */
}

/* Where two lengths differ, or a coding comes that nobody asked for, libcurl guesses. */
static bool read_framing(struct head *head, const char *name, const char *value, size_t len)
{
    head->framing = true;
    if (strcasecmp(name, "Content-Length") == 0) {
        long long length = 0;
        if (len == 0 || len > 18)
            return false;
        for (size_t i = 0; i < len; i++) {
            if (!is_digit(value[i]))
                return false;
            length = length * 10 + (value[i] - '0');
        }
        if (head->content_length >= 0 && head->content_length != length)
            return false;
        head->content_length = length;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        if (head->chunked || len != 7 || strncasecmp(value, "chunked", 7) != 0)
            return false;
        head->chunked = true;
    } else {
        head->framing = false;
    }
    return true;
}

/* A line that continues the one before: obsolete (RFC 9112 section 5.2). libcurl reads framing without it. */
static enum head_line read_fold(struct head *head, const char *line, size_t len)
{
    if (head->n_fields == 0 || head->framing)
        return HEAD_MALFORMED;
    head_trim(&line, &len);
    head->bytes[head->len - 1] = ' ';
    return keep(head, line, len) ? HEAD_MORE : HEAD_NO_MEMORY;
}

static enum head_line read_field(struct head *head, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len);
    if (!colon)
        return HEAD_MALFORMED;
    const char *name = line, *value = colon + 1;
    size_t name_len = (size_t)(colon - line), value_len = len - name_len - 1;
    head_trim(&name, &name_len);
    head_trim(&value, &value_len);
    if (!head_token_ok(name, name_len))
        return HEAD_MALFORMED;
    if (++head->n_fields > HEAD_FIELDS_MAX)
        return HEAD_OVER;
    size_t at = head->len;
    if (!keep(head, name, name_len) || !keep(head, value, value_len))
        return HEAD_NO_MEMORY;
    return read_framing(head, head->bytes + at, value, value_len) ? HEAD_MORE : HEAD_MALFORMED;
}

enum head_line head_read(struct head *head, const char *line, size_t len)
{
    if (len > 0 && line[len - 1] == '\n')
        len--;
    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (memchr(line, '\0', len) || memchr(line, '\r', len))
        return HEAD_MALFORMED;
    if (!head->open) {
        head->open = true;
        head->chunked = false;
        head->content_length = -1;
        return read_status(head, line, len) ? HEAD_MORE : HEAD_MALFORMED;
    }
    if (len > 0)
        return is_space(*line) ? read_fold(head, line, len) : read_field(head, line, len);
    head->open = false;
    if (head->chunked && head->content_length >= 0) /* which of the two counts is what smuggling is made of */
        return HEAD_MALFORMED;
    if (head->status >= 200)
        return HEAD_DONE;
    head_free(head);
    return HEAD_MORE;
}

deputy_header *head_fields(const struct head *head, deputy_header few[HEAD_FEW])
{
    deputy_header *fields = head->n_fields <= HEAD_FEW ? few : calloc(head->n_fields, sizeof *fields);
    if (!fields)
        return NULL;
    const char *at = head->bytes;
    for (size_t i = 0; i < head->n_fields; i++) {
        fields[i].name = at;
        at += strlen(at) + 1;
        fields[i].value = at;
        at += strlen(at) + 1;
    }
    return fields;
}

void head_free(struct head *head)
{
    if (head->bytes != head->first)
        free(head->bytes);
    head->bytes = NULL;
    head->len = head->size = head->n_fields = 0;
}

bool head_unframed(const struct head *head)
{
    return !head->chunked && head->content_length < 0 && head->status != 204 && head->status != 304;
}
