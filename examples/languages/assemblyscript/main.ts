// SPDX-License-Identifier: Apache-2.0
import { errnoToString, fd_read, path_open, rights } from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";

const STDIN: u32 = 0;
const DATA: u32 = 3; // The directory of Enarx.toml.

function check(error: u32, what: string): void {
  if (error == 0) return;
  process.stderr.write(what + ": " + errnoToString(<u16>error) + "\n");
  process.exit(1);
}

function address(array: StaticArray<usize>): usize {
  return changetype<usize>(array);
}

function open(name: string): u32 {
  const path = String.UTF8.encode(name);
  const opened = new StaticArray<usize>(1);
  check(path_open(DATA, 0, changetype<usize>(path), path.byteLength, 0, rights.FD_READ, 0, 0, address(opened)), name);
  return <u32>opened[0];
}

function readAll(descriptor: u32): Uint8Array {
  let all = new Uint8Array(0);
  const piece = new ArrayBuffer(4096);
  const vector = StaticArray.fromArray<usize>([changetype<usize>(piece), piece.byteLength]);
  const size = new StaticArray<usize>(1);
  while (true) {
    check(fd_read(descriptor, address(vector), 1, address(size)), "read");
    if (size[0] == 0) return all;
    const longer = new Uint8Array(all.length + <i32>size[0]);
    longer.set(all);
    longer.set(Uint8Array.wrap(piece, 0, <i32>size[0]), all.length);
    all = longer;
  }
}

console.log("Hello from AssemblyScript!");

const args = process.argv.slice(1);
console.log("arguments: " + args.join(" "));

console.log("NAME=" + (process.env.has("NAME") ? process.env.get("NAME") : ""));

const input = readAll(STDIN);
let lines = 0;
for (let i = 0; i < input.length; i++) if (input[i] == 10) lines++;
console.log(`stdin: ${input.length} bytes, ${lines} lines`);

const poem = String.UTF8.decode(readAll(open("poem.txt")).buffer);
console.log("poem: " + poem.split("\n")[0]);

process.exit(args.includes("fail") ? 3 : 0);
