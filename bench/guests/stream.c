// SPDX-License-Identifier: Apache-2.0
// Bytes as fast as they go: `out N` writes N of them to stdout, `in` says ready, reads stdin to its end and prints how many
// there were. `serve N` takes connections one after the other; the first byte of each says which way N bytes go: `d`, from
// here, or `u`, to here, which is answered with a byte.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wasi/api.h>

#define SOCKET 3

static uint8_t block[64 * 1024];

static int send_bytes(int fd, uint64_t left) {
  while (left) {
    ssize_t n = write(fd, block, left < sizeof block ? left : sizeof block);
    if (n <= 0) return 1;
    left -= (uint64_t)n;
  }
  return 0;
}

static uint64_t take_bytes(int fd, uint64_t most) {
  uint64_t taken = 0;
  ssize_t n;
  while (taken < most && (n = read(fd, block, sizeof block)) > 0) taken += (uint64_t)n;
  return taken;
}

static int serve(uint64_t count) {
  for (;;) {
    __wasi_fd_t fd;
    if (__wasi_sock_accept(SOCKET, 0, &fd)) return 1;
    char way = 0;
    if (read((int)fd, &way, 1) == 1) {
      if (way == 'd') send_bytes((int)fd, count);
      if (way == 'u' && take_bytes((int)fd, count) == count) send_bytes((int)fd, 1);
    }
    close((int)fd);
  }
}

int main(int argc, char **argv) {
  uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
  memset(block, 'x', sizeof block);
  if (argc < 2) return 2;
  if (!strcmp(argv[1], "out")) return send_bytes(1, count);
  if (!strcmp(argv[1], "serve")) return serve(count);
  if (write(1, "ready\n", 6) != 6) return 1;
  printf("%llu\n", (unsigned long long)take_bytes(0, UINT64_MAX));
  return 0;
}
