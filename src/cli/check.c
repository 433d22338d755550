#include "config.h"
#include "options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int check_file(const struct config *config, const char *key, const char *path)
{
    if (!path || access(path, R_OK) == 0)
        return STATUS_OK;
    printf("%s: %s: cannot read %s: %s\n", config->file, key, path, strerror(errno));
    return STATUS_FAILED;
}

/* Loaded and verified as every other command would, with the settings that it would get. */
static int check_policy(const struct config *config)
{
    deputy_engine *engine = NULL;
    deputy_error error = {0, ""};
    int code = deputy_engine_new(&config->options, &engine, &error);
    if (code == DEPUTY_OK)
        code = deputy_load_policy(engine, config->script, &error);
    if (code != DEPUTY_OK)
        printf("%s: policy: %s\n", config->file, error.message);
    deputy_engine_free(engine);
    return code == DEPUTY_OK ? STATUS_OK : STATUS_FAILED;
}

static int run(const struct options *options)
{
    struct config config;
    int status = config_load(options, stdout, stderr, &config);
    if (status == STATUS_OK) {
        char key[160];
        int found = check_policy(&config) | check_file(&config, "central.caFile", config.options.ca_file);
        for (size_t i = 0; i < config.n_providers; i++) {
            snprintf(key, sizeof(key), "providers[%zu].caFile", i);
            found |= check_file(&config, key, config.providers[i].ca_file);
        }
        status = found ? STATUS_FAILED : STATUS_OK;
    }
    if (status == STATUS_OK)
        printf("%s: ok\n", config.file);
    config_free(&config);
    return status;
}

const struct command check_command = {
    .name = "check",
    .summary = "say every mistake in the configuration",
    .operands = "",
    .accepts = OPTION_CONFIG,
    .about = "Reads the configuration and prints every mistake in it, one a line, as FILE:LINE: KEY: MESSAGE, or\n"
             "\"FILE: ok\". The policy is loaded and verified too. What is allowed but risky is said on stderr.\n"
             "Nothing is called or started.\n",
    .exits = "  0  no mistake\n  1  mistakes, or no configuration\n  2  wrong arguments\n",
    .example = "deputy check -c deputy.json",
    .run = run,
};
