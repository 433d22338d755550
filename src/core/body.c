#include "base/error.h"
#include "deputy.h"
#include "net/json_span.h"
#include "net/url.h"

_Static_assert(DEPUTY_NAME_SIZE == URL_NAME_MAX + 1, "a name and its NUL");

int deputy_read_body(const void *body, size_t len, char llm[DEPUTY_NAME_SIZE], deputy_stream *stream,
                     deputy_error *error)
{
    struct json_member members[] = {{.name = "model"}, {.name = "stream"}};
    const struct json_member *model = &members[0], *streams = &members[1];
    size_t offset = 0;
    if (!llm || (len > 0 && !body))
        return error_set(error, DEPUTY_EINVAL, "expected a body and a place for its model, got NULL");
    llm[0] = '\0';
    if (stream)
        *stream = DEPUTY_STREAM_NO;
    if (len == 0)
        return error_set(error, DEPUTY_EINVAL, "the body is empty: expected a JSON object with a \"model\"");
    int code = json_span_find(body, len, members, 2, &offset);
    if (code == DEPUTY_ELIMIT)
        return error_set(error, code, "the body is nested deeper than 512");
    if (code != DEPUTY_OK)
        return error_set(error, code, "the body is not one JSON object: it goes wrong at byte %zu of %zu", offset, len);
    if (model->count > 1)
        return error_set(error, DEPUTY_EINVAL, "the body has \"model\" %u times: it must be there once", model->count);
    if (model->kind == JSON_ABSENT)
        return error_set(error, DEPUTY_ENOTFOUND, "the body has no \"model\": it names the LLM");
    if (model->kind != JSON_STRING)
        return error_set(error, DEPUTY_EINVAL, "the body's \"model\" must be a string: it names the LLM");
    if (json_span_string(body, model->start, model->end, llm, DEPUTY_NAME_SIZE) < 0) {
        llm[0] = '\0';
        return error_set(error, DEPUTY_EINVAL, "the body's \"model\" must be a name of 1 to %d bytes", URL_NAME_MAX);
    }
    code = url_name_check("model", llm, error);
    if (code == DEPUTY_OK && stream && streams->kind == JSON_BOOLEAN && streams->truth)
        *stream = DEPUTY_STREAM_YES;
    return code;
}
