// SPDX-License-Identifier: Apache-2.0
import * as std from "qjs:std";

console.log("Hello from JavaScript!");

const args = scriptArgs.slice(1);
console.log("arguments: " + args.join(" "));
console.log("NAME=" + (std.getenv("NAME") ?? ""));

let bytes = 0;
let lines = 0;
for (let byte; (byte = std.in.getByte()) >= 0; bytes++) {
  if (byte === 10) lines++;
}
console.log(`stdin: ${bytes} bytes, ${lines} lines`);

const poem = std.loadFile("/data/poem.txt");
if (poem === null) throw new Error("/data/poem.txt: cannot be read");
console.log("poem: " + poem.split("\n")[0]);

if (args.includes("fail")) std.exit(3);
