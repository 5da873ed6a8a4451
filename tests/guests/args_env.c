// SPDX-License-Identifier: Apache-2.0
// Prints its arguments, an empty line, then its environment, one item a line.
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
  for (int i = 0; i < argc; i++) puts(argv[i]);
  puts("");
  for (char **e = environ; e && *e; e++) puts(*e);
  return 0;
}
