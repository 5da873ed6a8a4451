// SPDX-License-Identifier: Apache-2.0
// Takes 16 MB at once, touches every page and gives it back.
#include <stdlib.h>

int main(void) {
  const size_t size = 16 * 1000 * 1000;
  volatile char *block = malloc(size);
  if (!block) return 1;
  for (size_t i = 0; i < size; i += 4096) block[i] = (char)i;
  free((void *)block);
  return 0;
}
