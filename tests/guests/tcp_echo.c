// SPDX-License-Identifier: Apache-2.0
// Echoes every connection of the listener "listen" (else fd 3), many at once, in one poll loop with sock_recv/sock_send.
// Ends with status 0 once argv[1] connections were served (default: never).
#include "guest.h"

#define MAX_PEERS 64
#define BUFFER 16384

static struct {
  __wasi_fd_t fd;
  bool open;
  uint32_t used, sent;
  uint8_t data[BUFFER];
} peers[MAX_PEERS];

// True while the peer stays open.
static bool serve(int i) {
  if (peers[i].used == 0) {
    __wasi_iovec_t v = {peers[i].data, BUFFER};
    __wasi_size_t n = 0;
    __wasi_roflags_t flags = 0;
    __wasi_errno_t e = __wasi_sock_recv(peers[i].fd, &v, 1, 0, &n, &flags);
    if (e == __WASI_ERRNO_AGAIN) return true;
    if (e || n == 0) return false;
    peers[i].used = n;
    peers[i].sent = 0;
  }
  while (peers[i].sent < peers[i].used) {
    __wasi_ciovec_t v = {peers[i].data + peers[i].sent, peers[i].used - peers[i].sent};
    __wasi_size_t n = 0;
    __wasi_errno_t e = __wasi_sock_send(peers[i].fd, &v, 1, 0, &n);
    if (e == __WASI_ERRNO_AGAIN) return true;
    if (e) return false;
    peers[i].sent += n;
  }
  peers[i].used = 0;
  return true;
}

int main(int argc, char **argv) {
  long left = argc > 1 ? atol(argv[1]) : -1;
  __wasi_fd_t listener = fd_named("listen");
  set_nonblocking(listener, true);
  while (left) {
    __wasi_subscription_t subs[MAX_PEERS + 1];
    __wasi_event_t events[MAX_PEERS + 1];
    __wasi_size_t count = 0, n = 0;
    int room = -1;
    for (int i = 0; i < MAX_PEERS; i++) {
      if (!peers[i].open) {
        room = i;
        continue;
      }
      subs[count] = (__wasi_subscription_t){.userdata = (uint64_t)i};
      subs[count].u.tag = peers[i].used ? __WASI_EVENTTYPE_FD_WRITE : __WASI_EVENTTYPE_FD_READ;
      subs[count++].u.u.fd_read.file_descriptor = peers[i].fd;
    }
    if (room >= 0) {
      subs[count] = (__wasi_subscription_t){.userdata = MAX_PEERS};
      subs[count].u.tag = __WASI_EVENTTYPE_FD_READ;
      subs[count++].u.u.fd_read.file_descriptor = listener;
    }
    __wasi_errno_t e = __wasi_poll_oneoff(subs, events, count, &n);
    if (e) fail("poll_oneoff", e);
    for (__wasi_size_t k = 0; k < n; k++) {
      int i = (int)events[k].userdata;
      if (i == MAX_PEERS) {
        e = __wasi_sock_accept(listener, __WASI_FDFLAGS_NONBLOCK, &peers[room].fd);
        if (e == __WASI_ERRNO_AGAIN) continue;
        if (e) fail("sock_accept", e);
        peers[room].open = true;
        peers[room].used = 0;
      } else if (!serve(i)) {
        __wasi_sock_shutdown(peers[i].fd, __WASI_SDFLAGS_RD | __WASI_SDFLAGS_WR);
        __wasi_fd_close(peers[i].fd);
        peers[i].open = false;
        if (left > 0 && --left == 0) break;
      }
    }
  }
  return 0;
}
