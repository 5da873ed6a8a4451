// SPDX-License-Identifier: Apache-2.0
// SCHEME AUTHORITY PATH, its last three arguments (scheme http or https): makes one GET and prints the status, a line feed and
// the body. Prints "error N" (an error-code of wasi:http) and fails where there is no response.
#include "http.h"

// option<result<result<incoming-response, error-code>>>
typedef struct {
  _Alignas(8) uint8_t some;
  _Alignas(8) uint8_t taken;
  http_result response;
} future_result;

IMPORT(HTTP, "[constructor]outgoing-request") own request_new(own headers);
IMPORT(HTTP, "[method]outgoing-request.set-scheme")
int32_t request_set_scheme(own self, int32_t some, int32_t tag, uint8_t *other, uint32_t size);
IMPORT(HTTP, "[method]outgoing-request.set-authority")
int32_t request_set_authority(own self, int32_t some, uint8_t *authority, uint32_t size);
IMPORT(HTTP, "[method]outgoing-request.set-path-with-query")
int32_t request_set_path(own self, int32_t some, uint8_t *path, uint32_t size);
IMPORT("wasi:http/outgoing-handler@0.2.0", "handle")
void outgoing_handle(own request, int32_t some, own options, http_result *out);
IMPORT(HTTP, "[method]future-incoming-response.subscribe") own future_subscribe(own self);
IMPORT(HTTP, "[method]future-incoming-response.get") void future_get(own self, future_result *out);
IMPORT(HTTP, "[method]incoming-response.status") int32_t response_status(own self);
IMPORT(HTTP, "[method]incoming-response.consume") void response_consume(own self, result3 *out);

static int32_t failed(uint32_t code) {
  own out = get_stdout();
  write_text(out, "error ");
  write_number(out, code);
  write_text(out, "\n");
  return RUN_ERROR;
}

RUN {
  texts args;
  get_arguments(&args);
  if (args.count < 3) return RUN_ERROR;
  text scheme = args.items[args.count - 3], authority = args.items[args.count - 2], path = args.items[args.count - 1];
  own request = request_new(fields_new());
  if (request_set_scheme(request, 1, equal(scheme, "https"), NULL, 0)) return RUN_ERROR;
  if (request_set_authority(request, 1, authority.data, authority.size)) return RUN_ERROR;
  if (request_set_path(request, 1, path.data, path.size)) return RUN_ERROR;

  http_result future;
  outgoing_handle(request, 0, 0, &future);
  if (future.tag) return failed(future.code);
  own ready = future_subscribe(future.handle);
  pollable_block(ready);
  pollable_drop(ready);
  future_result answer;
  future_get(future.handle, &answer);
  if (!answer.some || answer.taken) return RUN_ERROR;
  if (answer.response.tag) return failed(answer.response.code);

  own out = get_stdout();
  write_number(out, (uint32_t)response_status(answer.response.handle));
  write_text(out, "\n");
  result3 body, stream;
  response_consume(answer.response.handle, &body);
  if (body.tag) return RUN_ERROR;
  incoming_body_stream(body.handle, &stream);
  if (stream.tag) return RUN_ERROR;
  return copy(stream.handle, out) ? RUN_OK : RUN_ERROR;
}
