// SPDX-License-Identifier: Apache-2.0
// ROT13 from stdin to stdout; what is not a letter stays.
#include <stdio.h>

int main(void) {
  for (int c; (c = getchar()) != EOF;) {
    int base = c >= 'a' && c <= 'z' ? 'a' : c >= 'A' && c <= 'Z' ? 'A' : 0;
    putchar(base ? (c - base + 13) % 26 + base : c);
  }
  return 0;
}
