#include "control.h"
#include "discover.h"
#include "host.h"
#include "json_out.h"
#include "live_server.h"
#include "lua_main.h"
#include "operate.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHECK_MS = 2000, LIVE_MS = 8000, MAX_MODELS_BYTES = 1 << 20, COLUMNS = 7 };

static const char *const titles[COLUMNS] = {"NAME", "TYPE", "STANDS IN FOR", "AVAILABLE", "MODEL", "URL", "MODELS"};

struct row {
    const struct provider_config *provider;
    bool available, too_many;
    struct text models; /* each ended by NUL */
    char why[504];      /* why nothing is known about the models, or "" */
    yajl_val live;      /* what the running host says of it, or NULL */
};

/* The running host's whole answer. */
struct live {
    struct control_reply reply;
    bool running; /* and with this configuration */
    bool unknown; /* whether it does: there is no way to ask */
};

/* ---- asking ----------------------------------------------------------------------------------------------------- */

static void on_model(void *user, const char *model)
{
    struct row *row = user;
    if (!text_add(&row->models, model, strlen(model) + 1, MAX_MODELS_BYTES))
        row->too_many = true;
}

static void look_at(struct host *host, const struct provider_config *provider, struct row *row)
{
    deputy_error error = {0, ""};
    row->provider = provider;
    if (deputy_is_available(host->engine, provider->name, CHECK_MS, &row->available, &error) != DEPUTY_OK)
        row->available = false;
    if (row->available &&
        deputy_list_models(host->engine, provider->name, CHECK_MS, on_model, row, &error) != DEPUTY_OK)
        text_free(&row->models);
    host_clean(host, error.message, strlen(error.message), row->why, sizeof(row->why));
    if (row->too_many)
        snprintf(row->why, sizeof(row->why), "the list of its models was cut at %d bytes", MAX_MODELS_BYTES);
    if (row->why[0] && host->options->verbose)
        complain(host->options->command, "'%s': %s", provider->name, row->why);
}

static yajl_val find_live(yajl_val providers[], size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        const char *each = control_text(providers[i], "name");
        if (each && strcmp(each, name) == 0)
            return providers[i];
    }
    return NULL;
}

static void take_live(const struct live *live, const struct provider_config *provider, struct row *row)
{
    yajl_val *list, *models;
    size_t n = control_list(live->reply.json, "providers", &list);
    const char *why;
    row->provider = provider;
    row->live = find_live(list, n, provider->name);
    row->available = control_flag(row->live, "available");
    n = control_list(row->live, "models", &models);
    for (size_t i = 0; i < n; i++)
        if (YAJL_IS_STRING(models[i]))
            on_model(row, YAJL_GET_STRING(models[i]));
    why = row->live ? control_text(row->live, "error") : "the running host does not know it yet: it needs a reload";
    snprintf(row->why, sizeof(row->why), "%s", why ? why : "");
}

/* ---- as a table ------------------------------------------------------------------------------------------------- */

static bool add_word(struct text *cell, const char *word)
{
    if (cell->len > 0 && !text_add(cell, ", ", 2, SIZE_MAX / 4))
        return false;
    return text_add(cell, word, strlen(word), SIZE_MAX / 4);
}

static bool fill_cells(const struct row *row, struct text *cells)
{
    const struct provider_config *p = row->provider;
    const char *words[COLUMNS] = {p->name, p->type, NULL, row->available ? "yes" : "no", p->model, p->url, NULL};
    bool ok = true;
    for (size_t i = 0; i < p->n_llms; i++)
        ok = ok && add_word(&cells[2], p->llms[i]);
    for (size_t at = 0; at < row->models.len; at += strlen(row->models.bytes + at) + 1)
        ok = ok && add_word(&cells[6], row->models.bytes + at);
    for (size_t c = 0; c < COLUMNS; c++) {
        ok = ok && (!words[c] || add_word(&cells[c], words[c]));
        ok = ok && (cells[c].len > 0 || add_word(&cells[c], "-"));
        for (size_t i = 0; i < cells[c].len; i++)
            memset(cells[c].bytes + i, '?', text_control(cells[c].bytes + i, cells[c].len - i));
    }
    return ok;
}

static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void print_cells(const char *const cells[COLUMNS], const size_t widths[COLUMNS])
{
    for (size_t c = 0; c < COLUMNS; c++) {
        fputs(cells[c], stdout);
        if (c + 1 < COLUMNS)
            printf("%*s", (int)(widths[c] - width_of(cells[c]) + 2), "");
    }
    putchar('\n');
}

static bool print_table(const struct row *rows, size_t n)
{
    struct text(*cells)[COLUMNS] = calloc(n + 1, sizeof(*cells));
    size_t widths[COLUMNS];
    bool ok = cells != NULL;
    for (size_t c = 0; c < COLUMNS; c++)
        widths[c] = strlen(titles[c]);
    for (size_t i = 0; ok && i < n; i++) {
        ok = fill_cells(&rows[i], cells[i]);
        for (size_t c = 0; ok && c < COLUMNS; c++)
            widths[c] = width_of(cells[i][c].bytes) > widths[c] ? width_of(cells[i][c].bytes) : widths[c];
    }
    if (ok)
        print_cells(titles, widths);
    for (size_t i = 0; ok && i < n; i++) {
        const char *line[COLUMNS];
        for (size_t c = 0; c < COLUMNS; c++)
            line[c] = cells[i][c].bytes;
        print_cells(line, widths);
    }
    for (size_t i = 0; cells && i < n; i++)
        for (size_t c = 0; c < COLUMNS; c++)
            text_free(&cells[i][c]);
    free(cells);
    return ok;
}

/* ---- as JSON ---------------------------------------------------------------------------------------------------- */

static void json_number(yajl_gen json, yajl_val from, const char *name)
{
    json_key(json, name);
    yajl_gen_integer(json, (long long)control_number(from, name, 0));
}

static bool names_llm(const struct provider_config *p, const char *llm)
{
    for (size_t i = 0; llm && i < p->n_llms; i++)
        if (strcmp(p->llms[i], llm) == 0)
            return true;
    return false;
}

static void json_breakers(yajl_gen json, const struct live *live, const struct provider_config *p)
{
    yajl_val *list;
    size_t n = control_list(live->reply.json, "breakers", &list);
    json_key(json, "breakers");
    yajl_gen_array_open(json);
    for (size_t i = 0; i < n; i++) {
        if (!names_llm(p, control_text(list[i], "llm")))
            continue;
        yajl_gen_map_open(json);
        json_key(json, "llm");
        json_string(json, control_text(list[i], "llm"));
        json_key(json, "state");
        json_string(json, control_text(list[i], "state"));
        json_number(json, list[i], "worker");
        json_number(json, list[i], "until");
        yajl_gen_map_close(json);
    }
    yajl_gen_array_close(json);
}

/* What is only known while a host runs. */
static void json_live(yajl_gen json, const struct live *live, const struct row *row)
{
    yajl_val all = live->reply.json;
    json_key(json, "host");
    yajl_gen_map_open(json);
    json_number(json, all, "pid");
    json_number(json, all, "started");
    json_number(json, all, "inFlight");
    json_number(json, all, "streams");
    json_key(json, "listen");
    json_string(json, control_text(all, "listen"));
    yajl_gen_map_close(json);
    json_number(json, row->live, "answered");
    json_number(json, row->live, "failed");
    json_breakers(json, live, row->provider);
    live_server_json(json, row->live);
}

static void json_row(yajl_gen json, const struct live *live, const struct row *row)
{
    const struct provider_config *p = row->provider;
    yajl_gen_map_open(json);
    json_key(json, "name");
    json_string(json, p->name);
    json_key(json, "type");
    json_string(json, p->type);
    json_key(json, "url");
    json_string(json, p->url);
    json_key(json, "model");
    json_string(json, p->model);
    json_key(json, "failoverFor");
    yajl_gen_array_open(json);
    for (size_t i = 0; i < p->n_llms; i++)
        json_string(json, p->llms[i]);
    yajl_gen_array_close(json);
    json_key(json, "available");
    yajl_gen_bool(json, row->available);
    json_key(json, "models");
    yajl_gen_array_open(json);
    for (size_t at = 0; at < row->models.len; at += strlen(row->models.bytes + at) + 1)
        json_string(json, row->models.bytes + at);
    yajl_gen_array_close(json);
    json_key(json, "error");
    json_string(json, row->why[0] ? row->why : NULL);
    if (live->running)
        json_live(json, live, row);
    yajl_gen_map_close(json);
}

static bool print_json(const struct live *live, const struct row *rows, size_t n)
{
    yajl_gen json = json_begin();
    if (!json)
        return false;
    yajl_gen_array_open(json);
    for (size_t i = 0; i < n; i++)
        json_row(json, live, &rows[i]);
    yajl_gen_array_close(json);
    json_end(json);
    return true;
}

/* ---- the host --------------------------------------------------------------------------------------------------- */

static void print_breakers(const struct live *live)
{
    yajl_val *list;
    size_t n = control_list(live->reply.json, "breakers", &list);
    for (size_t i = 0; i < n; i++) {
        const char *llm = control_text(list[i], "llm"), *state = control_text(list[i], "state");
        double until = control_number(list[i], "until", 0) / 1000 - (double)time(NULL);
        llm = llm ? llm : "?"; /* callers make these names up */
        printf("breaker of ");
        text_print(stdout, llm, strlen(llm));
        printf(": %s", state && strcmp(state, "open") == 0 ? "open" : "half open");
        if (until > 0)
            printf(" for %.0f s more", until);
        printf(" (worker %.0f)\n", control_number(list[i], "worker", 0));
    }
}

static void print_host(const struct live *live)
{
    yajl_val all = live->reply.json;
    const char *listen = control_text(all, "listen"), *problem = control_text(all, "reloadProblem");
    double seconds = (double)time(NULL) - control_number(all, "started", 0) / 1000;
    if (!live->running) {
        printf("\n%s: %s; they were asked directly\n",
               live->unknown ? "whether 'deputy serve' runs is not known" : "not running", live->reply.problem);
        return;
    }
    printf("\nrunning: pid %.0f, listening on %s, for %.0f s, %.0f requests in flight, %.0f streams\n",
           control_number(all, "pid", 0), listen ? listen : "?", seconds > 0 ? seconds : 0,
           control_number(all, "inFlight", 0), control_number(all, "streams", 0));
    if (problem)
        printf("the last reload changed nothing: %s\n", problem);
    print_breakers(live);
    yajl_val *list;
    size_t n = control_list(all, "providers", &list);
    for (size_t i = 0; i < n; i++)
        live_server_print(list[i]);
}

static void ask_host(const struct options *options, const struct config *config, struct live *live)
{
    enum control_result result = control_ask(config, "GET", "/providers?output", LIVE_MS, &live->reply);
    const char *theirs = control_text(live->reply.json, "config");
    live->unknown = result == CONTROL_NO_SOCKET;
    live->running = result == CONTROL_ANSWERED && live->reply.status == 200 && control_is_same(config, &live->reply);
    if (result == CONTROL_ANSWERED && !live->running)
        snprintf(live->reply.problem, sizeof(live->reply.problem),
                 "the host at %.128s serves another configuration, %.256s", config->gateway.control,
                 theirs ? theirs : "which it does not name");
    if (!live->running && options->verbose)
        complain(options->command, "%s", live->reply.problem);
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int show(const struct options *options, const struct live *live, struct row *rows, size_t n)
{
    bool ok = options->json ? print_json(live, rows, n) : print_table(rows, n);
    if (ok && !options->json)
        print_host(live);
    for (size_t i = 0; i < n; i++)
        text_free(&rows[i].models);
    free(rows);
    return ok ? STATUS_OK : complain(options->command, "out of memory");
}

static int list_directly(const struct options *options, const struct live *live)
{
    struct host host;
    int status = host_open(options, &host);
    size_t n = host.config.n_providers;
    struct row *rows = status == STATUS_OK ? calloc(n + 1, sizeof(*rows)) : NULL;
    for (size_t i = 0; rows && i < n; i++)
        look_at(&host, &host.config.providers[i], &rows[i]);
    if (status == STATUS_OK)
        status = rows ? show(options, live, rows, n) : complain(options->command, "out of memory");
    host_close(&host);
    return status;
}

static int list_live(const struct options *options, const struct config *config, const struct live *live)
{
    size_t n = config->n_providers;
    struct row *rows = calloc(n + 1, sizeof(*rows));
    if (!rows)
        return complain(options->command, "out of memory");
    for (size_t i = 0; i < n; i++) {
        take_live(live, &config->providers[i], &rows[i]);
        if (rows[i].why[0] && options->verbose)
            complain(options->command, "'%s': %s", rows[i].provider->name, rows[i].why);
    }
    return show(options, live, rows, n);
}

static int list(const struct options *options)
{
    struct config config;
    struct live live = {.running = false};
    int status = config_load(options, stderr, NULL, &config);
    if (status == STATUS_OK) {
        ask_host(options, &config, &live);
        status = live.running ? list_live(options, &config, &live) : list_directly(options, &live);
        control_free(&live.reply);
    }
    config_free(&config);
    return status;
}

/* What is in the configuration is said as everywhere else; the rest is in lua/deputy/commands.lua. */
static int print_commands(const struct options *options)
{
    char name[] = "commands", json[] = "--json";
    struct config config;
    int status = config_load(options, stderr, NULL, &config);
    char *arguments[] = {name, config.file, json};
    if (status == STATUS_OK)
        status = lua_main(options->command, "deputy.commands", options->json ? 3 : 2, arguments, NULL);
    config_free(&config);
    return status;
}

static int unknown_verb(const struct command *command, const char *word)
{
    static const char *const verbs[] = {"discover", "start", "stop", "restart"};
    const char *near = nearest(word, verbs, sizeof(verbs) / sizeof(verbs[0]));
    if (near)
        return usage_error(command, "unknown operand '%.64s': did you mean '%s'?", word, near);
    return usage_error(command, "unknown operand '%.64s': expected discover, start, stop or restart", word);
}

static int run(const struct options *options)
{
    const char *verb = options->n_operands > 0 ? options->operands[0] : "";
    if (options->commands && verb[0])
        return usage_error(options->command, "--commands goes without '%.64s'", verb);
    if ((options->ports || options->llm) && strcmp(verb, "discover") != 0)
        return usage_error(options->command, "--ports and --for go with 'discover'");
    if (verb[0] && strcmp(verb, "discover") != 0 && !operate_knows(verb))
        return unknown_verb(options->command, verb);
    if (options->n_operands > 1 && !operate_knows(verb))
        return usage_error(options->command, "unexpected argument '%.64s'", options->operands[1]);
    if (strcmp(verb, "discover") == 0)
        return discover_run(options);
    if (options->commands)
        return print_commands(options);
    if (operate_knows(verb) && options->n_operands < 2)
        return usage_error(options->command, "expected '%s NAME'", verb);
    if (operate_knows(verb))
        return operate_run(options, verb, options->operands[1]);
    return list(options);
}

const struct command providers_command = {
    .name = "providers",
    .summary = "list the local providers and whether they are available",
    .operands = "[discover | start NAME | stop NAME | restart NAME]",
    .n_operands = 2,
    .n_optional = 2,
    .accepts = OPTION_CONFIG | OPTION_JSON | OPTION_VERBOSE | OPTION_COMMANDS | OPTION_PORTS | OPTION_FOR,
    .about =
        "Lists the configured providers in their order: type, the LLMs that each may stand in for, whether it is\n"
        "available now (each is given 2 seconds), and the models that it names. -v says why one is not. When\n"
        "'deputy serve' runs with this configuration it is asked (gateway.control), and tells of its breakers too.\n"
        "--commands prints what would be started for each provider whose server deputy starts itself, as a line for\n"
        "a shell, with [key] in place of secrets and {port} for a port that is picked at each start.\n"
        "\n"
        "For a provider whose server deputy starts itself the running host also tells state, process, memory and the\n"
        "last lines of its output. 'start', 'stop' and 'restart' ask that host for it; a stopped one is started again\n"
        "by the next caller who needs it.\n"
        "\n"
        "'discover' looks on this machine for model servers that already run, says on stderr what each is, and\n"
        "prints configuration for them. It needs no configuration itself.\n",
    .exits = "  0  listed, whether available or not; or asked for\n"
             "  1  the configuration is not usable; or the host refused, or there is none\n  2  wrong arguments\n",
    .example = "deputy providers --json",
    .run = run,
};
