#include "options.h"

#include "deputy.h"

#include <curl/curl.h>
#include <lua.h>
#include <stdio.h>
#include <uv.h>
#include <yajl/yajl_version.h>

static int run(const struct options *options)
{
    (void)options;
    int yajl = yajl_version();
    printf("deputy %s\n", deputy_version());
    printf("libcurl %s\n", curl_version_info(CURLVERSION_NOW)->version);
    printf("libuv %s\n", uv_version_string());
    printf("%s\n", LUA_RELEASE);
    printf("yajl %d.%d.%d\n", yajl / 10000, yajl / 100 % 100, yajl % 100);
    return STATUS_OK;
}

const struct command version_command = {
    .name = "version",
    .summary = "print the version, and those of the libraries",
    .operands = "",
    .about = "Prints the version of deputy, then those of the libraries it runs with, one a line.\n",
    .exits = "  0  always\n",
    .example = "deputy version",
    .run = run,
};
