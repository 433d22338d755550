#include "config.h"
#include "gateway/chief.h"
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_file(const struct config *config, const char *key, const char *path)
{
    if (!path || access(path, R_OK) == 0)
        return STATUS_OK;
    printf("%s: %s: cannot read %s: %s\n", config->file, key, path, strerror(errno));
    return STATUS_FAILED;
}

/* Is it a program, by itself or in PATH? */
static bool is_program(const char *name)
{
    const char *path = getenv("PATH");
    if (strchr(name, '/'))
        return access(name, X_OK) == 0;
    for (size_t n; path && *path; path += n + (path[n] == ':')) {
        char file[4096];
        n = strcspn(path, ":");
        int len = snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, name);
        if (len > 0 && (size_t)len < sizeof(file) && access(file, X_OK) == 0)
            return true;
    }
    return false;
}

/* In a command, in an environment: the only ways in which a server learns its port. */
static bool names_port(const char *const *strings)
{
    for (size_t i = 0; strings && strings[i]; i++)
        if (strstr(strings[i], "{port}"))
            return true;
    return false;
}

/* Only warnings: what is started may well be installed later than it is configured. */
static void check_launch(const struct config *config, size_t i)
{
    const struct provider_config *p = &config->providers[i];
    if (!p->managed)
        return;
    const deputy_managed_options *o = &p->managed->options;
    if (!is_program(o->command[0]))
        fprintf(stderr,
                "%s: providers[%zu]: warning: there is no program %s%s: it is not installed yet, or elsewhere\n",
                config->file, i, o->command[0], strchr(o->command[0], '/') ? "" : " in PATH");
    if (o->port == 0 && !names_port(o->command) && !names_port(o->env))
        fprintf(stderr,
                "%s: providers[%zu].command: warning: nothing tells the server its port, which is another one at each "
                "start: put {port} into command or env, or set port\n",
                config->file, i);
    if (o->cwd && access(o->cwd, X_OK) != 0)
        fprintf(stderr, "%s: providers[%zu].cwd: warning: %s: %s\n", config->file, i, o->cwd, strerror(errno));
    if (p->model && strcmp(p->type, "llama-server") == 0 && access(p->model, R_OK) != 0)
        fprintf(stderr, "%s: providers[%zu].model: warning: cannot read %s: %s\n", config->file, i, p->model,
                strerror(errno));
}

/* With --listen it may still be served elsewhere; as it stands it is not. */
static int check_gateway(const struct config *config)
{
    char problem[512];
    if (chief_may_listen(config->gateway.listen, &config->gateway, problem, sizeof(problem)))
        return STATUS_OK;
    printf("%s: gateway.listen: %s\n", config->file, problem);
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
        int found = check_policy(&config) | check_gateway(&config);
        found |= check_file(&config, "central.caFile", config.options.ca_file);
        for (size_t i = 0; i < config.n_providers; i++) {
            snprintf(key, sizeof(key), "providers[%zu].caFile", i);
            found |= check_file(&config, key, config.providers[i].ca_file);
            check_launch(&config, i);
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
