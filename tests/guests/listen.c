// SPDX-License-Identifier: Apache-2.0
// Serves three connections, one after the other: the listener as it came, blocking, non-blocking.
// The "ping" stream only tells the peer that the sockets are open. Serves listen_tcp and listen_tls.
#include "guest.h"

// Accepts, spinning on EAGAIN as the original's last round does. The socket as it came may be in either mode.
static __wasi_fd_t accept_one(void) {
  for (;;) {
    __wasi_fd_t fd;
    __wasi_errno_t e = __wasi_sock_accept(FIRST_SOCKET, 0, &fd);
    if (!e) return fd;
    if (e != __WASI_ERRNO_AGAIN) fail("sock_accept", e);
  }
}

int main(void) {
  expect_files("5", "stdin:stdout:stderr:ingest:ping");
  for (int mode = 0; mode < 3; mode++) {
    if (mode) set_nonblocking(FIRST_SOCKET, mode == 2);
    __wasi_fd_t fd = accept_one();
    echo_three_lines(fd);
    __wasi_errno_t e = __wasi_fd_close(fd);
    if (e) fail("fd_close", e);
  }
  return 0;
}
