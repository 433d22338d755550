#include "operate.h"

#include "control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_MS = 2000 };

static const struct {
    const char *verb, *done;
} verbs[] = {{"start", "is being started"}, {"stop", "is being stopped"}, {"restart", "is being restarted"}};

enum { VERBS = sizeof(verbs) / sizeof(verbs[0]) };

bool operate_knows(const char *verb)
{
    for (size_t i = 0; i < VERBS; i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            return true;
    return false;
}

/* The name of another configuration's provider must not reach its server. */
static int check_host(const struct options *options, const struct config *config)
{
    struct control_reply reply;
    enum control_result result = control_ask(config, "GET", "/status", STATUS_MS, &reply);
    int status = STATUS_OK;
    if (result == CONTROL_NOBODY)
        status = complain(options->command, "no 'deputy serve' runs with this configuration: nobody answers at %s",
                          config->gateway.control);
    else if (result != CONTROL_ANSWERED || reply.status != 200)
        status = complain(options->command, "%s", reply.problem[0] ? reply.problem : "the host gave no usable answer");
    else if (!control_is_same(config, &reply))
        status = complain(options->command, "the host at %s serves another configuration, %s", config->gateway.control,
                          control_text(reply.json, "config") ? control_text(reply.json, "config")
                                                             : "which it does not name");
    control_free(&reply);
    return status;
}

static const char *error_of(yajl_val json)
{
    static const char *const path[] = {"error", "message", NULL};
    const char *message = json ? YAJL_GET_STRING(yajl_tree_get(json, (const char **)path, yajl_t_string)) : NULL;
    return message ? message : "the host refused without saying why";
}

static int say_refusal(const struct options *options, const struct config *config, const char *provider,
                       const struct control_reply *reply)
{
    const char *near = NULL, **names = calloc(config->n_providers + 1, sizeof(*names));
    for (size_t i = 0; names && i < config->n_providers; i++)
        names[i] = config->providers[i].name;
    if (names && reply->status == 404)
        near = nearest(provider, names, config->n_providers);
    free(names);
    if (near && strcmp(near, provider) != 0)
        return complain(options->command, "%s: did you mean '%s'?", error_of(reply->json), near);
    return complain(options->command, "%s", error_of(reply->json));
}

static int ask(const struct options *options, const struct config *config, const char *verb, const char *provider)
{
    struct control_reply reply;
    enum control_result result = control_command(config, provider, verb, &reply);
    int status = STATUS_OK;
    if (result != CONTROL_ANSWERED)
        status = complain(options->command, "%s", reply.problem);
    else if (reply.status < 200 || reply.status > 299)
        status = say_refusal(options, config, provider, &reply);
    for (size_t i = 0; status == STATUS_OK && i < VERBS; i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            printf("%s %s; 'deputy providers' shows how it goes\n", provider, verbs[i].done);
    control_free(&reply);
    return status;
}

int operate_run(const struct options *options, const char *verb, const char *provider)
{
    struct config config;
    int status = config_load(options, stderr, NULL, &config);
    if (status == STATUS_OK)
        status = check_host(options, &config);
    if (status == STATUS_OK)
        status = ask(options, &config, verb, provider);
    config_free(&config);
    return status;
}
