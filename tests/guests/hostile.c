// SPDX-License-Identifier: Apache-2.0
// Calls WASI with pointers, lengths and descriptors that no honest program uses.
// `hostile CASE FD` prints "CASE errno"; `hostile count` prints how many cases there are. A trap, or an errno, is right; a
// crash of the runtime, or a byte outside the guest's memory, is not.
//
// The functions are imported a second time with integers for pointers, so that the compiler cannot object.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define P1(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

P1("fd_read") int32_t raw_fd_read(uint32_t fd, uint32_t iovs, uint32_t count, uint32_t n);
P1("fd_write") int32_t raw_fd_write(uint32_t fd, uint32_t iovs, uint32_t count, uint32_t n);
P1("fd_close") int32_t raw_fd_close(uint32_t fd);
P1("fd_renumber") int32_t raw_fd_renumber(uint32_t from, uint32_t to);
P1("fd_fdstat_get") int32_t raw_fd_fdstat_get(uint32_t fd, uint32_t stat);
P1("fd_fdstat_set_flags") int32_t raw_fd_fdstat_set_flags(uint32_t fd, uint32_t flags);
P1("fd_filestat_get") int32_t raw_fd_filestat_get(uint32_t fd, uint32_t stat);
P1("fd_seek") int32_t raw_fd_seek(uint32_t fd, int64_t offset, uint32_t whence, uint32_t result);
P1("fd_pread") int32_t raw_fd_pread(uint32_t fd, uint32_t iovs, uint32_t count, uint64_t offset, uint32_t n);
P1("fd_prestat_get") int32_t raw_fd_prestat_get(uint32_t fd, uint32_t stat);
P1("fd_prestat_dir_name") int32_t raw_fd_prestat_dir_name(uint32_t fd, uint32_t path, uint32_t size);
P1("fd_readdir") int32_t raw_fd_readdir(uint32_t fd, uint32_t buf, uint32_t size, uint64_t cookie, uint32_t n);
P1("path_open") int32_t raw_path_open(uint32_t fd, uint32_t dirflags, uint32_t path, uint32_t size, uint32_t oflags,
                                      uint64_t base, uint64_t inheriting, uint32_t fdflags, uint32_t result);
P1("poll_oneoff") int32_t raw_poll_oneoff(uint32_t subs, uint32_t events, uint32_t count, uint32_t n);
P1("random_get") int32_t raw_random_get(uint32_t buf, uint32_t size);
P1("sock_accept") int32_t raw_sock_accept(uint32_t fd, uint32_t flags, uint32_t result);
P1("sock_recv") int32_t raw_sock_recv(uint32_t fd, uint32_t iovs, uint32_t count, uint32_t flags, uint32_t n, uint32_t ro);
P1("sock_send") int32_t raw_sock_send(uint32_t fd, uint32_t iovs, uint32_t count, uint32_t flags, uint32_t n);
P1("sock_shutdown") int32_t raw_sock_shutdown(uint32_t fd, uint32_t how);

#define AT(thing) ((uint32_t)(uintptr_t)(thing))
#define TOP 0xffffffffu       // the last byte of a full address space
#define BEYOND 0xfffffff0u    // 16 bytes below it: no memory here is that large
#define NOBODY 1000000u       // a descriptor that is nothing's

static uint32_t end;          // the first address after the guest's memory
static uint32_t iovs[2048][2];
static uint8_t buffer[4096];
static uint8_t subs[48 * 4];
static uint8_t events[32 * 4];
static uint32_t out, out2;

static uint32_t one(uint32_t pointer, uint32_t size) {
  iovs[0][0] = pointer;
  iovs[0][1] = size;
  return AT(iovs);
}

static uint32_t two(uint32_t p, uint32_t n, uint32_t q, uint32_t m) {
  iovs[1][0] = q;
  iovs[1][1] = m;
  return one(p, n);
}

// A list of `count` one-byte buffers, all of them the same byte.
static uint32_t many(uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    iovs[i][0] = AT(buffer);
    iovs[i][1] = 1;
  }
  return AT(iovs);
}

// One subscription of the type `tag` on `fd`.
static uint32_t subscription(uint8_t tag, uint32_t fd) {
  memset(subs, 0, sizeof subs);
  subs[8] = tag;
  memcpy(subs + 16, &fd, sizeof fd);
  return AT(subs);
}

#define CASES(X)                                                                                  \
  X(raw_fd_read(fd, TOP, 1, AT(&out)))               /* the list at the last byte */              \
  X(raw_fd_read(fd, end, 1, AT(&out)))               /* the list just after memory */             \
  X(raw_fd_read(fd, end - 4, 1, AT(&out)))           /* the list half outside */                  \
  X(raw_fd_read(fd, AT(iovs), TOP, AT(&out)))        /* 2^32-1 buffers */                         \
  X(raw_fd_read(fd, AT(iovs), 0x20000000, AT(&out))) /* count * 8 wraps to 0 */                   \
  X(raw_fd_read(fd, AT(iovs), 0, AT(&out)))          /* no buffers */                             \
  X(raw_fd_read(fd, one(end, 16), 1, AT(&out)))      /* a buffer just after memory */             \
  X(raw_fd_read(fd, one(end - 8, 16), 1, AT(&out)))  /* a buffer half outside */                  \
  X(raw_fd_read(fd, one(AT(buffer), TOP), 1, AT(&out)))   /* pointer + length wraps */            \
  X(raw_fd_read(fd, one(BEYOND, 32), 1, AT(&out)))        /* wraps past zero */                   \
  X(raw_fd_read(fd, one(AT(buffer), 0), 1, AT(&out)))     /* an empty buffer */                   \
  X(raw_fd_read(fd, one(end, 0), 1, AT(&out)))            /* an empty buffer at the end */        \
  X(raw_fd_read(fd, one(AT(buffer), 16), 1, end))         /* the result outside */                \
  X(raw_fd_read(fd, one(AT(buffer), 16), 1, TOP - 1))     /* the result at the top */             \
  X(raw_fd_read(fd, one(AT(buffer), 16), 1, AT(&out) + 1)) /* an unaligned result */              \
  X(raw_fd_read(fd, one(AT(buffer), 16) + 1, 1, AT(&out))) /* an unaligned list */                \
  X(raw_fd_read(fd, one(AT(iovs), 16), 1, AT(&out)))      /* the buffer is the list itself */     \
  X(raw_fd_read(fd, one(AT(&out), 4), 1, AT(&out)))       /* the buffer is the result */          \
  X(raw_fd_read(fd, two(AT(buffer), 64, AT(buffer) + 32, 64), 2, AT(&out))) /* overlapping */     \
  X(raw_fd_read(fd, two(AT(buffer), 16, end, 16), 2, AT(&out)))  /* the second outside */         \
  X(raw_fd_read(fd, two(0, TOP, 0, TOP), 2, AT(&out)))           /* lengths sum past 2^32 */      \
  X(raw_fd_read(fd, many(2048), 2048, AT(&out)))                 /* more than IOV_MAX */          \
  X(raw_fd_write(fd, TOP, 1, AT(&out)))                                                           \
  X(raw_fd_write(fd, end - 4, 1, AT(&out)))                                                       \
  X(raw_fd_write(fd, AT(iovs), 0x20000000, AT(&out)))                                             \
  X(raw_fd_write(fd, AT(iovs), 0, AT(&out)))                                                      \
  X(raw_fd_write(fd, one(end - 8, 16), 1, AT(&out)))                                              \
  X(raw_fd_write(fd, one(AT(buffer), TOP), 1, AT(&out)))                                          \
  X(raw_fd_write(fd, one(BEYOND, 32), 1, AT(&out)))                                               \
  X(raw_fd_write(fd, one(AT(buffer), 0), 1, AT(&out)))                                            \
  X(raw_fd_write(fd, one(AT(buffer), 16), 1, end))                                                \
  X(raw_fd_write(fd, two(AT(buffer), 16, end, 16), 2, AT(&out)))                                  \
  X(raw_fd_write(fd, two(0, TOP, 0, TOP), 2, AT(&out)))                                           \
  X(raw_fd_write(fd, many(2048), 2048, AT(&out)))                                                 \
  X(raw_poll_oneoff(TOP, AT(events), 1, AT(&out)))                                                \
  X(raw_poll_oneoff(end - 8, AT(events), 1, AT(&out)))       /* the subscription half outside */  \
  X(raw_poll_oneoff(AT(subs), end - 8, 1, AT(&out)))         /* the event half outside */         \
  X(raw_poll_oneoff(subscription(0, 0), AT(events), 1, end)) /* the result outside */             \
  X(raw_poll_oneoff(AT(subs), AT(events), 0, AT(&out)))      /* nothing to wait for */            \
  X(raw_poll_oneoff(AT(subs), AT(events), TOP, AT(&out)))                                         \
  X(raw_poll_oneoff(AT(subs), AT(events), 0x10000000, AT(&out))) /* count * 48 wraps */           \
  X(raw_poll_oneoff(subscription(9, fd), AT(events), 1, AT(&out)))   /* no such event type */     \
  X(raw_poll_oneoff(subscription(1, NOBODY), AT(events), 1, AT(&out)))                            \
  X(raw_poll_oneoff(subscription(2, NOBODY), AT(events), 1, AT(&out)))                            \
  X(raw_poll_oneoff(subscription(1, TOP), AT(events), 1, AT(&out)))                               \
  X(raw_poll_oneoff(subscription(0, 77), AT(events), 1, AT(&out)))   /* no such clock */          \
  X(raw_poll_oneoff(subscription(0, 0), AT(subs), 1, AT(&out)))      /* events over subscriptions */ \
  X(raw_sock_accept(fd, 0, end))                                                                  \
  X(raw_sock_accept(fd, 0xffff, AT(&out)))                   /* flags that do not exist */        \
  X(raw_sock_accept(NOBODY, 0, AT(&out)))                                                         \
  X(raw_sock_accept(TOP, 0, AT(&out)))                                                            \
  X(raw_sock_recv(fd, TOP, 1, 0, AT(&out), AT(&out2)))                                            \
  X(raw_sock_recv(fd, one(end - 8, 16), 1, 0, AT(&out), AT(&out2)))                               \
  X(raw_sock_recv(fd, one(AT(buffer), 16), 1, 0xffff, AT(&out), AT(&out2)))                       \
  X(raw_sock_recv(fd, one(AT(buffer), 16), 1, 0, end, AT(&out2)))                                 \
  X(raw_sock_recv(fd, one(AT(buffer), 16), 1, 0, AT(&out), end))                                  \
  X(raw_sock_recv(NOBODY, one(AT(buffer), 16), 1, 0, AT(&out), AT(&out2)))                        \
  X(raw_sock_send(fd, TOP, 1, 0, AT(&out)))                                                       \
  X(raw_sock_send(fd, one(end - 8, 16), 1, 0, AT(&out)))                                          \
  X(raw_sock_send(fd, one(AT(buffer), 16), 1, 0xffff, AT(&out)))                                  \
  X(raw_sock_send(fd, one(AT(buffer), 16), 1, 0, end))                                            \
  X(raw_sock_send(NOBODY, one(AT(buffer), 16), 1, 0, AT(&out)))                                   \
  X(raw_sock_shutdown(NOBODY, 3))                                                                 \
  X(raw_sock_shutdown(fd, 0))                                                                     \
  X(raw_sock_shutdown(fd, 0xff))                                                                  \
  X(raw_fd_read(NOBODY, one(AT(buffer), 16), 1, AT(&out)))                                        \
  X(raw_fd_read(TOP, one(AT(buffer), 16), 1, AT(&out)))      /* -1 as a descriptor */             \
  X(raw_fd_read(0x80000000, one(AT(buffer), 16), 1, AT(&out)))                                    \
  X(raw_fd_write(NOBODY, one(AT(buffer), 16), 1, AT(&out)))                                       \
  X(raw_fd_write(TOP, one(AT(buffer), 16), 1, AT(&out)))                                          \
  X(raw_fd_close(NOBODY))                                                                         \
  X(raw_fd_close(TOP))                                                                            \
  X(raw_fd_renumber(fd, NOBODY))                                                                  \
  X(raw_fd_renumber(NOBODY, fd))                                                                  \
  X(raw_fd_renumber(fd, TOP))                                                                     \
  X(raw_fd_renumber(fd, fd))                                                                      \
  X(raw_fd_fdstat_get(fd, end))                                                                   \
  X(raw_fd_fdstat_get(fd, end - 8))                                                               \
  X(raw_fd_fdstat_get(NOBODY, AT(buffer)))                                                        \
  X(raw_fd_fdstat_set_flags(fd, 0xffff))                                                          \
  X(raw_fd_fdstat_set_flags(NOBODY, 0))                                                           \
  X(raw_fd_filestat_get(fd, end - 8))                                                             \
  X(raw_fd_filestat_get(NOBODY, AT(buffer)))                                                      \
  X(raw_fd_seek(fd, INT64_MIN, 0, AT(buffer)))                                                    \
  X(raw_fd_seek(fd, 0, 0xff, AT(buffer)))                                                         \
  X(raw_fd_seek(fd, 0, 1, end))                                                                   \
  X(raw_fd_pread(fd, one(end, 16), 1, UINT64_MAX, AT(&out)))                                      \
  X(raw_fd_prestat_get(fd, end))                                                                  \
  X(raw_fd_prestat_get(NOBODY, AT(buffer)))                                                       \
  X(raw_fd_prestat_dir_name(fd, end, 1))                                                          \
  X(raw_fd_prestat_dir_name(fd, AT(buffer), TOP))                                                 \
  X(raw_fd_prestat_dir_name(fd, AT(buffer), 0))                                                   \
  X(raw_fd_readdir(fd, end - 8, 16, 0, AT(&out)))                                                 \
  X(raw_fd_readdir(fd, AT(buffer), TOP, 0, AT(&out)))                                             \
  X(raw_fd_readdir(fd, AT(buffer), sizeof buffer, UINT64_MAX, AT(&out)))                          \
  X(raw_path_open(fd, 0, end, 16, 0, 0, 0, 0, AT(&out)))                                          \
  X(raw_path_open(fd, 0, AT("x"), TOP, 0, 0, 0, 0, AT(&out)))                                     \
  X(raw_path_open(fd, 0, AT("\xff\xfe"), 2, 0, 0, 0, 0, AT(&out)))       /* not UTF-8 */          \
  X(raw_path_open(fd, 0, AT("a\0b"), 3, 0, 0, 0, 0, AT(&out)))           /* a NUL inside */       \
  X(raw_path_open(fd, 0xff, AT("x"), 1, 0xff, UINT64_MAX, UINT64_MAX, 0xff, AT(&out)))            \
  X(raw_path_open(fd, 0, AT("x"), 1, 0, 0, 0, 0, end))                                            \
  X(raw_random_get(end - 8, 16))                                                                  \
  X(raw_random_get(AT(buffer), TOP))

int main(int argc, char **argv) {
  if (argc < 2) return 2;
#define COUNT(call) +1
  const int count = 0 CASES(COUNT);
  if (!strcmp(argv[1], "count")) {
    printf("%d\n", count);
    return 0;
  }
  const int wanted = atoi(argv[1]);
  const uint32_t fd = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 0;
  end = (uint32_t)__builtin_wasm_memory_size(0) << 16;
  int number = 0, result = -1;
#define RUN(call) \
  if (number++ == wanted) result = (call);
  CASES(RUN)
  if (result < 0) return 2;
  fprintf(stderr, "%d %d\n", wanted, result);
  printf("%d %d\n", wanted, result);
  return 0;
}
