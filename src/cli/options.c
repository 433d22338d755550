#include "options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_WORD = 32, MAX_TIMEOUT_MS = 86400000, MAX_DEPTH = 6, N_OPTIONS = 13 };

static const struct {
    unsigned bit; /* 0: every command has it */
    char letter;  /* 0: none */
    const char *name, *argument, *text;
} known_options[N_OPTIONS] = {
    {OPTION_CONFIG, 'c', "config", "FILE",
     "the configuration (default: deputy.json, then ~/.config/deputy/deputy.json)"},
    {OPTION_LISTEN, 0, "listen", "ADDRESS", "HOST:PORT or unix:PATH, instead of gateway.listen"},
    {OPTION_STREAM, 0, "stream", NULL, "print the answer as it comes"},
    {OPTION_SYSTEM, 0, "system", "TEXT", "a system message before the prompt"},
    {OPTION_TIMEOUT, 0, "timeout-ms", "N", "give up after N milliseconds"},
    {OPTION_DEPTH, 0, "depth", "N", "how many requests in a row to look at (default: 3)"},
    {OPTION_COMMANDS, 0, "commands", NULL, "print what would be started, and start nothing"},
    {OPTION_PORTS, 0, "ports", "N,N", "where to look, instead of the usual ports"},
    {OPTION_FOR, 0, "for", "LLM", "the LLM that what is found shall stand in for"},
    {OPTION_JSON, 0, "json", NULL, "print one JSON value"},
    {OPTION_MARKDOWN, 0, "markdown", NULL, "print Markdown"},
    {OPTION_VERBOSE, 'v', "verbose", NULL, "say more on stderr"},
    {0, 'h', "help", NULL, "print this"},
};

/* ---- the nearest word ------------------------------------------------------------------------------------------- */

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static unsigned distance(const char *a, const char *b)
{
    unsigned row[MAX_WORD + 1], n = (unsigned)strlen(b);
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 0; a[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = i + 1;
        for (unsigned j = 0; j < n; j++) {
            unsigned change = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = least(change, least(row[j], row[j + 1]) + 1);
        }
    }
    return row[n];
}

const char *nearest(const char *word, const char *const *known, size_t n)
{
    const char *best = NULL;
    unsigned shortest = 3;
    if (strlen(word) > MAX_WORD)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned d = strlen(known[i]) <= MAX_WORD ? distance(word, known[i]) : shortest;
        if (d < shortest && d < strlen(known[i])) {
            best = known[i];
            shortest = d;
        }
    }
    return best;
}

/* ---- what is said ----------------------------------------------------------------------------------------------- */

static void say(const struct command *command, const char *format, va_list arguments)
{
    fprintf(stderr, "deputy %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int complain(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
    return STATUS_FAILED;
}

int usage_error(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try 'deputy %s --help'.\n", command->name);
    return STATUS_USAGE;
}

static bool accepts(const struct command *command, size_t i)
{
    return known_options[i].bit == 0 || (command->accepts & known_options[i].bit);
}

static void print_help(const struct command *command)
{
    printf("usage: deputy %s [OPTION]...%s%s\n\n%s\noptions:\n", command->name, command->operands[0] ? " " : "",
           command->operands, command->about);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char left[32];
        const char *argument = known_options[i].argument;
        if (!accepts(command, i))
            continue;
        snprintf(left, sizeof(left), "--%s%s%s", known_options[i].name, argument ? " " : "", argument ? argument : "");
        if (known_options[i].letter)
            printf("  -%c, %-16s  %s\n", known_options[i].letter, left, known_options[i].text);
        else
            printf("      %-16s  %s\n", left, known_options[i].text);
    }
    printf("\nexit codes:\n%s\nexample:\n  %s\n", command->exits, command->example);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static int unknown_option(const struct command *command, const char *text, int letter)
{
    const char *names[N_OPTIONS];
    size_t n = 0;
    char word[MAX_WORD + 1];
    if (letter)
        return usage_error(command, "unknown option '-%c'", letter);
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (accepts(command, i))
            names[n++] = known_options[i].name;
    snprintf(word, sizeof(word), "%.*s", (int)strcspn(text + 2, "="), text + 2);
    const char *near = nearest(word, names, n);
    if (near)
        return usage_error(command, "unknown option '--%s': did you mean '--%s'?", word, near);
    return usage_error(command, "unknown option '--%s'", word);
}

static int read_number(const struct command *command, const char *name, const char *text, long max, uint32_t *number)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 1 || value > max)
        return usage_error(command, "--%s: expected a whole number from 1 to %ld, got '%s'", name, max, text);
    *number = (uint32_t)value;
    return -1;
}

static int take(const struct command *command, size_t i, struct options *options)
{
    switch (known_options[i].bit) {
    case OPTION_CONFIG:
        options->config = optarg;
        return -1;
    case OPTION_JSON:
        options->json = true;
        return -1;
    case OPTION_STREAM:
        options->stream = true;
        return -1;
    case OPTION_SYSTEM:
        options->system = optarg;
        return -1;
    case OPTION_LISTEN:
        options->listen = optarg;
        return -1;
    case OPTION_COMMANDS:
        options->commands = true;
        return -1;
    case OPTION_PORTS:
        options->ports = optarg;
        return -1;
    case OPTION_FOR:
        options->llm = optarg;
        return -1;
    case OPTION_TIMEOUT:
        return read_number(command, "timeout-ms", optarg, MAX_TIMEOUT_MS, &options->timeout_ms);
    case OPTION_DEPTH:
        return read_number(command, "depth", optarg, MAX_DEPTH, &options->depth);
    case OPTION_MARKDOWN:
        options->markdown = true;
        return -1;
    case OPTION_VERBOSE:
        options->verbose = true;
        return -1;
    default:
        print_help(command);
        return STATUS_OK;
    }
}

static int read_operands(const struct command *command, int n, char **operands, struct options *options)
{
    if (n < command->n_operands - command->n_optional)
        return usage_error(command, "expected %s", command->operands);
    if (n > command->n_operands)
        return usage_error(command, "unexpected argument '%.64s'%s", operands[command->n_operands],
                           command->n_operands                  ? ": put what has spaces in quotes"
                           : (command->accepts & OPTION_CONFIG) ? ": a configuration is named with -c FILE"
                                                                : "");
    options->operands = operands;
    options->n_operands = n;
    return -1;
}

int options_read(const struct command *command, int argc, char **argv, struct options *options)
{
    struct option longs[N_OPTIONS + 1] = {{NULL, 0, NULL, 0}};
    char letters[2 * N_OPTIONS + 2] = ":";
    size_t n = 0, length = 1;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (!accepts(command, i))
            continue;
        longs[n++] = (struct option){known_options[i].name, known_options[i].argument ? required_argument : no_argument,
                                     NULL, 256 + (int)i};
        if (known_options[i].letter) {
            letters[length++] = known_options[i].letter;
            if (known_options[i].argument)
                letters[length++] = ':';
        }
    }
    letters[length] = '\0';
    *options = (struct options){.command = command};
    opterr = 0;
    optind = 1;
    for (int found; (found = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
        int status = -1;
        if (found == ':')
            return usage_error(command, "option '%s' needs a value", argv[optind - 1]);
        if (found == '?' && optopt >= 256)
            return usage_error(command, "option '--%s' takes no value", known_options[optopt - 256].name);
        if (found == '?')
            return unknown_option(command, argv[optind - 1], optopt);
        for (size_t i = 0; i < N_OPTIONS; i++)
            if (found == 256 + (int)i || found == known_options[i].letter)
                status = take(command, i, options);
        if (status >= 0)
            return status;
    }
    return read_operands(command, argc - optind, argv + optind, options);
}
