/* cli/config.h - the configuration file, read by lua/deputy/config.lua, in the shape that C wants. */
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

#include "deputy.h"
#include "deputy/managed.h"
#include "gateway/gateway.h"

#include <stdbool.h>
#include <stdio.h>

struct lua_State;
struct options;

/* What deputy starts for a provider. In command and env {apiKey} is still to be filled in. */
struct managed_config {
    deputy_managed_options options;
    bool wants_key; /* {apiKey} stands somewhere */
};

struct provider_config {
    const char *name, *type;
    const char *url, *model, *api_key, *ca_file; /* NULL when not given */
    const char **llms;                           /* that it may stand in for */
    size_t n_llms;
    const struct managed_config *managed; /* NULL: deputy starts nothing for it */
};

struct config {
    struct lua_State *L; /* everything below lives as long as this */
    char file[4096];
    char full_file[4096]; /* the same from the root on */
    char lua_dir[4096];   /* where the Lua files are that came with this program */
    char script[4096];    /* the policy's path */
    char *policy_text;    /* what stood there: policy_prepare; NULL: to be read from script */
    size_t policy_len;
    char policy_warning[600]; /* what policy_prepare has to say, or "" */
    deputy_options options;
    struct provider_config *providers;
    size_t n_providers;
    struct gateway_settings gateway; /* for deputy serve */
    size_t max_reply_bytes;          /* gateway.maxReplyBytes */
};

/* Finds the file and reads it. STATUS_OK; otherwise everything is said: each mistake on a line of its own on
 * problems, the rest on stderr. warnings (may be NULL) gets what is allowed but risky. config_free in every case. */
int config_load(const struct options *options, FILE *problems, FILE *warnings, struct config *config);
void config_free(struct config *config);

/* Is there a configuration: named with -c, or in one of the usual places? */
bool config_exists(const struct options *options);

/* The path of the policy that came with this program. STATUS_OK, or STATUS_FAILED with everything said. */
int config_default_script(const struct options *options, char *out, size_t size);

#endif
