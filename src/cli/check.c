#include "config.h"
#include "options.h"

static int run(const struct options *options)
{
    struct config config;
    int status = config_load(options, stdout, stderr, &config);
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
             "\"FILE: ok\". What is allowed but risky is said on stderr. Nothing is called or started.\n",
    .exits = "  0  no mistake\n  1  mistakes, or no configuration\n  2  wrong arguments\n",
    .example = "deputy check -c deputy.json",
    .run = run,
};
