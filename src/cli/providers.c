#include "discover.h"
#include "host.h"
#include "json_out.h"
#include "lua_main.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_MS = 2000, MAX_MODELS_BYTES = 1 << 20, COLUMNS = 7 };

static const char *const titles[COLUMNS] = {"NAME", "TYPE", "STANDS IN FOR", "AVAILABLE", "MODEL", "URL", "MODELS"};

struct row {
    const struct provider_config *provider;
    bool available, too_many;
    struct text models; /* each ended by NUL */
    char why[504];      /* why nothing is known about the models, or "" */
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
            if ((unsigned char)cells[c].bytes[i] < 0x20)
                cells[c].bytes[i] = '?';
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

static void json_row(yajl_gen json, const struct row *row)
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
    yajl_gen_map_close(json);
}

static bool print_json(const struct row *rows, size_t n)
{
    yajl_gen json = json_begin();
    if (!json)
        return false;
    yajl_gen_array_open(json);
    for (size_t i = 0; i < n; i++)
        json_row(json, &rows[i]);
    yajl_gen_array_close(json);
    json_end(json);
    return true;
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int show(struct host *host)
{
    size_t n = host->config.n_providers;
    struct row *rows = calloc(n + 1, sizeof(*rows));
    for (size_t i = 0; rows && i < n; i++)
        look_at(host, &host->config.providers[i], &rows[i]);
    bool ok = rows && (host->options->json ? print_json(rows, n) : print_table(rows, n));
    for (size_t i = 0; rows && i < n; i++)
        text_free(&rows[i].models);
    free(rows);
    return ok ? STATUS_OK : complain(host->options->command, "out of memory");
}

static int list(const struct options *options)
{
    struct host host;
    int status = host_open(options, &host);
    if (status == STATUS_OK)
        status = show(&host);
    host_close(&host);
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

static int run(const struct options *options)
{
    const char *verb = options->n_operands > 0 ? options->operands[0] : "";
    if (options->commands && verb[0])
        return usage_error(options->command, "--commands goes without '%.64s'", verb);
    if ((options->ports || options->llm) && strcmp(verb, "discover") != 0)
        return usage_error(options->command, "--ports and --for go with 'discover'");
    if (strcmp(verb, "discover") == 0)
        return discover_run(options);
    if (options->commands)
        return print_commands(options);
    if (verb[0])
        return usage_error(options->command, "unknown operand '%.64s': expected discover", verb);
    return list(options);
}

const struct command providers_command = {
    .name = "providers",
    .summary = "list the local providers and whether they are available",
    .operands = "[discover]",
    .n_operands = 1,
    .n_optional = 1,
    .accepts = OPTION_CONFIG | OPTION_JSON | OPTION_VERBOSE | OPTION_COMMANDS | OPTION_PORTS | OPTION_FOR,
    .about =
        "Lists the configured providers in their order: type, the LLMs that each may stand in for, whether it is\n"
        "available now (each is given 2 seconds), and the models that it names. -v says why one is not.\n"
        "--commands prints what would be started for each provider whose server deputy starts itself, as a line for\n"
        "a shell, with [key] in place of secrets and {port} for a port that is picked at each start.\n"
        "\n"
        "'discover' looks on this machine for model servers that already run, says on stderr what each is, and\n"
        "prints configuration for them. It needs no configuration itself.\n",
    .exits = "  0  listed, whether available or not\n  1  the configuration is not usable\n  2  wrong arguments\n",
    .example = "deputy providers --json",
    .run = run,
};
