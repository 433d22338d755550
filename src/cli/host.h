/* cli/host.h - an engine as the configuration wants it: policy loaded, providers registered. */
#ifndef CLI_HOST_H
#define CLI_HOST_H

#include "config.h"
#include "deputy.h"
#include "managed.h"
#include "options.h"
#include "progress.h"

struct host {
    const struct options *options;
    struct config config;
    struct progress progress;
    struct managed_pool pool;
    struct managed_set *managed;
    deputy_engine *engine;
};

/* An engine as config wants it, but with these options: policy loaded, providers registered; managed is what was taken
 * for this configuration. A deputy_code; on failure error says why, and *engine may be set all the same: it is the
 * caller's to free. Any thread. */
int host_make_engine(const struct config *config, const struct managed_set *managed, const deputy_options *options,
                     deputy_engine **engine, deputy_error *error);

/* For a command that asks once: a managed provider's server is started when it is needed, and stopped by host_close.
 * STATUS_OK; otherwise everything is said on stderr. host_close in every case. The host must stay where it is. */
int host_open(const struct options *options, struct host *host);
void host_close(struct host *host);

/* Takes control bytes and the configured token out of what others wrote, for a terminal. out is ended by NUL. */
void host_clean(const struct host *host, const char *text, size_t len, char *out, size_t size);

#endif
