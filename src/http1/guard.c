#include "http1/guard.h"

enum { TOKEN = 1, TARGET = 2, VALUE = 4, HOST = 8, HEX = 16 };

/* One load tells what a byte may be: this runs over each byte of each head. */
static const uint8_t kinds[256] = {
    /* clang-format off */
     0,  0,  0,  0,  0,  0,  0,  0,  0,  4,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
     0,  0,  0,  0,  0,  0,  0,  0,  4, 15,  6,  5, 15, 15, 15, 15, 14, 14, 15, 15, 14, 15, 15,  6,
    31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 14, 14,  6, 14,  6,  6,  6, 31, 31, 31, 31, 31, 31, 15,
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 14,  6, 14,  7, 15,
     7, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15,
    15, 15, 15,  6,  7,  6, 15,  0,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
     4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
     4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
     4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
     4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
     4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,
    /* clang-format on */
};

enum { MAX_METHOD = 24, MAX_SIZE_DIGITS = 16, MAX_SIZE_LINE = 256 };

static bool is(char byte, unsigned kind)
{
    return (kinds[(unsigned char)byte] & kind) != 0;
}

static const char *skip(const char *p, const char *end, unsigned kind)
{
    while (p < end && is(*p, kind)) {
        p++;
    }
    return p;
}

/* ---- the head --------------------------------------------------------------------------------------------------- */

enum head_state {
    BEFORE,
    BEFORE_LF,
    IN_METHOD,
    TARGET_START,
    IN_TARGET,
    IN_VERSION,
    REQUEST_LF,
    LINE_START,
    IN_NAME,
    IN_VALUE,
    VALUE_LF,
    END_LF,
};

void head_guard_init(struct head_guard *guard)
{
    *guard = (struct head_guard){.state = BEFORE};
}

static enum refusal wrong(char byte, enum refusal otherwise)
{
    return byte == '\n' || byte == '\r' ? REFUSAL_LINE_END : otherwise;
}

static enum refusal version_byte(struct head_guard *guard, char byte)
{
    static const char form[] = "HTTP/1.1";
    bool digit = byte >= '0' && byte <= '9';

    if (guard->n == sizeof(form) - 1) {
        if (byte != '\r') {
            return wrong(byte, REFUSAL_REQUEST_LINE);
        }
        guard->state = REQUEST_LF;
        return guard->version[0] == '1' && (guard->version[1] == '0' || guard->version[1] == '1') ? REFUSAL_NONE
                                                                                                  : REFUSAL_VERSION;
    }
    if (form[guard->n] == '1' ? !digit : byte != form[guard->n]) {
        return wrong(byte, REFUSAL_REQUEST_LINE);
    }
    if (digit) {
        guard->version[guard->n == sizeof(form) - 2] = byte;
    }
    guard->n++;
    return REFUSAL_NONE;
}

/* One byte that ends something, or is wrong. */
static enum refusal head_byte(struct head_guard *guard, unsigned max_headers, char byte)
{
    switch ((enum head_state)guard->state) {
    case BEFORE:
        /* one empty line, which old clients send behind a body */
        if (byte == '\r' && guard->n == 0) {
            guard->n = 1;
            guard->state = BEFORE_LF;
            return REFUSAL_NONE;
        }
        if (!is(byte, TOKEN)) {
            return wrong(byte, REFUSAL_REQUEST_LINE);
        }
        guard->n = 1;
        guard->state = IN_METHOD;
        return REFUSAL_NONE;
    case BEFORE_LF:
        guard->state = BEFORE;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_LINE_END;
    case IN_METHOD:
        if (is(byte, TOKEN)) {
            return ++guard->n > MAX_METHOD ? REFUSAL_METHOD : REFUSAL_NONE;
        }
        guard->state = TARGET_START;
        return byte == ' ' ? REFUSAL_NONE : wrong(byte, REFUSAL_REQUEST_LINE);
    case TARGET_START:
        guard->state = IN_TARGET;
        return is(byte, TARGET) ? REFUSAL_NONE : wrong(byte, REFUSAL_REQUEST_LINE);
    case IN_TARGET:
        guard->n = 0;
        guard->state = IN_VERSION;
        return byte == ' ' ? REFUSAL_NONE : wrong(byte, REFUSAL_REQUEST_LINE);
    case IN_VERSION:
        return version_byte(guard, byte);
    case REQUEST_LF:
    case VALUE_LF:
        guard->state = LINE_START;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_LINE_END;
    case LINE_START:
        if (byte == '\r') {
            guard->state = END_LF;
            return REFUSAL_NONE;
        }
        if (byte == ' ' || byte == '\t') {
            return REFUSAL_FOLDED;
        }
        if (!is(byte, TOKEN)) {
            return wrong(byte, REFUSAL_NAME);
        }
        guard->state = IN_NAME;
        return ++guard->headers > max_headers ? REFUSAL_HEADER_COUNT : REFUSAL_NONE;
    case IN_NAME:
        guard->state = IN_VALUE;
        return byte == ':' ? REFUSAL_NONE : wrong(byte, REFUSAL_NAME);
    case IN_VALUE:
        guard->state = VALUE_LF;
        return byte == '\r' ? REFUSAL_NONE : wrong(byte, REFUSAL_VALUE);
    case END_LF:
        guard->done = true;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_LINE_END;
    }
    return REFUSAL_HEAD;
}

enum refusal head_guard_feed(struct head_guard *guard, unsigned max_headers, const char *bytes, size_t len,
                             size_t *used)
{
    const char *p = bytes, *end = bytes + len;
    enum refusal refusal = REFUSAL_NONE;

    while (p < end && !guard->done && refusal == REFUSAL_NONE) {
        if (guard->state == IN_VALUE) {
            p = skip(p, end, VALUE);
        } else if (guard->state == IN_NAME) {
            p = skip(p, end, TOKEN);
        } else if (guard->state == IN_TARGET) {
            p = skip(p, end, TARGET);
        }
        if (p < end) {
            refusal = head_byte(guard, max_headers, *p++);
        }
    }
    *used = (size_t)(p - bytes);
    return refusal;
}

/* ---- a chunked body ---------------------------------------------------------------------------------------------- */

enum chunk_state {
    SIZE_START,
    IN_SIZE,
    IN_EXTENSION,
    SIZE_LF,
    IN_DATA,
    DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    COMPLETE,
};

void chunk_guard_init(struct chunk_guard *guard)
{
    *guard = (struct chunk_guard){.state = SIZE_START};
}

static enum refusal size_byte(struct chunk_guard *guard, char byte)
{
    if (++guard->line > MAX_SIZE_LINE) {
        return REFUSAL_CHUNK;
    }
    if (guard->state == IN_EXTENSION) {
        if (byte == '\r') {
            guard->state = SIZE_LF;
            return REFUSAL_NONE;
        }
        return is(byte, VALUE) ? REFUSAL_NONE : REFUSAL_CHUNK;
    }
    if (is(byte, HEX) && guard->line <= MAX_SIZE_DIGITS) {
        guard->last = guard->last && byte == '0';
        guard->state = IN_SIZE;
        return REFUSAL_NONE;
    }
    if (guard->state == SIZE_START || (byte != ';' && byte != '\r')) {
        return REFUSAL_CHUNK;
    }
    guard->state = byte == ';' ? IN_EXTENSION : SIZE_LF;
    return REFUSAL_NONE;
}

static enum refusal trailer_byte(struct chunk_guard *guard, char byte)
{
    switch (guard->state) {
    case TRAILER_START:
        guard->state = byte == '\r' ? LAST_LF : TRAILER_NAME;
        return byte == '\r' || is(byte, TOKEN) ? REFUSAL_NONE : REFUSAL_CHUNK;
    case TRAILER_NAME:
        guard->state = byte == ':' ? TRAILER_VALUE : TRAILER_NAME;
        return byte == ':' || is(byte, TOKEN) ? REFUSAL_NONE : REFUSAL_CHUNK;
    case TRAILER_VALUE:
        guard->state = byte == '\r' ? TRAILER_LF : TRAILER_VALUE;
        return byte == '\r' || is(byte, VALUE) ? REFUSAL_NONE : REFUSAL_CHUNK;
    case TRAILER_LF:
        guard->state = TRAILER_START;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_CHUNK;
    case LAST_LF:
        guard->state = COMPLETE;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_CHUNK;
    default:
        return REFUSAL_CHUNK;
    }
}

static enum refusal framing_byte(struct chunk_guard *guard, size_t max_trailer, char byte)
{
    switch (guard->state) {
    case SIZE_START:
        if (guard->line == 0) {
            guard->last = true;
        }
        return size_byte(guard, byte);
    case IN_SIZE:
    case IN_EXTENSION:
        return size_byte(guard, byte);
    case SIZE_LF:
        guard->state = guard->last ? TRAILER_START : IN_DATA;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_CHUNK;
    case IN_DATA:
        guard->state = DATA_LF;
        return byte == '\r' ? REFUSAL_NONE : REFUSAL_CHUNK;
    case DATA_LF:
        guard->state = SIZE_START;
        guard->line = 0;
        return byte == '\n' ? REFUSAL_NONE : REFUSAL_CHUNK;
    default:
        if (++guard->trailer > max_trailer) {
            return REFUSAL_TRAILERS;
        }
        return trailer_byte(guard, byte);
    }
}

enum refusal chunk_guard_framing(struct chunk_guard *guard, size_t max_trailer, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        enum refusal refusal = framing_byte(guard, max_trailer, bytes[i]);

        if (refusal != REFUSAL_NONE) {
            return refusal;
        }
    }
    return REFUSAL_NONE;
}

enum refusal chunk_guard_data(const struct chunk_guard *guard)
{
    return guard->state == IN_DATA ? REFUSAL_NONE : REFUSAL_CHUNK;
}

bool chunk_guard_done(const struct chunk_guard *guard)
{
    return guard->state == COMPLETE;
}

/* ---- texts --------------------------------------------------------------------------------------------------------
 */

static bool all(const char *text, unsigned kind)
{
    while (*text && is(*text, kind)) {
        text++;
    }
    return !*text;
}

bool is_token(const char *text)
{
    return *text && all(text, TOKEN);
}

bool is_field_value(const char *text)
{
    return all(text, VALUE);
}

bool is_host(const char *text, size_t len)
{
    return skip(text, text + len, HOST) == text + len;
}
