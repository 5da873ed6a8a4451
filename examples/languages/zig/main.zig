// SPDX-License-Identifier: Apache-2.0
const std = @import("std");

pub fn main(init: std.process.Init) !u8 {
    const arena = init.arena.allocator();
    var status: u8 = 0;

    var out_buffer: [1024]u8 = undefined;
    var out_file: std.Io.File.Writer = .init(.stdout(), init.io, &out_buffer);
    const out = &out_file.interface;

    try out.print("Hello from Zig!\n", .{});

    const arguments = try init.minimal.args.toSlice(arena);
    try out.print("arguments:", .{});
    for (arguments[1..]) |argument| {
        try out.print(" {s}", .{argument});
        if (std.mem.eql(u8, argument, "fail")) status = 3;
    }
    try out.print("\n", .{});

    try out.print("NAME={s}\n", .{init.environ_map.get("NAME") orelse ""});

    var in_buffer: [1024]u8 = undefined;
    var in_file: std.Io.File.Reader = .init(.stdin(), init.io, &in_buffer);
    const input = try in_file.interface.allocRemaining(arena, .unlimited);
    try out.print("stdin: {d} bytes, {d} lines\n", .{ input.len, std.mem.count(u8, input, "\n") });

    const data = switch (init.preopens.get("/data").?) {
        .dir => |dir| dir,
        .file => return error.NotADirectory,
    };
    const poem = try data.readFileAlloc(init.io, "poem.txt", arena, .limited(65536));
    var lines = std.mem.splitScalar(u8, poem, '\n');
    try out.print("poem: {s}\n", .{lines.first()});

    try out.flush();
    return status;
}
