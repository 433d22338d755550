#include "managed/settings.h"

#include "base/error.h"
#include "net/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

/* ---- lists of strings -------------------------------------------------------------------------------------------- */

static size_t length(const char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    return n;
}

void strings_free(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static char **copy_strings(const char *const *list)
{
    size_t n = length(list);
    char **copy = calloc(n + 1, sizeof(*copy));
    for (size_t i = 0; copy && i < n; i++) {
        copy[i] = strdup(list[i]);
        if (!copy[i]) {
            strings_free(copy);
            return NULL;
        }
    }
    return copy;
}

static bool equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool equal_lists(char *const *a, char *const *b)
{
    size_t i = 0;
    if (!a || !b)
        return a == b;
    while (a[i] && b[i] && strcmp(a[i], b[i]) == 0)
        i++;
    return !a[i] && !b[i];
}

/* ---- filling in -------------------------------------------------------------------------------------------------- */

/* What stands for the place that text begins with, and how long that is; NULL: it begins with none. */
static const char *value_of(const struct settings *s, const char *text, const char *port, size_t *len)
{
    if (port && strncmp(text, "{port}", 6) == 0) {
        *len = 6;
        return port;
    }
    if (s->model && strncmp(text, "{model}", 7) == 0) {
        *len = 7;
        return s->model;
    }
    return NULL;
}

static char *fill(const struct settings *s, const char *text, uint16_t port)
{
    char digits[8];
    size_t size = 1, len;
    const char *value, *at;
    snprintf(digits, sizeof(digits), "%u", (unsigned)port);
    const char *number = port ? digits : NULL;
    for (at = text; *at; at += len) {
        value = value_of(s, at, number, &len);
        size += value ? strlen(value) : (len = 1);
    }
    char *filled = malloc(size), *to = filled;
    if (!filled)
        return NULL;
    for (at = text; *at; at += len) {
        value = value_of(s, at, number, &len);
        if (value) {
            memcpy(to, value, strlen(value));
            to += strlen(value);
        } else {
            *to++ = *at;
            len = 1;
        }
    }
    *to = '\0';
    return filled;
}

static bool fill_all(const struct settings *s, uint16_t port, char *const *list, char **to)
{
    for (size_t i = 0; list && list[i]; i++) {
        to[i] = fill(s, list[i], port);
        if (!to[i])
            return false;
    }
    return true;
}

char **settings_command(const struct settings *s, uint16_t port)
{
    char **list = calloc(length((const char *const *)s->command) + 1, sizeof(*list));
    if (list && !fill_all(s, port, s->command, list)) {
        strings_free(list);
        return NULL;
    }
    return list;
}

static bool is_overruled(const char *entry, char *const *by)
{
    size_t name = strcspn(entry, "=") + 1;
    for (size_t i = 0; by && by[i]; i++)
        if (strncmp(by[i], entry, name) == 0)
            return true;
    return false;
}

/* Tokens of the central, and sockets and credentials that the host got from systemd, are the host's own. */
static bool is_of_the_host(const char *entry)
{
    static const char *const names[] = {"CREDENTIALS_DIRECTORY=", "LISTEN_FDNAMES=", "LISTEN_FDS=",   "LISTEN_PID=",
                                        "NOTIFY_SOCKET=",         "WATCHDOG_PID=",   "WATCHDOG_USEC="};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strncmp(entry, names[i], strlen(names[i])) == 0)
            return true;
    return strncmp(entry, "DEPUTY_", 7) == 0 && strncmp(entry, MARK_PREFIX, strlen(MARK_PREFIX)) != 0;
}

char **settings_environment(const struct settings *s, uint16_t port, const char *more)
{
    size_t n = 0, size = length((const char *const *)s->env) + length((const char *const *)environ) + 2;
    char **list = calloc(size, sizeof(*list));
    if (!list)
        return NULL;
    for (size_t i = 0; environ && environ[i]; i++) {
        if (n + 1 >= size || is_of_the_host(environ[i]) || is_overruled(environ[i], s->env))
            continue;
        if (!(list[n++] = strdup(environ[i]))) {
            strings_free(list);
            return NULL;
        }
    }
    bool ok = fill_all(s, port, s->env, list + n);
    n += length((const char *const *)(list + n));
    if (ok && more)
        ok = (list[n] = strdup(more)) != NULL;
    if (ok)
        return list;
    strings_free(list);
    return NULL;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static int check_list(const char *what, const char *const *list, deputy_error *error)
{
    size_t n = 0, bytes = 0;
    for (; list && list[n]; n++)
        bytes += strlen(list[n]);
    if (n > SETTINGS_ARGUMENTS_MAX || bytes > SETTINGS_ARGUMENT_BYTES)
        return error_set(error, DEPUTY_EINVAL, "%s: expected at most %d entries of %d bytes in all, got %zu of %zu",
                         what, SETTINGS_ARGUMENTS_MAX, SETTINGS_ARGUMENT_BYTES, n, bytes);
    return DEPUTY_OK;
}

static int check_command(const deputy_managed_options *o, deputy_error *error)
{
    if (!o->command || !o->command[0] || !o->command[0][0])
        return error_set(error, DEPUTY_EINVAL, "command: expected a program and its arguments, got nothing");
    for (size_t i = 0; !o->model && o->command[i]; i++)
        if (strstr(o->command[i], "{model}"))
            return error_set(error, DEPUTY_EINVAL, "command: {model} is to be filled in, but no model is named");
    return check_list("command", o->command, error);
}

static int check_env(const deputy_managed_options *o, deputy_error *error)
{
    for (size_t i = 0; o->env && o->env[i]; i++) {
        if (!strchr(o->env[i], '=') || o->env[i][0] == '=')
            return error_set(error, DEPUTY_EINVAL, "env: expected NAME=value, entry %zu is something else", i + 1);
        if (!o->model && strstr(o->env[i], "{model}"))
            return error_set(error, DEPUTY_EINVAL, "env: {model} is to be filled in, but no model is named");
    }
    return check_list("env", o->env, error);
}

static int check_path(const char *what, const char *path, deputy_error *error)
{
    if (path && (path[0] != '/' || strlen(path) > URL_ENDPOINT_MAX || strpbrk(path, "{} \r\n")))
        return error_set(error, DEPUTY_EINVAL, "%s: expected a path of at most %d bytes that begins with \"/\"", what,
                         URL_ENDPOINT_MAX);
    return DEPUTY_OK;
}

static int check(const deputy_managed_options *o, deputy_error *error)
{
    if (!o || o->size != sizeof(*o))
        return error_set(error, o ? DEPUTY_EABI : DEPUTY_EINVAL,
                         "deputy_managed_options: expected a size of %zu, got %zu: use DEPUTY_INIT and build against "
                         "this engine's deputy/managed.h",
                         sizeof(*o), o ? o->size : 0);
    int code = url_name_check("provider name", o->name, error);
    if (code == DEPUTY_OK)
        code = check_command(o, error);
    if (code == DEPUTY_OK)
        code = check_env(o, error);
    if (code == DEPUTY_OK && o->api_key)
        code = url_token_check(o->api_key, error);
    if (code == DEPUTY_OK)
        code = check_path("base_path", o->base_path, error);
    if (code == DEPUTY_OK)
        code = check_path("health_path", o->health_path, error);
    if (code == DEPUTY_OK && o->model && (!o->model[0] || strlen(o->model) > 256))
        code = error_set(error, DEPUTY_EINVAL, "model: expected 1 to 256 bytes, got %zu", strlen(o->model));
    if (code == DEPUTY_OK && (unsigned)o->prewarm > DEPUTY_PREWARM_AT_START)
        code = error_set(error, DEPUTY_EINVAL, "prewarm: expected one of the three, got %d", (int)o->prewarm);
    return code;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static bool copy_string(char **to, const char *from, const char *fallback)
{
    const char *text = from ? from : fallback;
    *to = text ? strdup(text) : NULL;
    return *to || !text;
}

static bool copy_all(const deputy_managed_options *o, struct settings *s)
{
    bool ok = copy_string(&s->name, o->name, NULL) && copy_string(&s->cwd, o->cwd, NULL) &&
              copy_string(&s->model, o->model, NULL) && copy_string(&s->api_key, o->api_key, NULL) &&
              copy_string(&s->base_path, o->base_path, "/v1") &&
              copy_string(&s->health_path, o->health_path, "/health") &&
              copy_string(&s->supervisor, o->supervisor, NULL) && (s->command = copy_strings(o->command)) != NULL;
    return ok && (!o->env || (s->env = copy_strings(o->env)) != NULL);
}

int settings_new(const deputy_managed_options *o, struct settings *s, deputy_error *error)
{
    memset(s, 0, sizeof(*s));
    int code = check(o, error);
    if (code != DEPUTY_OK)
        return code;
    if (!copy_all(o, s)) {
        settings_free(s);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for '%s'", o->name);
    }
    s->port = o->port;
    s->ready_ms = or_default(o->ready_ms, 600000);
    s->idle_ms = or_default(o->idle_ms, 900000);
    s->stop_grace_ms = or_default(o->stop_grace_ms, 10000);
    s->restarts = or_default(o->restarts, 3);
    s->backoff_ms = or_default(o->backoff_ms, 1000);
    s->max_concurrent = or_default(o->max_concurrent, 16);
    s->max_queued = or_default(o->max_queued, 1024);
    s->health_ms = or_default(o->health_ms, 10000);
    s->retry_ms = or_default(o->retry_ms, 300000);
    s->any_listener = o->any_listener;
    s->prewarm = o->prewarm;
    if (!s->supervisor && !(s->supervisor = settings_find_supervisor())) {
        settings_free(s);
        return error_set(error, DEPUTY_EINVAL,
                         "deputy-supervisor is neither beside the program, nor beside the library, nor where it was "
                         "installed: install it, or name it as `supervisor`");
    }
    return DEPUTY_OK;
}

void settings_free(struct settings *s)
{
    free(s->name);
    free(s->cwd);
    free(s->model);
    free(s->api_key);
    free(s->base_path);
    free(s->health_path);
    free(s->supervisor);
    strings_free(s->command);
    strings_free(s->env);
    memset(s, 0, sizeof(*s));
}

bool settings_equal(const struct settings *a, const struct settings *b)
{
    return equal(a->name, b->name) && equal(a->cwd, b->cwd) && equal(a->model, b->model) &&
           equal(a->api_key, b->api_key) && equal(a->base_path, b->base_path) &&
           equal(a->health_path, b->health_path) && equal(a->supervisor, b->supervisor) &&
           equal_lists(a->command, b->command) && equal_lists(a->env, b->env) && a->port == b->port &&
           a->ready_ms == b->ready_ms && a->idle_ms == b->idle_ms && a->stop_grace_ms == b->stop_grace_ms &&
           a->restarts == b->restarts && a->backoff_ms == b->backoff_ms && a->max_concurrent == b->max_concurrent &&
           a->max_queued == b->max_queued && a->health_ms == b->health_ms && a->retry_ms == b->retry_ms &&
           a->any_listener == b->any_listener && a->prewarm == b->prewarm;
}
