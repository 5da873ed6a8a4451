// SPDX-License-Identifier: Apache-2.0
// An ordinary web service. Nothing in it knows of Keeps, certificates or TLS: descriptor 3 is the socket of Enarx.toml.
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char page[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\nConnection: close\r\n\r\nHello, Enarx!\n";

int main(void) {
  for (;;) {
    int peer = accept(3, NULL, NULL);
    if (peer < 0) return 1;
    char request[4096];
    size_t size = 0;
    ssize_t got;
    while (size < sizeof request - 1 && (got = recv(peer, request + size, sizeof request - 1 - size, 0)) > 0) {
      size += (size_t)got;
      request[size] = '\0';
      if (strstr(request, "\r\n\r\n")) {
        send(peer, page, sizeof page - 1, 0);
        break;
      }
    }
    shutdown(peer, SHUT_RDWR);
    close(peer);
  }
}
