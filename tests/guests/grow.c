// SPDX-License-Identifier: Apache-2.0
// Takes memory until there is none: prints how many MiB it got and exits 3.
#include <stdio.h>
#include <stdlib.h>

int main(void) {
  unsigned mib = 0;
  // Volatile, or the compiler knows that nobody looks and takes none.
  for (volatile char *block; (block = malloc(1 << 20)); mib++) {
    for (int i = 0; i < 1 << 20; i += 4096) block[i] = 1;
  }
  printf("%u\n", mib);
  return 3;
}
