// SPDX-License-Identifier: Apache-2.0
import { fd_close, sock_recv, sock_send, sock_shutdown } from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";

// WASI has had it since after these bindings were written.
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "sock_accept")
declare function sock_accept(socket: u32, flags: u32, accepted: usize): u32;

const WEB: u32 = 3; // The socket that enarx opened.
const BOTH: u8 = 3;
const TEXT = "Hello from AssemblyScript!\n";
const ANSWER = String.UTF8.encode(
  `HTTP/1.1 200 OK\r\nContent-Length: ${TEXT.length}\r\nConnection: close\r\n\r\n${TEXT}`,
);

const piece = new ArrayBuffer(1024);
const into = StaticArray.fromArray<usize>([changetype<usize>(piece), piece.byteLength]);
const from = StaticArray.fromArray<usize>([changetype<usize>(ANSWER), ANSWER.byteLength]);
const result = new StaticArray<usize>(1);
const flags = new StaticArray<usize>(1);

function address(array: StaticArray<usize>): usize {
  return changetype<usize>(array);
}

function answer(peer: u32): void {
  let request = "";
  while (!request.includes("\r\n\r\n")) {
    if (sock_recv(peer, address(into), 1, 0, address(result), address(flags))) return;
    const size = result[0];
    if (size == 0 || request.length > 65536) return;
    request += String.UTF8.decodeUnsafe(changetype<usize>(piece), size);
  }
  sock_send(peer, address(from), 1, 0, address(result));
}

while (sock_accept(WEB, 0, address(result)) == 0) {
  const peer = <u32>result[0];
  answer(peer);
  sock_shutdown(peer, BOTH);
  fd_close(peer);
}
process.exit(1);
