// SPDX-License-Identifier: Apache-2.0
// Asks a web service for its page and prints it. Descriptor 3 is the connection that Enarx.toml opens, with TLS of both sides.
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static const char request[] = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

int main(void) {
  char answer[4096];
  ssize_t got = send(3, request, sizeof request - 1, 0);
  if (got > 0) {
    while ((got = recv(3, answer, sizeof answer, 0)) > 0) fwrite(answer, 1, (size_t)got, stdout);
  }
  if (got < 0) perror("web-client");
  return got < 0;
}
