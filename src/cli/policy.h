/* cli/policy.h - the policy of a configuration, read and verified once for many engines. */
#ifndef CLI_POLICY_H
#define CLI_POLICY_H

#include "config.h"

/* Reads the script into config, loads it into an engine that is thrown away, and verifies it as the configuration wants
 * it; host_make_engine takes that very text from then on and verifies no more. Takes about 0.1 s. DEPUTY_OK, or a code
 * with error filled. Any thread. */
int policy_prepare(struct config *config, deputy_error *error);

#endif
