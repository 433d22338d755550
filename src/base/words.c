#include "deputy.h"

const char *deputy_version(void)
{
    return DEPUTY_VERSION;
}

const char *deputy_strerror(int code)
{
    switch (code) {
#define X(name, number, text)                                                                                          \
    case DEPUTY_##name:                                                                                                \
        return text;
        DEPUTY_CODES(X)
#undef X
    default:
        return "unknown code";
    }
}

const char *deputy_verdict_name(deputy_verdict verdict)
{
    switch ((int)verdict) {
    case DEPUTY_UNREACHABLE:
        return "unreachable";
    case DEPUTY_FORBIDDEN:
        return "forbidden";
    case DEPUTY_ALLOWED:
        return "allowed";
    default:
        return "unknown verdict";
    }
}

const char *deputy_failure_name(deputy_failure_kind kind)
{
    switch ((int)kind) {
#define X(name, text)                                                                                                  \
    case DEPUTY_FAILURE_##name:                                                                                        \
        return text;
        DEPUTY_FAILURES(X)
#undef X
    default:
        return "unknown failure";
    }
}

const char *deputy_probe_kind_name(deputy_probe_kind kind)
{
    switch ((int)kind) {
#define X(name, text)                                                                                                  \
    case DEPUTY_PROBE_##name:                                                                                          \
        return text;
        DEPUTY_PROBE_KINDS(X)
#undef X
    default:
        return "unknown probe kind";
    }
}

const char *deputy_leg_name(deputy_leg leg)
{
    switch ((int)leg) {
    case DEPUTY_LEG_PRIMARY:
        return "primary";
    case DEPUTY_LEG_PROBE:
        return "probe";
    case DEPUTY_LEG_LOCAL:
        return "local";
    case DEPUTY_LEG_POLICY:
        return "policy";
    default:
        return "unknown leg";
    }
}
