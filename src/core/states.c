#include "core/states.h"

#include "core/engine.h"

#include <stdlib.h>
#include <string.h>

/* uthash exits when memory runs out unless it is told not to; it then leaves the element out and says so here. */
#define HASH_NONFATAL_OOM            1
#define uthash_nonfatal_oom(element) ((element)->left_out = true)
#include <uthash.h>

enum { KEY_MAX = STATE_WORD_MAX + 1 + STATE_NAME_MAX };

struct state {
    UT_hash_handle hh;
    uint64_t until_us;
    bool left_out;
    char word[STATE_WORD_MAX + 1];
    size_t topic_len;
    char key[]; /* topic, NUL, name, NUL */
};

static size_t write_key(char key[KEY_MAX + 1], const char *topic, const char *name)
{
    size_t topic_len = strlen(topic), name_len = strlen(name);
    memcpy(key, topic, topic_len + 1);
    memcpy(key + topic_len + 1, name, name_len + 1);
    return topic_len + 1 + name_len;
}

static struct state *add_state(struct states *states, const char *key, size_t len)
{
    struct state *s = HASH_COUNT(states->map) < STATES_MAX ? calloc(1, sizeof(*s) + len + 1) : NULL;
    if (!s)
        return NULL;
    memcpy(s->key, key, len + 1);
    s->topic_len = strlen(key);
    HASH_ADD_KEYPTR(hh, states->map, s->key, len, s);
    if (!s->left_out)
        return s;
    free(s);
    return NULL;
}

static void drop_state(struct states *states, struct state *s)
{
    HASH_DEL(states->map, s);
    free(s);
}

bool states_set(struct states *states, const char *topic, const char *name, const char *word, uint64_t until_us)
{
    char key[KEY_MAX + 1];
    size_t len = write_key(key, topic, name);
    struct state *s;
    HASH_FIND(hh, states->map, key, len, s);
    if (!word) {
        if (s)
            drop_state(states, s);
        return true;
    }
    if (!s && !(s = add_state(states, key, len)))
        return false;
    memcpy(s->word, word, strlen(word) + 1);
    s->until_us = until_us;
    return true;
}

static int by_key(const struct state *a, const struct state *b)
{
    int order = strcmp(a->key, b->key);
    return order != 0 ? order : strcmp(a->key + a->topic_len + 1, b->key + b->topic_len + 1);
}

int states_each(struct states *states, deputy_state_fn each, void *user)
{
    uint64_t now = loop_now_us();
    int answer = 0;
    HASH_SORT(states->map, by_key);
    for (struct state *s = states->map; s && answer == 0; s = s->hh.next) {
        int64_t left_ms = !s->until_us ? -1 : s->until_us > now ? (int64_t)((s->until_us - now) / 1000) : 0;
        answer = each(user, s->key, s->key + s->topic_len + 1, s->word, left_ms);
    }
    return answer;
}

void states_clear(struct states *states)
{
    struct state *s = states->map, *next;
    HASH_CLEAR(hh, states->map); /* the table alone: what was in it is still linked */
    for (; s; s = next) {
        next = s->hh.next;
        free(s);
    }
}

int deputy_list_states(const deputy_engine *engine, deputy_state_fn each, void *user)
{
    return engine->policy ? states_each(policy_states(engine->policy), each, user) : 0;
}
