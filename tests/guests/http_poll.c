// SPDX-License-Identifier: Apache-2.0
// The benchmark's HTTP/1.1 server: one non-blocking poll loop, keep-alive, pipelining, a fixed body of 13 bytes, no heap.
// Serves the first listen socket that FD_NAMES and FD_COUNT show, else fd 3; up to 256 connections.
#include "guest.h"

#define MAX_PEERS 256
#define BUFFER 4096
#define MAX_PIPELINED 16
#define LISTENER MAX_PEERS

static const char response[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, Enarx!";
#define RESPONSE (sizeof response - 1)

static struct {
  __wasi_fd_t fd;
  uint32_t used;      // bytes of requests not yet answered
  uint32_t owed;      // bytes of responses not yet sent
  bool open, closing;
  char data[BUFFER];
} peers[MAX_PEERS];

static __wasi_subscription_t subs[MAX_PEERS + 1];
static __wasi_event_t events[MAX_PEERS + 1];
static char responses[MAX_PIPELINED * RESPONSE];

// The length of the first whole request head, or 0. Bodies are not served: this is a GET benchmark.
static uint32_t head_length(const char *data, uint32_t size) {
  for (uint32_t i = 3; i < size; i++) {
    if (data[i] == '\n' && data[i - 1] == '\r' && data[i - 2] == '\n' && data[i - 3] == '\r') return i + 1;
  }
  return 0;
}

static bool wants_close(const char *head, uint32_t size) {
  static const char want[] = "connection: close";
  for (uint32_t i = 0; i + sizeof want - 1 <= size; i++) {
    uint32_t k = 0;
    while (k < sizeof want - 1 && (head[i + k] | 0x20) == (want[k] | 0x20)) k++;
    if (k == sizeof want - 1) return true;
  }
  return false;
}

// Sends what is owed; false when the peer is gone.
static bool flush(int i) {
  while (peers[i].owed) {
    uint32_t done = (RESPONSE - peers[i].owed % RESPONSE) % RESPONSE;
    uint32_t size = peers[i].owed < sizeof responses - done ? peers[i].owed : sizeof responses - done;
    __wasi_ciovec_t v = {(const uint8_t *)responses + done, size};
    __wasi_size_t n = 0;
    __wasi_errno_t e = __wasi_sock_send(peers[i].fd, &v, 1, 0, &n);
    if (e == __WASI_ERRNO_AGAIN) return true;
    if (e) return false;
    peers[i].owed -= n;
  }
  return !peers[i].closing;
}

// Reads once, answers every whole request; false when the peer is gone or sends what cannot be a request of ours.
static bool serve(int i) {
  __wasi_iovec_t v = {(uint8_t *)peers[i].data + peers[i].used, BUFFER - peers[i].used};
  __wasi_size_t n = 0;
  __wasi_roflags_t flags = 0;
  __wasi_errno_t e = __wasi_sock_recv(peers[i].fd, &v, 1, 0, &n, &flags);
  if (e == __WASI_ERRNO_AGAIN) return true;
  if (e || n == 0) return false;
  peers[i].used += n;
  uint32_t start = 0;
  for (uint32_t size; !peers[i].closing && (size = head_length(peers[i].data + start, peers[i].used - start));) {
    peers[i].closing = wants_close(peers[i].data + start, size);
    peers[i].owed += RESPONSE;
    start += size;
  }
  peers[i].used -= start;
  if (peers[i].used == BUFFER) return false;
  if (start && peers[i].used) memmove(peers[i].data, peers[i].data + start, peers[i].used);
  return flush(i);
}

static void accept_all(__wasi_fd_t listener) {
  for (int i = 0; i < MAX_PEERS; i++) {
    if (peers[i].open) continue;
    __wasi_errno_t e = __wasi_sock_accept(listener, __WASI_FDFLAGS_NONBLOCK, &peers[i].fd);
    if (e) return;  // Nobody left, or a handshake that failed: the next poll says.
    peers[i].open = true;
    peers[i].closing = false;
    peers[i].used = peers[i].owed = 0;
  }
}

// The first descriptor after the three of stdio whose name FD_NAMES holds and that is a socket.
static __wasi_fd_t find_listener(void) {
  const char *count = getenv("FD_COUNT");
  __wasi_fd_t end = count ? (__wasi_fd_t)atoi(count) : 0;
  for (__wasi_fd_t fd = 0; getenv("FD_NAMES") && fd < end; fd++) {
    __wasi_fdstat_t stat;
    if (!__wasi_fd_fdstat_get(fd, &stat) && stat.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM) return fd;
  }
  return FIRST_SOCKET;
}

int main(void) {
  __wasi_fd_t listener = find_listener();
  set_nonblocking(listener, true);
  for (int i = 0; i < MAX_PIPELINED; i++) memcpy(responses + i * RESPONSE, response, RESPONSE);
  for (;;) {
    __wasi_size_t count = 0, n = 0;
    bool full = true;
    for (int i = 0; i < MAX_PEERS; i++) {
      if (!peers[i].open) {
        full = false;
        continue;
      }
      subs[count].userdata = (uint64_t)i;
      subs[count].u.tag = peers[i].owed ? __WASI_EVENTTYPE_FD_WRITE : __WASI_EVENTTYPE_FD_READ;
      subs[count++].u.u.fd_read.file_descriptor = peers[i].fd;
    }
    if (!full) {
      subs[count].userdata = LISTENER;
      subs[count].u.tag = __WASI_EVENTTYPE_FD_READ;
      subs[count++].u.u.fd_read.file_descriptor = listener;
    }
    __wasi_errno_t e = __wasi_poll_oneoff(subs, events, count, &n);
    if (e) fail("poll_oneoff", e);
    for (__wasi_size_t k = 0; k < n; k++) {
      int i = (int)events[k].userdata;
      if (i == LISTENER) {
        accept_all(listener);
      } else if (!(peers[i].owed ? flush(i) : serve(i))) {
        __wasi_fd_close(peers[i].fd);
        peers[i].open = false;
      }
    }
  }
}
