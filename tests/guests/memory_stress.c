// SPDX-License-Identifier: Apache-2.0
// Takes and gives back blocks of 1 byte to 32 MiB, a hundred times over.
#include <stdlib.h>

int main(void) {
  for (int round = 0; round < 100; round++) {
    for (size_t size = 1; size <= (size_t)32 << 20; size <<= 1) {
      volatile char *block = malloc(size);
      if (!block) return 1;
      block[0] = block[size - 1] = 1;
      free((void *)block);
    }
  }
  return 0;
}
