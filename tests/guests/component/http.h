// SPDX-License-Identifier: Apache-2.0
// What the wasi:http components share. An error-code is 32 bytes aligned to 8, so results that may hold one begin their
// payload at 8, and flat it is seven values.
#pragma once

#include "component.h"

#define HTTP "wasi:http/types@0.2.0"
#define HANDLE                                                  \
  EXPORT("wasi:http/incoming-handler@0.2.0#handle") \
  void handle(own request, own response_out)

// result<own, error-code>, result<_, error-code>
typedef struct {
  _Alignas(8) uint8_t tag;
  union {
    _Alignas(8) own handle;
    uint8_t code;
    uint8_t room[32];
  };
} http_result;

IMPORT(HTTP, "[constructor]fields") own fields_new(void);
IMPORT(HTTP, "[constructor]outgoing-response") own response_new(own headers);
IMPORT(HTTP, "[method]outgoing-response.body") void response_body(own self, result3 *out);
IMPORT(HTTP, "[method]outgoing-body.write") void body_write(own self, result3 *out);
IMPORT(HTTP, "[static]outgoing-body.finish") void body_finish(own self, int32_t some, own trailers, http_result *out);
IMPORT(HTTP, "[static]response-outparam.set")
void outparam_set(own self, int32_t tag, own response, int32_t a, int64_t b, int32_t c, int32_t d, int32_t e, int32_t f);
IMPORT(HTTP, "[method]incoming-body.stream") void incoming_body_stream(own self, result3 *out);
IMPORT(HTTP, "[resource-drop]incoming-body") void incoming_body_drop(own self);
IMPORT(HTTP, "[resource-drop]incoming-request") void request_drop(own self);

// Begins a 200 response with these headers and returns its body; the body's stream comes back in `stream`.
static inline own respond(own response_out, own headers, own *stream) {
  own response = response_new(headers);
  result3 body, out;
  response_body(response, &body);
  if (body.tag) __builtin_trap();
  outparam_set(response_out, 0, response, 0, 0, 0, 0, 0, 0);
  body_write(body.handle, &out);
  if (out.tag) __builtin_trap();
  *stream = out.handle;
  return body.handle;
}

static inline void finish(own body, own stream) {
  http_result done;
  output_drop(stream);
  body_finish(body, 0, 0, &done);
}
