// SPDX-License-Identifier: Apache-2.0
// Echoes three lines on the connected socket it was started with, in three blocking modes.
#include "guest.h"

int main(void) {
  expect_files("4", "stdin:stdout:stderr:stream");
  echo_three_lines(FIRST_SOCKET);
  return 0;
}
