// SPDX-License-Identifier: Apache-2.0
// Prints the names in the directory argv[1] (default ".") as the runtime gives them, without . and .., one a line.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : ".";
  DIR *dir = opendir(path);
  if (!dir) {
    fprintf(stderr, "%s: errno %d\n", path, errno);
    return 1;
  }
  for (struct dirent *entry; (entry = readdir(dir));) {
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) puts(entry->d_name);
  }
  return closedir(dir) != 0;
}
