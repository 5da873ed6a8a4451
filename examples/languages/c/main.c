// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  int status = 0;
  puts("Hello from C!");

  printf("arguments:");
  for (int i = 1; i < argc; i++) {
    printf(" %s", argv[i]);
    if (strcmp(argv[i], "fail") == 0) status = 3;
  }
  putchar('\n');

  const char *name = getenv("NAME");
  printf("NAME=%s\n", name ? name : "");

  long bytes = 0, lines = 0;
  for (int c; (c = getchar()) != EOF; bytes++) lines += c == '\n';
  printf("stdin: %ld bytes, %ld lines\n", bytes, lines);

  char line[256];
  FILE *poem = fopen("/data/poem.txt", "r");
  if (!poem || !fgets(line, sizeof line, poem)) {
    perror("/data/poem.txt");
    return 1;
  }
  printf("poem: %s", line);
  fclose(poem);
  return status;
}
