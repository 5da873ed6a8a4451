// SPDX-License-Identifier: Apache-2.0
// Copies stdin to stdout until it ends.
#include <unistd.h>

int main(void) {
  static char buffer[64 * 1024];
  ssize_t n;
  while ((n = read(0, buffer, sizeof buffer)) > 0) {
    for (ssize_t done = 0; done < n;) {
      ssize_t w = write(1, buffer + done, (size_t)(n - done));
      if (w < 0) return 2;
      done += w;
    }
  }
  return n < 0;
}
