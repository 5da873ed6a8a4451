// SPDX-License-Identifier: Apache-2.0
// Sleeps argv[1] seconds (default 60) in one poll_oneoff, then prints "awake".
#include "guest.h"

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 60;
  __wasi_subscription_t clock = {.userdata = 7, .u.tag = __WASI_EVENTTYPE_CLOCK};
  clock.u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
  clock.u.u.clock.timeout = (__wasi_timestamp_t)(seconds * 1e9);
  __wasi_event_t event;
  __wasi_size_t n = 0;
  __wasi_errno_t e = __wasi_poll_oneoff(&clock, &event, 1, &n);
  if (e) fail("poll_oneoff", e);
  if (n != 1 || event.userdata != 7 || event.error) fail("event", event.error);
  puts("awake");
  return 0;
}
