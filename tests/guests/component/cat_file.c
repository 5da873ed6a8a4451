// SPDX-License-Identifier: Apache-2.0
// Prints the file that its last argument names, below the first preopened directory.
// Prints "error N" (an error-code of wasi:filesystem) and fails where it cannot be opened; "no directory" where there is none.
#include "component.h"

typedef struct {
  own descriptor;
  text path;
} preopen;

typedef struct {
  preopen *items;
  uint32_t count;
} preopens;

#define FS "wasi:filesystem/types@0.2.0"
#define SYMLINK_FOLLOW 1
#define READ 1

IMPORT("wasi:filesystem/preopens@0.2.0", "get-directories") void get_directories(preopens *out);
IMPORT(FS, "[method]descriptor.open-at")
void open_at(own self, int32_t how, uint8_t *path, uint32_t size, int32_t open, int32_t flags, result3 *out);
IMPORT(FS, "[method]descriptor.read-via-stream") void read_via_stream(own self, uint64_t offset, result3 *out);

RUN {
  own out = get_stdout();
  texts args;
  get_arguments(&args);
  preopens dirs;
  get_directories(&dirs);
  if (!args.count) return RUN_ERROR;
  if (!dirs.count) {
    write_text(out, "no directory\n");
    return RUN_ERROR;
  }
  text path = args.items[args.count - 1];
  result3 file, stream;
  open_at(dirs.items[0].descriptor, SYMLINK_FOLLOW, path.data, path.size, 0, READ, &file);
  if (!file.tag) {
    read_via_stream(file.handle, 0, &stream);
    if (!stream.tag) return copy(stream.handle, out) ? RUN_OK : RUN_ERROR;
    file = stream;
  }
  write_text(out, "error ");
  write_number(out, file.code);
  write_text(out, "\n");
  return RUN_ERROR;
}
