// SPDX-License-Identifier: Apache-2.0
// wasi:http/incoming-handler that answers 200 "Hello, Enarx!\n". The benchmark's component: nothing that is not needed.
#include "http.h"

HANDLE {
  heap_reset(0);
  own stream;
  own body = respond(response_out, fields_new(), &stream);
  write_text(stream, "Hello, Enarx!\n");
  finish(body, stream);
  request_drop(request);
}
