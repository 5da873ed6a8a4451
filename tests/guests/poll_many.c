// SPDX-License-Identifier: Apache-2.0
// One poll_oneoff with argv[1] subscriptions: a clock that fires at once, then reads on the fds argv[2..] in turn
// (default 1000000, which is nothing's). Prints "errno events", then "userdata error type" for the first 8 events.
#include "guest.h"

int main(int argc, char **argv) {
  size_t count = argc > 1 ? strtoul(argv[1], NULL, 0) : 1;
  __wasi_subscription_t *subs = calloc(count + 1, sizeof *subs);
  __wasi_event_t *events = calloc(count + 1, sizeof *events);
  if (!subs || !events) return 3;
  for (size_t i = 0; i < count; i++) {
    subs[i].userdata = i;
    if (i == 0) {
      subs[i].u.tag = __WASI_EVENTTYPE_CLOCK;
      subs[i].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
    } else {
      subs[i].u.tag = __WASI_EVENTTYPE_FD_READ;
      const char *fd = argc > 2 ? argv[2 + (i - 1) % (size_t)(argc - 2)] : "1000000";
      subs[i].u.u.fd_read.file_descriptor = (__wasi_fd_t)strtoul(fd, NULL, 0);
    }
  }
  __wasi_size_t n = 0;
  __wasi_errno_t e = __wasi_poll_oneoff(subs, events, count, &n);
  printf("%u %u\n", (unsigned)e, (unsigned)n);
  for (size_t i = 0; !e && i < n && i < 8; i++) {
    printf("%llu %u %u\n", events[i].userdata, (unsigned)events[i].error, (unsigned)events[i].type);
  }
  return 0;
}
