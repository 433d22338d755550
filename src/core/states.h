/* core/states.h - what a script says about how things are ("the breaker of claude is open"), for whoever looks from
 * outside. Bounded; gone with the script. */
#ifndef CORE_STATES_H
#define CORE_STATES_H

#include "deputy.h"

#include <stdbool.h>

/* A word's bytes; names are those of LLMs and the like. */
enum { STATES_MAX = 1024, STATE_WORD_MAX = 32, STATE_NAME_MAX = DEPUTY_NAME_SIZE - 1 };

struct state;

struct states {
    struct state *map;
};

/* Sets a word, or forgets the entry (word NULL). until_us: when it ends, on loop_now_us' clock; 0: never. The strings
 * are not over their limits. False: there is no room for another one. */
bool states_set(struct states *states, const char *topic, const char *name, const char *word, uint64_t until_us);

/* As deputy_list_states. */
int states_each(struct states *states, deputy_state_fn each, void *user);
void states_clear(struct states *states);

#endif
