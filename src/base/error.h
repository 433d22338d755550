/* base/error.h - filling a deputy_error, and the words for every code. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "deputy.h"

#if defined(__GNUC__)
#define ERROR_PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define ERROR_PRINTF(a, b)
#endif

/* Writes code and sentence (cut at the end of the field, never inside a UTF-8 character; control bytes become spaces)
 * and returns code, so that `return error_set(...)` reads well. error may be NULL. */
int error_set(deputy_error *error, int code, const char *format, ...) ERROR_PRINTF(3, 4);

/* The same for a failure; code may be NULL for none, retry_after_ms becomes -1. failure may be NULL. */
void failure_set(deputy_failure *failure, deputy_failure_kind kind, int status, const char *code, const char *format,
                 ...) ERROR_PRINTF(5, 6);

#endif
