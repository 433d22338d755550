/* Who a run is for, as a name that a script may keep: the same for the same token as long as the engine lives, and no
 * way back to the token. */
#include "core/run.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

bool run_caller(struct run *run, char out[RUN_CALLER_SIZE])
{
    deputy_engine *engine = run->engine;
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (!run->token)
        return false;
    if (!engine->has_caller_key && uv_random(NULL, NULL, engine->caller_key, sizeof(engine->caller_key), 0, NULL) != 0)
        return false;
    engine->has_caller_key = true;
    if (!HMAC(EVP_sha256(), engine->caller_key, sizeof(engine->caller_key), (const unsigned char *)run->token,
              strlen(run->token), mac, &len))
        return false;
    for (size_t i = 0; i < (RUN_CALLER_SIZE - 1) / 2; i++)
        snprintf(out + 2 * i, 3, "%02x", mac[i]);
    return true;
}
