// SPDX-License-Identifier: Apache-2.0
// An ordinary C program. Nothing in it knows of Keeps.
#include <stdio.h>

int main(void) {
  puts("Hello, Enarx!");
  return 0;
}
