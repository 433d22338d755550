#include "central/upstreams.h"

#include "deputy/provider.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_NONFATAL_OOM             1
#define uthash_nonfatal_oom(upstream) ((upstream)->lost = true)
#include <uthash.h>

enum { MAX_KEY = 8192 };

struct upstream {
    UT_hash_handle hh;
    deputy_provider *provider;
    struct secret *secret;
    struct stat file; /* the key's, as it was read */
    uint64_t used;
    bool lost; /* there was no memory to remember it */
    char key[];
};

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* NULL, or what is wrong. Never waits: a FIFO would. */
static const char *read_file(const char *path, char key[MAX_KEY], struct stat *seen)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return strerror(errno);
    bool regular = fstat(fd, seen) == 0 && S_ISREG(seen->st_mode);
    ssize_t n = regular ? read(fd, key, MAX_KEY) : 0;
    const char *problem = n < 0 ? strerror(errno) : NULL;
    close(fd);
    if (problem)
        return problem;
    if (!regular)
        return "not a regular file";
    if (n == MAX_KEY)
        return "longer than a key may be (8191 bytes)";
    while (n > 0 && strchr(" \t\r\n", key[n - 1]))
        n--;
    key[n] = '\0';
    if (strlen(key) != (size_t)n)
        return "holds a NUL";
    return n > 0 ? NULL : "empty";
}

static const char *read_environment(const char *name, char key[MAX_KEY])
{
    const char *value = getenv(name);
    if (!value || !*value)
        return "not set";
    if (strlen(value) >= MAX_KEY)
        return "longer than a key may be (8191 bytes)";
    strcpy(key, value);
    return NULL;
}

static void say(const struct upstreams *u, const struct app_forward *f, const char *place, const char *problem)
{
    if (!log_begin(u->log, DEPUTY_LOG_ERROR, "an upstream cannot be used"))
        return;
    log_text(u->log, "llm", f->name);
    log_text(u->log, "key", place);
    log_text(u->log, "problem", problem);
    log_end(u->log);
}

/* True also when there is no key to read; then it stays empty. */
static bool read_key(const struct upstreams *u, const struct app_forward *f, char key[MAX_KEY], struct stat *seen,
                     struct problem *problem)
{
    const char *place = f->api_key_file ? f->api_key_file : f->api_key_env, *why = NULL;
    key[0] = '\0';
    if (f->api_key_file)
        why = read_file(f->api_key_file, key, seen);
    else if (f->api_key_env)
        why = read_environment(f->api_key_env, key);
    if (!why)
        return true;
    say(u, f, place, why);
    return problem_set(problem, 502, "upstream_key_missing",
                       "the key for the upstream of '%.128s' cannot be read: the central's log says why", f->name);
}

/* ---- secrets ----------------------------------------------------------------------------------------------------- */

static struct secret *new_secret(const char *text)
{
    size_t len = strlen(text);
    struct secret *secret = malloc(sizeof(*secret) + len + 1);
    if (!secret)
        return NULL;
    secret->users = 1;
    memcpy(secret->text, text, len + 1);
    return secret;
}

void secret_unref(struct secret *secret)
{
    if (!secret || --secret->users > 0)
        return;
    explicit_bzero(secret->text, strlen(secret->text));
    free(secret);
}

static struct secret *secret_ref(struct secret *secret)
{
    secret->users++;
    return secret;
}

/* ---- the cache --------------------------------------------------------------------------------------------------- */

static void free_upstream(struct upstream *upstream)
{
    deputy_provider_unref(upstream->provider);
    secret_unref(upstream->secret);
    free(upstream);
}

static void forget(struct upstreams *u, struct upstream *upstream)
{
    HASH_DEL(u->all, upstream);
    free_upstream(upstream);
}

static void forget_oldest(struct upstreams *u)
{
    struct upstream *oldest = u->all;
    for (struct upstream *at = u->all; at; at = at->hh.next)
        if (at->used < oldest->used)
            oldest = at;
    forget(u, oldest);
}

static bool is_fresh(const struct upstream *upstream, const struct app_forward *f)
{
    struct stat now;
    return !f->api_key_file || (stat(f->api_key_file, &now) == 0 && same_file(&now, &upstream->file));
}

static void remember(struct upstreams *u, const char *key, deputy_provider *provider, struct secret *secret,
                     const struct stat *seen)
{
    size_t len = strlen(key);
    struct upstream *upstream = calloc(1, sizeof(*upstream) + len + 1);
    if (!upstream)
        return; /* it is made again next time */
    memcpy(upstream->key, key, len + 1);
    upstream->file = *seen;
    HASH_ADD_KEYPTR(hh, u->all, upstream->key, len, upstream);
    if (upstream->lost) {
        free(upstream);
        return;
    }
    upstream->provider = deputy_provider_ref(provider);
    upstream->secret = secret_ref(secret);
    upstream->used = ++u->uses;
    if (HASH_COUNT(u->all) > UPSTREAMS_MAX)
        forget_oldest(u);
}

static deputy_provider *make(struct upstreams *u, const struct app_forward *f, struct secret **secret,
                             struct problem *problem)
{
    deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *provider = NULL;
    deputy_error error = {0, ""};
    struct stat seen = {0};
    char key[MAX_KEY];
    if (!read_key(u, f, key, &seen, problem))
        return NULL;
    options.name = f->name;
    options.url = f->url;
    options.model = f->model;
    options.api_key = key[0] ? key : NULL;
    options.ca_file = u->ca_file;
    int code = deputy_openai_new(&options, &provider, &error);
    *secret = new_secret(key);
    explicit_bzero(key, sizeof(key));
    if (code == DEPUTY_OK && !*secret) {
        deputy_provider_unref(provider);
        problem_set(problem, 503, "out_of_memory", "out of memory: try again soon");
        return NULL;
    }
    if (code != DEPUTY_OK) {
        secret_unref(*secret);
        *secret = NULL;
        say(u, f, f->api_key_file ? f->api_key_file : f->api_key_env, error.message);
        problem_set(problem, 502, "upstream_misconfigured",
                    "the upstream of '%.128s' is not set up rightly: the central's log says what is wrong", f->name);
        return NULL;
    }
    remember(u, f->key, provider, *secret, &seen);
    return provider;
}

deputy_provider *upstreams_get(struct upstreams *u, const struct app_forward *f, struct secret **secret,
                               struct problem *problem)
{
    struct upstream *upstream;
    HASH_FIND(hh, u->all, f->key, strlen(f->key), upstream);
    if (!upstream)
        return make(u, f, secret, problem);
    if (!is_fresh(upstream, f)) {
        forget(u, upstream);
        return make(u, f, secret, problem);
    }
    upstream->used = ++u->uses;
    *secret = secret_ref(upstream->secret);
    return deputy_provider_ref(upstream->provider);
}

void upstreams_clear(struct upstreams *u)
{
    struct upstream *at = u->all, *next;
    HASH_CLEAR(hh, u->all);
    for (; at; at = next) {
        next = at->hh.next;
        free_upstream(at);
    }
}
