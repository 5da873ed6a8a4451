/* SPDX-License-Identifier: Apache-2.0 */
/* What Hugs needs here: a main that names the program, and an answer where it asks for a terminal or a shell. */
#include <errno.h>
#include <stdlib.h>

struct termios;

int tcgetattr(int fd, struct termios *settings)
{
  (void)fd;
  (void)settings;
  errno = ENOTTY;
  return -1;
}

int tcsetattr(int fd, int when, const struct termios *settings)
{
  (void)fd;
  (void)when;
  (void)settings;
  errno = ENOTTY;
  return -1;
}

int system(const char *command)
{
  (void)command;
  errno = ENOSYS;
  return -1;
}

int runhugs_main(int argc, char **argv);

int main(int argc, char **argv)
{
  char **arguments = calloc((size_t)argc + 3, sizeof *arguments);
  int i;

  if (!arguments)
    return 1;
  arguments[0] = "runhugs";
  arguments[1] = "/app/main.hs";
  for (i = 1; i < argc; i++)
    arguments[i + 1] = argv[i];
  return runhugs_main(i + 1, arguments);
}
