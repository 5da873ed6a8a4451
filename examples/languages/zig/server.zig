// SPDX-License-Identifier: Apache-2.0
// Descriptor 3 is the socket that enarx opened; the standard library listens nowhere in WASI, so this calls WASI itself.
const std = @import("std");
const wasi = std.os.wasi;

const text = "Hello from Zig!\n";
const response = std.fmt.comptimePrint(
    "HTTP/1.1 200 OK\r\nContent-Length: {d}\r\nConnection: close\r\n\r\n{s}",
    .{ text.len, text },
);

fn answer(peer: wasi.fd_t) void {
    var request: [4096]u8 = undefined;
    var size: usize = 0;
    while (std.mem.indexOf(u8, request[0..size], "\r\n\r\n") == null) {
        var into = [_]std.posix.iovec{.{ .base = request[size..].ptr, .len = request.len - size }};
        var got: usize = 0;
        var flags: wasi.roflags_t = 0;
        if (wasi.sock_recv(peer, &into, into.len, 0, &got, &flags) != .SUCCESS or got == 0) return;
        size += got;
    }
    const from = [_]std.posix.iovec_const{.{ .base = response, .len = response.len }};
    var sent: usize = 0;
    _ = wasi.sock_send(peer, &from, from.len, 0, &sent);
}

pub fn main() !void {
    while (true) {
        var peer: wasi.fd_t = undefined;
        if (wasi.sock_accept(3, .{}, &peer) != .SUCCESS) return error.NotAccepted;
        answer(peer);
        _ = wasi.sock_shutdown(peer, .{ .RD = true, .WR = true });
        _ = wasi.fd_close(peer);
    }
}
