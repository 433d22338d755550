/* cli/options.h - the subcommands, and how their arguments are read. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What scripts may count on. deputy probe has codes of its own for its verdicts. */
enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_FORBIDDEN = 3, STATUS_UNREACHABLE = 4 };

enum option_bit {
    OPTION_CONFIG = 1 << 0,
    OPTION_JSON = 1 << 1,
    OPTION_STREAM = 1 << 2,
    OPTION_SYSTEM = 1 << 3,
    OPTION_TIMEOUT = 1 << 4,
    OPTION_VERBOSE = 1 << 5,
    OPTION_DEPTH = 1 << 6,
    OPTION_MARKDOWN = 1 << 7,
    OPTION_LISTEN = 1 << 8,
    OPTION_COMMANDS = 1 << 9,
    OPTION_PORTS = 1 << 10,
    OPTION_FOR = 1 << 11,
};

struct command;

struct options {
    const struct command *command;
    const char *config;  /* -c FILE, or NULL */
    const char *system;  /* --system TEXT, or NULL */
    const char *listen;  /* --listen ADDRESS, or NULL */
    const char *ports;   /* --ports N,N, or NULL */
    const char *llm;     /* --for LLM, or NULL */
    uint32_t timeout_ms; /* 0: not given */
    unsigned depth;      /* 0: not given */
    bool json, markdown, stream, verbose, commands;
    char **operands; /* as many as the command has */
    int n_operands;
};

struct command {
    const char *name;
    const char *summary;        /* one line, for `deputy --help` */
    const char *operands;       /* "LLM PROMPT", or "" */
    int n_operands, n_optional; /* these may be left out, from the end */
    unsigned accepts;           /* option_bits */
    const char *about;          /* paragraphs, each line ended */
    const char *exits;          /* lines of its exit codes */
    const char *example;
    int (*run)(const struct options *options); /* its exit code */
    int (*main)(int argc, char **argv); /* instead of all from operands on: reads its arguments by itself. argv[0] is
                                           the name */
};

extern const struct command ask_command, central_command, check_command, contract_command, probe_command,
    providers_command, serve_command, verify_command, version_command;

/* Reads what follows the subcommand's name (argv[0]). Returns -1 to go on; else the exit code, everything being said:
 * help on stdout, a mistake on stderr. */
int options_read(const struct command *command, int argc, char **argv, struct options *options);

/* Says what is wrong with the arguments and where help is, on stderr. Returns STATUS_USAGE. */
int usage_error(const struct command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "deputy NAME: ..." and a line break, on stderr. Returns STATUS_FAILED. */
int complain(const struct command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The word of n that is nearest to this one, or NULL when none is near. */
const char *nearest(const char *word, const char *const *known, size_t n);

#endif
