// SPDX-License-Identifier: Apache-2.0
// What one host call costs: CALLS calls of each kind in a loop, less the same loop without the call, in ns per call.
// The descriptor is argv[1]: on a socket of enarx's every one of these calls ends in Python.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <wasi/api.h>

#define CALLS 1000000

static uint64_t now_ns(void) {
  __wasi_timestamp_t t;
  if (__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 1, &t)) abort();
  return t;
}

static __wasi_errno_t nothing(__wasi_fd_t fd) {
  __asm__ volatile("" : : "r"(fd) : "memory");
  return 0;
}

static __wasi_errno_t fdstat_get(__wasi_fd_t fd) {
  __wasi_fdstat_t stat;
  return __wasi_fd_fdstat_get(fd, &stat);
}

static __wasi_errno_t prestat_get(__wasi_fd_t fd) {
  __wasi_prestat_t stat;
  return __wasi_fd_prestat_get(fd, &stat) == __WASI_ERRNO_FAULT;
}

static uint64_t loop_ns(__wasi_errno_t (*call)(__wasi_fd_t), __wasi_fd_t fd) {
  uint64_t began = now_ns();
  for (int i = 0; i < CALLS; i++) {
    if (call(fd)) abort();
  }
  return now_ns() - began;
}

int main(int argc, char **argv) {
  __wasi_fd_t fd = argc > 1 ? (__wasi_fd_t)atoi(argv[1]) : 3;
  uint64_t empty = loop_ns(nothing, fd);
  printf("fd_fdstat_get %.1f\n", (double)(loop_ns(fdstat_get, fd) - empty) / CALLS);
  printf("fd_prestat_get %.1f\n", (double)(loop_ns(prestat_get, fd) - empty) / CALLS);
  return 0;
}
