// SPDX-License-Identifier: Apache-2.0
// Descriptor 3 is the socket that enarx opened.
#include <string>
#include <sys/socket.h>
#include <unistd.h>

static const std::string text = "Hello from C++!\n";

static void answer(int peer) {
  std::string request;
  char piece[1024];
  while (request.find("\r\n\r\n") == std::string::npos) {
    const ssize_t got = recv(peer, piece, sizeof piece, 0);
    if (got <= 0 || request.size() > 65536) return;
    request.append(piece, static_cast<std::size_t>(got));
  }
  const std::string response =
      "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(text.size()) + "\r\nConnection: close\r\n\r\n" + text;
  send(peer, response.data(), response.size(), 0);
}

int main() {
  for (;;) {
    const int peer = accept(3, nullptr, nullptr);
    if (peer < 0) return 1;
    answer(peer);
    shutdown(peer, SHUT_RDWR);
    close(peer);
  }
}
