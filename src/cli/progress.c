#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void progress_init(struct progress *progress)
{
    const char *term = getenv("TERM");
    progress->on = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    progress->shown = false;
}

/* A line that wraps cannot be taken back. */
static size_t fit(const char *line, size_t len)
{
    struct winsize window;
    size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1u : 79;
    if (len <= columns)
        return len;
    while (columns > 0 && ((unsigned char)line[columns] & 0xc0) == 0x80)
        columns--; /* not in the middle of a character */
    return columns;
}

/* n: what snprintf said of line. */
static void show(struct progress *progress, const char *line, size_t size, int n)
{
    if (n < 0)
        return;
    size_t len = (size_t)n < size ? (size_t)n : size - 1;
    fprintf(stderr, "\r%.*s\x1b[K", (int)fit(line, len), line);
    progress->shown = true;
}

void progress_show(struct progress *progress, const deputy_trace *leg, const char *llm, uint64_t now_us)
{
    char line[256];
    if (!progress->on)
        return;
    uint64_t ms = now_us > leg->start_us ? (now_us - leg->start_us) / 1000 : 0;
    show(progress, line, sizeof(line),
         snprintf(line, sizeof(line), "%s %s %llu.%llu s", deputy_leg_name(leg->leg),
                  leg->provider ? leg->provider : llm, (unsigned long long)(ms / 1000),
                  (unsigned long long)(ms / 100 % 10)));
}

void progress_show_server(struct progress *progress, const char *state, const char *provider, uint64_t ms,
                          const char *last_line)
{
    char line[512];
    if (!progress->on)
        return;
    show(progress, line, sizeof(line),
         snprintf(line, sizeof(line), "%s %s %llu.%llu s%s%s", state, provider, (unsigned long long)(ms / 1000),
                  (unsigned long long)(ms / 100 % 10), last_line[0] ? ": " : "", last_line));
}

void progress_clear(struct progress *progress)
{
    if (progress->shown)
        fputs("\r\x1b[K", stderr);
    progress->shown = false;
}
