#include "options.h"

#include "deputy.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct command *const commands[] = {
    &serve_command,     &central_command, &ask_command,      &probe_command,   &check_command,
    &providers_command, &verify_command,  &contract_command, &version_command,
};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_commands(FILE *out)
{
    fputs("usage: deputy COMMAND [OPTION]... [ARGUMENT]...\n\n"
          "Calls a central LLM; when the central cannot answer, a local provider stands in for it,\n"
          "but only while the central says that you may still see that LLM.\n\ncommands:\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s  %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n'deputy COMMAND --help' says more about one.\n", out);
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    const char *near = nearest(name, names, N_COMMANDS);
    fprintf(stderr, "deputy: unknown %s '%.64s'", name[0] == '-' ? "option" : "command", name);
    if (near)
        fprintf(stderr, ": did you mean '%s'?", near);
    else if (name[0] == '-')
        fputs(": options stand behind the command", stderr);
    fputs("\nTry 'deputy --help'.\n", stderr);
    return STATUS_USAGE;
}

/* An answer that could not be written is no success. */
static int flush(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    perror("deputy: cannot write to stdout");
    return status == STATUS_OK ? STATUS_FAILED : status;
}

/* In the place of a stream that was closed, a file or a socket of ours would get what is meant for it. What stands
 * there now makes reading and writing fail, as they should. */
static bool hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    struct options options;
    if (!hold_streams())
        return STATUS_FAILED;
    signal(SIGPIPE,
           SIG_IGN); /* libcurl leaves it to the program, and a reader of ours that left is an error like any */
    if (argc < 2) {
        print_commands(stderr);
        return STATUS_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_commands(stdout);
        return flush(STATUS_OK);
    }
    const struct command *command = strcmp(name, "--version") == 0 ? &version_command : find(name);
    if (!command)
        return unknown_command(name);
    if (command->main)
        return flush(command->main(argc - 1, argv + 1));
    int status = options_read(command, argc - 1, argv + 1, &options);
    return flush(status >= 0 ? status : command->run(&options));
}
