/* The public functions: what any thread may call. */
#include "base/error.h"
#include "managed/family.h"
#include "managed/owner.h"
#include "managed/secrets.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *deputy_managed_state_name(deputy_managed_state state)
{
    static const char *const names[] = {
#define X(name, word) word,
        DEPUTY_MANAGED_STATES(X)
#undef X
    };
    return (unsigned)state < sizeof(names) / sizeof(names[0]) ? names[state] : "no such state";
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

int deputy_managed_new(const deputy_managed_options *options, deputy_managed **managed, deputy_error *error)
{
    struct settings settings;
    *managed = NULL;
    int code = settings_new(options, &settings, error);
    if (code != DEPUTY_OK)
        return code;
    struct deputy_managed *m = calloc(1, sizeof(*m));
    if (!m) {
        settings_free(&settings);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for '%s'", options->name);
    }
    atomic_init(&m->refs, 1);
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->log_lock, NULL);
    m->settings = settings;
    m->on_log = options->on_log;
    m->log_user = options->log_user;
    m->secrets = secrets_collect(&m->settings);
    code = m->secrets ? owner_adopt(m) : DEPUTY_ENOMEM;
    if (code != DEPUTY_OK) {
        managed_free(m);
        return error_set(error, code, "'%s' cannot be managed: %s", options->name, deputy_strerror(code));
    }
    *managed = m;
    return DEPUTY_OK;
}

void managed_free(struct deputy_managed *m)
{
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->log_lock);
    strings_free(m->secrets);
    settings_free(&m->settings);
    free(m);
}

deputy_managed *deputy_managed_ref(deputy_managed *m)
{
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void deputy_managed_unref(deputy_managed *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    bool inside = m->logging && pthread_equal(m->logger, pthread_self());
    if (!inside)
        pthread_mutex_lock(&m->log_lock);
    m->silent = true;
    if (!inside)
        pthread_mutex_unlock(&m->log_lock);
    /* Woken under the lock: as soon as it is free, the owner may free m, and itself. */
    pthread_mutex_lock(&m->lock);
    m->closing = true;
    owner_wake(m->owner);
    pthread_mutex_unlock(&m->lock);
}

bool deputy_managed_same(const deputy_managed *m, const deputy_managed_options *options)
{
    struct settings other;
    if (settings_new(options, &other, NULL) != DEPUTY_OK)
        return false;
    bool same = settings_equal(&m->settings, &other);
    settings_free(&other);
    return same;
}

bool managed_has_given_up(const struct deputy_managed *m)
{
    uint32_t ms = m->settings.retry_ms;
    return m->state == DEPUTY_MANAGED_FAILED &&
           (ms == UINT32_MAX || loop_now_us() - m->failed_us < (uint64_t)ms * 1000);
}

/* ---- orders ------------------------------------------------------------------------------------------------------ */

void managed_order(struct deputy_managed *m, enum managed_order order)
{
    pthread_mutex_lock(&m->lock);
    if (order == ORDER_START)
        m->orders &= ~(unsigned)ORDER_STOP;
    if (order == ORDER_STOP)
        m->orders = 0;
    m->orders |= (unsigned)order;
    owner_wake(m->owner);
    pthread_mutex_unlock(&m->lock);
}

int deputy_managed_start(deputy_managed *m, deputy_error *error)
{
    (void)error;
    managed_order(m, ORDER_START);
    return DEPUTY_OK;
}

int deputy_managed_stop(deputy_managed *m, deputy_error *error)
{
    (void)error;
    managed_order(m, ORDER_STOP);
    return DEPUTY_OK;
}

int deputy_managed_restart(deputy_managed *m, deputy_error *error)
{
    (void)error;
    managed_order(m, ORDER_RESTART);
    return DEPUTY_OK;
}

/* ---- looking at it ----------------------------------------------------------------------------------------------- */

static uint64_t memory_of(pid_t supervisor)
{
    struct family all;
    uint64_t bytes = 0;
    if (supervisor <= 0 || !family_read(&all))
        return 0;
    family_mark(&all, supervisor);
    for (size_t i = 0; i < all.n; i++)
        if (all.list[i].in || all.list[i].pid == supervisor)
            bytes += all.list[i].rss_bytes;
    family_free(&all);
    return bytes;
}

/* The supervisor's number, or 0. */
static pid_t read_status(struct deputy_managed *m, deputy_managed_status *status)
{
    deputy_managed_status s = {.size = sizeof(s)};
    pthread_mutex_lock(&m->lock);
    pid_t supervisor = m->supervisor;
    s.state = m->state;
    s.pid = m->pid;
    s.port = m->port;
    s.uptime_ms = m->pid && m->started_us ? (loop_now_us() - m->started_us) / 1000 : 0;
    s.ready_us = m->ready_us;
    s.active = m->active;
    s.queued = m->n_waiting;
    s.starts = m->starts;
    s.crashes = m->crashes;
    s.stops = m->stops;
    memcpy(s.last_exit, m->last_exit, sizeof(s.last_exit));
    memcpy(s.problem, m->problem, sizeof(s.problem));
    pthread_mutex_unlock(&m->lock);
    *status = s;
    return supervisor;
}

void managed_words(struct deputy_managed *m, deputy_managed_status *status)
{
    (void)read_status(m, status);
}

void deputy_managed_status_of(deputy_managed *m, deputy_managed_status *status)
{
    deputy_managed_status s;
    size_t size = status->size < sizeof(s) ? status->size : sizeof(s);
    s.rss_bytes = memory_of(read_status(m, &s));
    memcpy(status, &s, size);
    status->size = size;
}

enum { HALF_LINE_MAX = 4096 }; /* a longer half of a line is worth showing */

/* The whole of it, without secrets: *text is the caller's to free, what counts begins at *from. */
static size_t read_output(struct deputy_managed *m, char **text, char **from)
{
    *text = *from = malloc(RING_BYTES);
    if (!*text)
        return 0;
    pthread_mutex_lock(&m->lock);
    size_t len = ring_copy(&m->output, *text, RING_BYTES);
    pthread_mutex_unlock(&m->lock);
    bool is_cut = len == RING_BYTES;
    len = secrets_hide(m->secrets, *text, len);
    secrets_hide_parts(m->secrets, *text, len, is_cut);
    const char *line = is_cut ? memchr(*text, '\n', len < HALF_LINE_MAX ? len : HALF_LINE_MAX) : NULL;
    size_t cut = line ? (size_t)(line + 1 - *text) : 0;
    *from += cut;
    len -= cut;
    for (size_t i = 0; i < len; i++)
        if ((*from)[i] == '\0')
            (*from)[i] = '?';
    return len;
}

size_t deputy_managed_output(deputy_managed *m, char *text, size_t size)
{
    char *all, *from;
    if (size == 0)
        return 0;
    size_t len = read_output(m, &all, &from), n = len < size - 1 ? len : size - 1;
    if (n > 0)
        memcpy(text, from + len - n, n);
    text[n] = '\0';
    free(all);
    return n;
}

/* Where the last lines begin that fit into size bytes: not in the middle of one, unless it alone is longer. */
static size_t begin_of_lines(const char *text, size_t len, size_t size)
{
    if (len <= size)
        return 0;
    size_t at = len - size;
    const char *line = memchr(text + at, '\n', len - at - 1);
    if (line)
        return (size_t)(line + 1 - text);
    while (at < len && ((unsigned char)text[at] & 0xC0) == 0x80)
        at++;
    return at;
}

void managed_last_lines(struct deputy_managed *m, char *text, size_t size)
{
    char *all, *from;
    size_t len = size > 1 ? read_output(m, &all, &from) : 0, n = 0;
    text[0] = '\0';
    if (size <= 1)
        return;
    while (len > 0 && strchr(" \r\n\t", from[len - 1]))
        len--;
    for (size_t i = begin_of_lines(from, len, size - 1); i < len; i++)
        text[n++] = from[i] == '\n' ? '|' : (unsigned char)from[i] < 0x20 || from[i] == 0x7F ? ' ' : from[i];
    text[n] = '\0';
    free(all);
}

int deputy_managed_command(deputy_managed *m, deputy_argument_fn each, void *user)
{
    char *key = m->settings.api_key && strlen(m->settings.api_key) >= SECRETS_MIN ? m->settings.api_key : NULL;
    char *hidden[] = {key, NULL};
    char **list = settings_command(&m->settings, m->settings.port);
    if (!list)
        return DEPUTY_ENOMEM;
    for (size_t i = 0; list[i]; i++) {
        list[i][secrets_hide(hidden, list[i], strlen(list[i]))] = '\0';
        each(user, list[i]);
    }
    strings_free(list);
    return DEPUTY_OK;
}

void managed_log(struct deputy_managed *m, deputy_log_level level, const char *format, ...)
{
    deputy_error text = {0};
    char words[400];
    va_list args;
    if (!m->on_log)
        return;
    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    error_set(&text, 0, "%s: %s", m->settings.name, words);
    pthread_mutex_lock(&m->log_lock);
    if (!m->silent) {
        m->logger = pthread_self();
        m->logging = true;
        m->on_log(m->log_user, level, text.message);
        m->logging = false;
    }
    pthread_mutex_unlock(&m->log_lock);
}
