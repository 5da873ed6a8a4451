// SPDX-License-Identifier: Apache-2.0
// What the socket guests share: whole writes, file-descriptor flags, sockets by the name Enarx gave them.
// Calls go straight to WASI preview 1, so that a test sees the errno of the runtime and not libc's view of it.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

#define FIRST_SOCKET 3

// Ends the guest with status 1 and one line on stderr.
static inline void fail(const char *what, int errno_wasi) {
  fprintf(stderr, "%s: errno %d\n", what, errno_wasi);
  exit(1);
}

static inline void set_nonblocking(__wasi_fd_t fd, bool on) {
  __wasi_fdstat_t stat;
  __wasi_errno_t e = __wasi_fd_fdstat_get(fd, &stat);
  if (e) fail("fd_fdstat_get", e);
  __wasi_fdflags_t flags = stat.fs_flags & ~__WASI_FDFLAGS_NONBLOCK;
  e = __wasi_fd_fdstat_set_flags(fd, on ? flags | __WASI_FDFLAGS_NONBLOCK : flags);
  if (e) fail("fd_fdstat_set_flags", e);
}

// Writes everything, trying again while the socket is full.
static inline void write_all(__wasi_fd_t fd, const uint8_t *data, size_t size) {
  while (size) {
    __wasi_ciovec_t v = {data, size};
    __wasi_size_t n = 0;
    __wasi_errno_t e = __wasi_fd_write(fd, &v, 1, &n);
    if (e == __WASI_ERRNO_AGAIN) continue;
    if (e) fail("fd_write", e);
    data += n;
    size -= n;
  }
}

// The fd whose FD_NAMES entry is `name`, or FIRST_SOCKET where nothing is called that.
static inline __wasi_fd_t fd_named(const char *name) {
  const char *names = getenv("FD_NAMES");
  for (__wasi_fd_t fd = 0; names; fd++) {
    size_t n = strcspn(names, ":");
    if (n == strlen(name) && !memcmp(names, name, n)) return fd;
    names = names[n] ? names + n + 1 : NULL;
  }
  return FIRST_SOCKET;
}

static inline void expect_files(const char *count, const char *names) {
  const char *c = getenv("FD_COUNT"), *n = getenv("FD_NAMES");
  if (!c || strcmp(c, count)) fail("FD_COUNT", 0);
  if (!n || strcmp(n, names)) fail("FD_NAMES", 0);
}

// Reads one "test\n", byte by byte, spinning on EAGAIN, and echoes it.
static inline void echo_test_line(__wasi_fd_t fd) {
  static const uint8_t want[5] = "test\n";
  for (size_t i = 0; i < sizeof want;) {
    uint8_t got;
    __wasi_iovec_t v = {&got, 1};
    __wasi_size_t n = 0;
    __wasi_errno_t e = __wasi_fd_read(fd, &v, 1, &n);
    if (e == __WASI_ERRNO_AGAIN) continue;
    if (e) fail("fd_read", e);
    if (n != 1 || got != want[i]) fail("line", (int)i);
    i++;
  }
  write_all(fd, want, sizeof want);
}

// Three lines over one stream: as it came, then blocking, then non-blocking.
static inline void echo_three_lines(__wasi_fd_t fd) {
  echo_test_line(fd);
  set_nonblocking(fd, false);
  echo_test_line(fd);
  set_nonblocking(fd, true);
  echo_test_line(fd);
}
