// SPDX-License-Identifier: Apache-2.0
// Polls stdin with a time limit of argv[1] seconds (default 1) until it ends: prints "timeout", "data N" or "end".
// Stops at the first timeout with status 5.
#include "guest.h"

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1;
  setvbuf(stdout, NULL, _IONBF, 0);
  for (;;) {
    __wasi_subscription_t subs[2] = {{.userdata = 1}, {.userdata = 2}};
    subs[0].u.tag = __WASI_EVENTTYPE_FD_READ;
    subs[0].u.u.fd_read.file_descriptor = 0;
    subs[1].u.tag = __WASI_EVENTTYPE_CLOCK;
    subs[1].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
    subs[1].u.u.clock.timeout = (__wasi_timestamp_t)(seconds * 1e9);
    __wasi_event_t events[2];
    __wasi_size_t n = 0;
    __wasi_errno_t e = __wasi_poll_oneoff(subs, events, 2, &n);
    if (e) fail("poll_oneoff", e);
    bool readable = false;
    for (__wasi_size_t i = 0; i < n; i++) {
      if (events[i].error) fail("event", events[i].error);
      readable |= events[i].userdata == 1;
    }
    if (!readable) {
      puts("timeout");
      return 5;
    }
    uint8_t buffer[4096];
    __wasi_iovec_t v = {buffer, sizeof buffer};
    __wasi_size_t got = 0;
    e = __wasi_fd_read(0, &v, 1, &got);
    if (e) fail("fd_read", e);
    if (!got) {
      puts("end");
      return 0;
    }
    printf("data %u\n", (unsigned)got);
  }
}
