#include "policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCRIPT_MAX = 1 << 20 };

/* The engine says by itself what is wrong with one that is too long. */
static int read_script(struct config *config, deputy_error *error)
{
    FILE *file = fopen(config->script, "rb");
    char *text = file ? malloc(SCRIPT_MAX + 1) : NULL;
    size_t len = text ? fread(text, 1, SCRIPT_MAX + 1, file) : 0;
    bool failed = !text || ferror(file);
    if (failed) {
        error->code = file && !text ? DEPUTY_ENOMEM : DEPUTY_EIO;
        snprintf(error->message, sizeof(error->message), "cannot read the policy %.400s: %s", config->script,
                 strerror(errno));
        free(text);
    }
    if (file)
        fclose(file);
    if (failed)
        return error->code;
    config->policy_text = text;
    config->policy_len = len;
    return DEPUTY_OK;
}

static void keep_warning(void *user, deputy_log_level level, const char *text)
{
    struct config *config = user;
    if (level <= DEPUTY_LOG_WARN)
        snprintf(config->policy_warning, sizeof(config->policy_warning), "%s", text);
}

int policy_prepare(struct config *config, deputy_error *error)
{
    deputy_options options = config->options;
    deputy_engine *engine = NULL;
    deputy_error why = {0, ""};
    options.loop = NULL;
    options.on_log = keep_warning;
    options.log_user = config;
    int code = deputy_engine_new(&options, &engine, &why);
    if (code != DEPUTY_OK) {
        snprintf(error->message, sizeof(error->message), "%.200s: %.300s", config->file, why.message);
        return error->code = code;
    }
    code = read_script(config, error);
    if (code == DEPUTY_OK)
        code = deputy_load_policy_text(engine, config->script, config->policy_text, config->policy_len, error);
    deputy_engine_free(engine);
    config->options.verify = DEPUTY_VERIFY_OFF; /* it has been done, once for all engines */
    return code;
}
