// SPDX-License-Identifier: Apache-2.0
// Opens the file argv[1] again and again, at most argv[2] times (default 100000): prints how often and the last errno.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  int limit = argc > 2 ? atoi(argv[2]) : 100000, count = 0;
  errno = 0;
  while (count < limit && open(argv[1], O_RDONLY) >= 0) count++;
  printf("%d %d\n", count, errno);
  return 0;
}
