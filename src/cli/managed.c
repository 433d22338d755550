#include "managed.h"

#include "gpu.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <utlist.h>

enum { KEY_BYTES = 32, MAX_OUTPUT = (64 << 10) + 1 };

static const char placeholder[] = "{apiKey}";

struct managed_key {
    struct managed_key *next;
    char hex[2 * KEY_BYTES + 1];
    char name[];
};

struct entry {
    const char *name; /* of the provider; lives in the configuration */
    deputy_managed *managed;
};

struct managed_set {
    struct managed_set *prev, *next;
    size_t n;
    struct entry entries[];
};

void managed_pool_init(struct managed_pool *pool, deputy_log_fn on_log, void *log_user)
{
    *pool = (struct managed_pool){.on_log = on_log, .log_user = log_user};
    pthread_mutex_init(&pool->lock, NULL);
}

void managed_pool_free(struct managed_pool *pool)
{
    struct managed_key *key, *next;
    LL_FOREACH_SAFE (pool->keys, key, next)
        free(key);
    pool->keys = NULL;
    pthread_mutex_destroy(&pool->lock);
}

/* ---- keys ---------------------------------------------------------------------------------------------------------
 */

/* A reload must find the same key, or it would take the running server for another one. */
static const char *key_of(struct managed_pool *pool, const char *name)
{
    unsigned char bytes[KEY_BYTES];
    struct managed_key *key;
    LL_FOREACH (pool->keys, key)
        if (strcmp(key->name, name) == 0)
            return key->hex;
    key = malloc(sizeof(*key) + strlen(name) + 1);
    if (!key || getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        free(key);
        return NULL;
    }
    for (size_t i = 0; i < KEY_BYTES; i++)
        snprintf(key->hex + 2 * i, 3, "%02x", bytes[i]);
    strcpy(key->name, name); /* fits */
    LL_PREPEND(pool->keys, key);
    return key->hex;
}

/* malloc'ed. */
static char *fill_key(const char *text, const char *key)
{
    size_t n = 0, key_len = strlen(key), word = sizeof(placeholder) - 1;
    for (const char *at = text; (at = strstr(at, placeholder)); at += word)
        n++;
    char *filled = malloc(strlen(text) + n * key_len + 1), *out = filled;
    if (!filled)
        return NULL;
    for (const char *at; (at = strstr(text, placeholder)); text = at + word) {
        memcpy(out, text, (size_t)(at - text));
        out += at - text;
        memcpy(out, key, key_len);
        out += key_len;
    }
    strcpy(out, text);
    return filled;
}

static void free_strings(char **strings)
{
    for (size_t i = 0; strings && strings[i]; i++)
        free(strings[i]);
    free(strings);
}

static char **fill_keys(const char *const *strings, const char *key)
{
    size_t n = 0;
    while (strings[n])
        n++;
    char **filled = calloc(n + 1, sizeof(*filled));
    for (size_t i = 0; filled && i < n; i++) {
        filled[i] = fill_key(strings[i], key);
        if (!filled[i]) {
            free_strings(filled);
            return NULL;
        }
    }
    return filled;
}

/* ---- sets ---------------------------------------------------------------------------------------------------------
 */

/* One that another configuration has, and that these options would make again. */
static deputy_managed *find_same(const struct managed_pool *pool, const deputy_managed_options *options)
{
    struct managed_set *set;
    DL_FOREACH (pool->sets, set)
        for (size_t i = 0; i < set->n; i++)
            if (set->entries[i].managed && deputy_managed_same(set->entries[i].managed, options))
                return deputy_managed_ref(set->entries[i].managed);
    return NULL;
}

static int out_of_memory(deputy_error *error)
{
    snprintf(error->message, sizeof(error->message), "out of memory");
    return error->code = DEPUTY_ENOMEM;
}

static int take_one(struct managed_pool *pool, const struct managed_config *config, deputy_managed **managed,
                    deputy_error *error)
{
    deputy_managed_options options = config->options;
    if (config->wants_key && !options.api_key && !(options.api_key = key_of(pool, options.name))) {
        snprintf(error->message, sizeof(error->message), "there are no random bytes for its key");
        return error->code = DEPUTY_EIO;
    }
    char **command = fill_keys(options.command, options.api_key ? options.api_key : "");
    char **env = fill_keys(options.env, options.api_key ? options.api_key : "");
    int code = DEPUTY_OK;
    options.command = (const char *const *)command;
    options.env = (const char *const *)env;
    options.prewarm = pool->only_on_demand ? DEPUTY_PREWARM_ON_DEMAND : options.prewarm;
    options.on_log = pool->on_log;
    options.log_user = pool->log_user;
    if (!command || !env)
        code = out_of_memory(error);
    else if (!(*managed = find_same(pool, &options)))
        code = deputy_managed_new(&options, managed, error);
    free_strings(command);
    free_strings(env);
    return code;
}

static int fill_set(struct managed_pool *pool, const struct config *config, struct managed_set *set,
                    deputy_error *error)
{
    deputy_error why = {0, ""};
    for (size_t i = 0; i < config->n_providers; i++) {
        const struct provider_config *p = &config->providers[i];
        if (!p->managed)
            continue;
        struct entry *entry = &set->entries[set->n++];
        entry->name = p->name;
        int code = take_one(pool, p->managed, &entry->managed, &why);
        if (code != DEPUTY_OK) {
            error->code = code;
            snprintf(error->message, sizeof(error->message), "provider '%.128s': %.350s", p->name, why.message);
            return code;
        }
    }
    return DEPUTY_OK;
}

int managed_take(struct managed_pool *pool, const struct config *config, struct managed_set **set, deputy_error *error)
{
    size_t n = 0;
    for (size_t i = 0; i < config->n_providers; i++)
        n += config->providers[i].managed != NULL;
    *set = NULL;
    if (n == 0)
        return DEPUTY_OK;
    struct managed_set *made = calloc(1, sizeof(*made) + n * sizeof(made->entries[0]));
    if (!made)
        return out_of_memory(error);
    pthread_mutex_lock(&pool->lock);
    int code = fill_set(pool, config, made, error);
    DL_APPEND(pool->sets, made);
    pthread_mutex_unlock(&pool->lock);
    if (code == DEPUTY_OK)
        *set = made;
    else
        managed_give_back(pool, made);
    return code;
}

void managed_give_back(struct managed_pool *pool, struct managed_set *set)
{
    if (!set)
        return;
    pthread_mutex_lock(&pool->lock);
    DL_DELETE(pool->sets, set);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < set->n; i++)
        deputy_managed_unref(set->entries[i].managed);
    free(set);
}

static bool end_one(deputy_managed *managed)
{
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    deputy_managed_stop(managed, NULL);
    deputy_managed_status_of(managed, &status);
    return status.state == DEPUTY_MANAGED_STOPPED || status.state == DEPUTY_MANAGED_FAILED;
}

bool managed_end(struct managed_pool *pool)
{
    struct managed_set *set;
    bool ended = true;
    pthread_mutex_lock(&pool->lock);
    DL_FOREACH (pool->sets, set)
        for (size_t i = 0; i < set->n; i++)
            ended = (!set->entries[i].managed || end_one(set->entries[i].managed)) && ended;
    pthread_mutex_unlock(&pool->lock);
    return ended;
}

deputy_managed *managed_find(const struct managed_set *set, const char *name)
{
    for (size_t i = 0; set && i < set->n; i++)
        if (strcmp(set->entries[i].name, name) == 0)
            return set->entries[i].managed;
    return NULL;
}

/* ---- one of them --------------------------------------------------------------------------------------------------
 */

int managed_command(deputy_managed *managed, const char *verb, deputy_error *error)
{
    if (strcmp(verb, "start") == 0)
        return deputy_managed_start(managed, error);
    if (strcmp(verb, "stop") == 0)
        return deputy_managed_stop(managed, error);
    if (strcmp(verb, "restart") == 0)
        return deputy_managed_restart(managed, error);
    snprintf(error->message, sizeof(error->message), "expected start, stop or restart, got '%.64s'", verb);
    return error->code = DEPUTY_EINVAL;
}

static int64_t wall_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void managed_describe(deputy_managed *managed, bool with_output, struct gateway_provider *facts)
{
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    deputy_managed_status_of(managed, &status);
    facts->managed = true;
    snprintf(facts->state, sizeof(facts->state), "%s", deputy_managed_state_name(status.state));
    facts->pid = status.pid;
    facts->port = status.port;
    facts->uptime_ms = status.uptime_ms;
    facts->since = status.uptime_ms > 0 ? wall_ms() - (int64_t)status.uptime_ms : 0;
    facts->active = status.active;
    facts->queued = status.queued;
    facts->starts = status.starts;
    facts->crashes = status.crashes;
    facts->stops = status.stops;
    facts->ready_seconds = (double)status.ready_us / 1e6;
    facts->memory_bytes = status.rss_bytes;
    facts->gpu_bytes = gpu_memory_seen(status.pid);
    snprintf(facts->last_exit, sizeof(facts->last_exit), "%s", status.last_exit);
    snprintf(facts->problem, sizeof(facts->problem), "%s", status.problem);
    if (with_output && (facts->output = malloc(MAX_OUTPUT)))
        deputy_managed_output(managed, facts->output, MAX_OUTPUT);
}

void managed_last_line(deputy_managed *managed, char *line, size_t size)
{
    char text[1024];
    size_t len = deputy_managed_output(managed, text, sizeof(text)), begin;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    /* A bar that redraws itself ends its lines with \r alone. */
    for (begin = len; begin > 0 && text[begin - 1] != '\n' && text[begin - 1] != '\r';)
        begin--;
    len -= begin;
    len = len < size ? len : size - 1;
    memcpy(line, text + begin, len);
    line[len] = '\0';
    for (size_t i = 0; i < len; i++)
        memset(line + i, ' ', text_control(line + i, len - i));
}
