#include "lua_main.h"

static int run(int argc, char **argv)
{
    return lua_main(&contract_command, "central.contract", argc, argv, NULL);
}

const struct command contract_command = {
    .name = "contract",
    .summary = "check from outside whether a central keeps the contract",
    .main = run,
};
