// SPDX-License-Identifier: Apache-2.0
// HOST PORT, its last two arguments: resolves the host, connects to the first address, sends "ping\n", prints what comes back
// until the peer closes. Prints "resolve N", "create N" or "connect N" (an error-code of wasi:sockets) and fails otherwise.
#include "component.h"

enum { WOULD_BLOCK = 8 };

// result<option<ip-address>, error-code>; an error's code lies where the option's tag does.
typedef struct {
  uint8_t tag;
  uint8_t pad;
  uint8_t some;
  uint8_t pad2;
  uint8_t family;
  uint8_t pad3;
  union {
    uint8_t v4[4];
    uint16_t v6[8];
  };
} address_result;

// result<tuple<input-stream, output-stream>, error-code>
typedef struct {
  uint8_t tag;
  union {
    struct {
      own in, out;
    };
    uint8_t code;
  };
} streams_result;

// result<_, error-code>
typedef struct {
  uint8_t tag, code;
} code_result;

IMPORT("wasi:sockets/instance-network@0.2.0", "instance-network") own instance_network(void);
#define LOOKUP "wasi:sockets/ip-name-lookup@0.2.0"
IMPORT(LOOKUP, "resolve-addresses") void resolve_addresses(own network, uint8_t *name, uint32_t size, result3 *out);
IMPORT(LOOKUP, "[method]resolve-address-stream.resolve-next-address") void resolve_next(own self, address_result *out);
IMPORT(LOOKUP, "[method]resolve-address-stream.subscribe") own resolve_subscribe(own self);
IMPORT("wasi:sockets/tcp-create-socket@0.2.0", "create-tcp-socket") void create_tcp_socket(int32_t family, result3 *out);
#define TCP "wasi:sockets/tcp@0.2.0"
IMPORT(TCP, "[method]tcp-socket.start-connect")
void start_connect(own self, own network, int32_t family, int32_t port, int32_t a, int32_t b, int32_t c, int32_t d,
                   int32_t e, int32_t f, int32_t g, int32_t h, int32_t i, int32_t j, code_result *out);
IMPORT(TCP, "[method]tcp-socket.finish-connect") void finish_connect(own self, streams_result *out);
IMPORT(TCP, "[method]tcp-socket.subscribe") own tcp_subscribe(own self);

static int32_t failed(const char *what, uint32_t code) {
  own out = get_stdout();
  write_text(out, what);
  write_number(out, code);
  write_text(out, "\n");
  return RUN_ERROR;
}

static void wait_for(own pollable) {
  pollable_block(pollable);
  pollable_drop(pollable);
}

RUN {
  texts args;
  get_arguments(&args);
  if (args.count < 2) return RUN_ERROR;
  text host = args.items[args.count - 2];
  int32_t port = (int32_t)number(args.items[args.count - 1]);
  own network = instance_network();

  result3 lookup, socket;
  resolve_addresses(network, host.data, host.size, &lookup);
  if (lookup.tag) return failed("resolve ", lookup.code);
  address_result address;
  for (;;) {
    resolve_next(lookup.handle, &address);
    if (!address.tag || address.some != WOULD_BLOCK) break;
    wait_for(resolve_subscribe(lookup.handle));
  }
  if (address.tag) return failed("resolve ", address.some);
  if (!address.some) return failed("no address ", 0);

  create_tcp_socket(address.family, &socket);
  if (socket.tag) return failed("create ", socket.code);
  code_result started;
  const uint8_t *q = address.v4;
  const uint16_t *s = address.v6;
  if (address.family == 0) {
    start_connect(socket.handle, network, 0, port, q[0], q[1], q[2], q[3], 0, 0, 0, 0, 0, 0, &started);
  } else {
    start_connect(socket.handle, network, 1, port, 0, s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], 0, &started);
  }
  if (started.tag) return failed("connect ", started.code);
  streams_result streams;
  for (;;) {
    finish_connect(socket.handle, &streams);
    if (!streams.tag || streams.code != WOULD_BLOCK) break;
    wait_for(tcp_subscribe(socket.handle));
  }
  if (streams.tag) return failed("connect ", streams.code);
  if (!write_text(streams.out, "ping\n")) return failed("write ", 0);
  return copy(streams.in, get_stdout()) ? RUN_OK : RUN_ERROR;
}
