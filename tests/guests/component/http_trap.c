// SPDX-License-Identifier: Apache-2.0
// wasi:http/incoming-handler that traps before it has answered.
#include "http.h"

HANDLE {
  (void)response_out;
  request_drop(request);
  __builtin_trap();
}
