// SPDX-License-Identifier: Apache-2.0
// Prints the file argv[1]. A second argument is a file to write the content to.
// With --raw first, asks path_open on every preopened directory itself, so libc cannot refuse a path before the runtime does.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <wasi/api.h>

static int cat(FILE *in, FILE *out) {
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, in));) fwrite(buffer, 1, n, out);
  return ferror(in) || fflush(out);
}

// Prints "fd errno" for each preopened directory, and whatever could be read.
static int raw(const char *path) {
  int opened = 0;
  for (__wasi_fd_t fd = 3; fd < 64; fd++) {
    __wasi_prestat_t stat;
    if (__wasi_fd_prestat_get(fd, &stat) || stat.tag != __WASI_PREOPENTYPE_DIR) continue;
    __wasi_fd_t file;
    __wasi_errno_t e = __wasi_path_open(fd, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, path, 0, __WASI_RIGHTS_FD_READ, 0, 0, &file);
    printf("%u %u\n", (unsigned)fd, (unsigned)e);
    if (e) continue;
    opened = 1;
    char buffer[4096];
    __wasi_iovec_t v = {(uint8_t *)buffer, sizeof buffer};
    __wasi_size_t n = 0;
    if (!__wasi_fd_read(file, &v, 1, &n)) fwrite(buffer, 1, n, stdout);
    __wasi_fd_close(file);
  }
  return opened ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "--raw")) return raw(argv[2]);
  if (argc < 2) return 2;
  FILE *in = fopen(argv[1], "rb");
  if (!in) {
    fprintf(stderr, "%s: errno %d\n", argv[1], errno);
    return 1;
  }
  FILE *out = argc > 2 ? fopen(argv[2], "wb") : stdout;
  if (!out) {
    fprintf(stderr, "%s: errno %d\n", argv[2], errno);
    return 1;
  }
  return cat(in, out);
}
