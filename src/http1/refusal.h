/* http1/refusal.h - why a request is refused before a handler sees it. */
#ifndef HTTP1_REFUSAL_H
#define HTTP1_REFUSAL_H

/* name, status, code and sentence of the reply's body */
#define REFUSALS(X)                                                                                                    \
    X(REQUEST_LINE, 400, "bad_request_line", "The request line is not: method, space, target, space, version.")        \
    X(LINE_END, 400, "bad_line_end",                                                                                   \
      "Each line of the head must end with CR LF; one has a CR or LF that stands alone.")                              \
    X(FOLDED, 400, "folded_header", "A header goes on in a second line; it must stand in one.")                        \
    X(NAME, 400, "bad_header_name", "A header's name must be a token with a colon right behind it.")                   \
    X(VALUE, 400, "bad_header_value", "A header's value holds a control byte.")                                        \
    X(HEAD, 400, "bad_head", "The head of the request is malformed.")                                                  \
    X(HOST, 400, "bad_host", "The request must have exactly one Host header, and a valid one.")                        \
    X(LENGTH, 400, "bad_content_length", "Content-Length must come once, in decimal digits.")                          \
    X(CODING, 400, "bad_transfer_encoding", "Transfer-Encoding must be exactly one `chunked`.")                        \
    X(TWO_LENGTHS, 400, "two_lengths", "Content-Length and Transfer-Encoding must not come together.")                 \
    X(CHUNK, 400, "bad_chunk", "The chunked body is malformed.")                                                       \
    X(SILENCE, 408, "request_timeout", "The request did not come in time.")                                            \
    X(BODY, 413, "body_too_large", "The body is larger than this server takes.")                                       \
    X(EXPECTATION, 417, "expectation_failed", "The only expectation known here is 100-continue.")                      \
    X(HEADER_BYTES, 431, "headers_too_large", "The head has more bytes than this server takes.")                       \
    X(HEADER_COUNT, 431, "too_many_headers", "The head has more headers than this server takes.")                      \
    X(TRAILERS, 431, "trailers_too_large", "The trailers have more bytes than this server takes.")                     \
    X(METHOD, 501, "unknown_method", "This server does not know the method.")                                          \
    X(MEMORY, 503, "out_of_memory", "This server is out of memory; try again later.")                                  \
    X(BUFFERS, 503, "over_capacity", "This server holds as much of requests as it may; try again later.")              \
    X(CONNECTIONS, 503, "too_many_connections", "This server has too many connections; try again later.")              \
    X(VERSION, 505, "http_version", "This server speaks HTTP/1.1 and HTTP/1.0.")

#define REFUSAL_NAME(name, status, code, sentence) REFUSAL_##name,
enum refusal { REFUSAL_NONE, REFUSALS(REFUSAL_NAME) REFUSAL_COUNT };
#undef REFUSAL_NAME

#endif
