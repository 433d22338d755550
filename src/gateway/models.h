/* gateway/models.h - a list of models, as the central gave it, with those marked that a local provider may stand in
 * for. */
#ifndef GATEWAY_MODELS_H
#define GATEWAY_MODELS_H

#include "relay/draft.h"

#include "deputy.h"

/* Writes the list again; each object of "data" whose "id" has a stand-in gets the member "x_deputy_stand_in": its name.
 * False when it is not such a list, or there is no memory: then it is to be passed on as it came. */
bool models_mark(const deputy_engine *engine, const char *text, size_t len, struct draft *to);

#endif
