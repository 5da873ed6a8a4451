// SPDX-License-Identifier: Apache-2.0
// Writes to stdout for ever; exits 4 once a write fails.
#include <string.h>
#include <unistd.h>

int main(void) {
  static char block[64 * 1024];
  memset(block, 'x', sizeof block);
  while (write(1, block, sizeof block) > 0) {
  }
  return 4;
}
