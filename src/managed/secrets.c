#include "managed/secrets.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

extern char **environ;

enum { PART_MIN = 4 }; /* what is shorter is found in many a word */

static bool is_secret(const char *entry)
{
    static const char *const words[] = {"KEY", "TOKEN", "SECRET", "PASS"};
    char name[128];
    size_t len = strcspn(entry, "=");
    if (len >= sizeof(name) || entry[len] != '=' || strlen(entry + len + 1) < SECRETS_MIN)
        return false;
    memcpy(name, entry, len);
    name[len] = '\0';
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasestr(name, words[i]))
            return true;
    return false;
}

static size_t count(char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    return n;
}

static bool collect(char *const *environment, char **to, size_t *n)
{
    for (size_t i = 0; environment && environment[i]; i++) {
        if (!is_secret(environment[i]))
            continue;
        to[*n] = strdup(strchr(environment[i], '=') + 1);
        if (!to[*n])
            return false;
        ++*n;
    }
    return true;
}

/* The longest first: a part of it may be another one. */
static int by_length(const void *a, const void *b)
{
    size_t x = strlen(*(char *const *)a), y = strlen(*(char *const *)b);
    return (x < y) - (x > y);
}

char **secrets_collect(const struct settings *s)
{
    size_t n = 0;
    char **list = calloc(count(s->env) + count(environ) + 2, sizeof(*list));
    if (!list)
        return NULL;
    bool ok = collect(s->env, list, &n) && collect(environ, list, &n);
    if (ok && s->api_key && strlen(s->api_key) >= SECRETS_MIN)
        ok = (list[n] = strdup(s->api_key)) != NULL;
    while (list[n])
        n++;
    qsort(list, n, sizeof(*list), by_length);
    if (ok)
        return list;
    strings_free(list);
    return NULL;
}

static void hide_parts(const char *secret, char *text, size_t len, bool is_cut)
{
    size_t size = strlen(secret), longest = len < size - 1 ? len : size - 1;
    for (size_t n = longest; is_cut && n >= PART_MIN; n--)
        if (memcmp(text, secret + size - n, n) == 0) {
            memset(text, '*', n);
            break;
        }
    for (size_t n = longest; n >= PART_MIN; n--)
        if (memcmp(text + len - n, secret, n) == 0) {
            memset(text + len - n, '*', n);
            break;
        }
}

void secrets_hide_parts(char *const *secrets, char *text, size_t len, bool is_cut)
{
    for (size_t i = 0; secrets && secrets[i]; i++)
        hide_parts(secrets[i], text, len, is_cut);
}

static size_t hide(const char *secret, char *text, size_t len)
{
    size_t size = strlen(secret), done = 0, at = 0;
    for (const char *found; (found = memmem(text + at, len - at, secret, size)) != NULL;) {
        size_t before = (size_t)(found - text) - at;
        memmove(text + done, text + at, before);
        memset(text + done + before, '*', 3);
        done += before + 3;
        at += before + size;
    }
    memmove(text + done, text + at, len - at);
    return done + len - at;
}

size_t secrets_hide(char *const *secrets, char *text, size_t len)
{
    for (size_t i = 0; secrets && secrets[i]; i++)
        len = hide(secrets[i], text, len);
    return len;
}
