#include "managed/settings.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The path if there is a program: beside `file` (which is cut at its last slash), under `below`. */
static char *look_beside(char *file, const char *below)
{
    char path[PATH_MAX];
    char *slash = strrchr(file, '/');
    if (!slash)
        return NULL;
    int len = snprintf(path, sizeof(path), "%.*s/%sdeputy-supervisor", (int)(slash - file), file, below);
    return len > 0 && (size_t)len < sizeof(path) && access(path, X_OK) == 0 ? strdup(path) : NULL;
}

char *settings_find_supervisor(void)
{
    static const char *const installed = DEPUTY_LIBEXEC "/deputy-supervisor";
    char file[PATH_MAX];
    char *found = NULL;
    Dl_info library;
    ssize_t len = readlink("/proc/self/exe", file, sizeof(file) - 1);
    if (len > 0) {
        file[len] = '\0';
        found = look_beside(file, "");
        if (!found)
            found = look_beside(file, "../lib/deputy/");
    }
    if (!found && dladdr((const void *)installed, &library) && library.dli_fname) {
        snprintf(file, sizeof(file), "%s", library.dli_fname);
        found = look_beside(file, "");
        if (!found)
            found = look_beside(file, "deputy/");
    }
    if (!found && access(installed, X_OK) == 0)
        found = strdup(installed);
    return found;
}
