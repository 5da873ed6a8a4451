// SPDX-License-Identifier: Apache-2.0
// Descriptor 3 is the socket that enarx opened.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char text[] = "Hello from C!\n";

static void answer(int peer) {
  char request[4096] = "", head[128];
  size_t size = 0;
  while (!strstr(request, "\r\n\r\n")) {
    ssize_t got = recv(peer, request + size, sizeof request - 1 - size, 0);
    if (got <= 0) return;
    size += (size_t)got;
    request[size] = '\0';
  }
  int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", strlen(text));
  send(peer, head, (size_t)length, 0);
  send(peer, text, strlen(text), 0);
}

int main(void) {
  for (;;) {
    int peer = accept(3, NULL, NULL);
    if (peer < 0) return 1;
    answer(peer);
    shutdown(peer, SHUT_RDWR);
    close(peer);
  }
}
