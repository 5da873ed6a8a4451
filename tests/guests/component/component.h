// SPDX-License-Identifier: Apache-2.0
// The canonical ABI by hand, as far as these components need it: the import macro, the allocator the host calls, streams.
// There is no libc here. A result<T, E> comes back in memory: one byte, 0 for ok, then the payload at its own alignment.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name))) extern
#define EXPORT(name) __attribute__((export_name(name)))
#define RUN EXPORT("wasi:cli/run@0.2.0#run") int32_t run(void)
#define RUN_OK 0
#define RUN_ERROR 1

typedef int32_t own;  // a handle in this component's table

typedef struct {
  uint8_t *data;
  uint32_t size;
} text;

typedef struct {
  text *items;
  uint32_t count;
} texts;

// result<own, _>, result<list<u8>, _>, option<string>: whatever fits in three words.
typedef struct {
  uint8_t tag;
  union {
    own handle;
    text list;
    uint8_t code;
  };
} result3;

IMPORT("wasi:cli/stdout@0.2.0", "get-stdout") own get_stdout(void);
IMPORT("wasi:io/streams@0.2.0", "[method]input-stream.blocking-read")
void input_blocking_read(own self, uint64_t max_bytes, result3 *out);
IMPORT("wasi:io/streams@0.2.0", "[resource-drop]input-stream") void input_drop(own self);
IMPORT("wasi:io/streams@0.2.0", "[method]output-stream.blocking-write-and-flush")
void output_write(own self, const uint8_t *data, uint32_t size, result3 *out);
IMPORT("wasi:io/streams@0.2.0", "[resource-drop]output-stream") void output_drop(own self);
IMPORT("wasi:io/poll@0.2.0", "[method]pollable.block") void pollable_block(own self);
IMPORT("wasi:io/poll@0.2.0", "[resource-drop]pollable") void pollable_drop(own self);
IMPORT("wasi:cli/environment@0.2.0", "get-arguments") void get_arguments(texts *out);

#define MAX_WRITE 4096        // what blocking-write-and-flush takes at once
#define HEAP_BYTES (1 << 20)  // per burst; a component that copies more gives it back with heap_reset

static _Alignas(16) uint8_t heap[HEAP_BYTES];
static uint32_t heap_used;

static inline void heap_reset(uint32_t mark) { heap_used = mark; }

// What the host calls to lower lists and strings. Nothing is ever freed but by heap_reset.
EXPORT("cabi_realloc") void *cabi_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size) {
  uint32_t start = (heap_used + align - 1) & ~(align - 1);
  if (start > HEAP_BYTES || size > HEAP_BYTES - start) __builtin_trap();
  heap_used = start + size;
  for (uint32_t i = 0; old && i < old_size && i < size; i++) heap[start + i] = ((uint8_t *)old)[i];
  return heap + start;
}

static inline uint32_t length(const char *s) {
  uint32_t n = 0;
  while (s[n]) n++;
  return n;
}

static inline bool equal(text a, const char *b) {
  uint32_t i = 0;
  while (i < a.size && b[i] && a.data[i] == (uint8_t)b[i]) i++;
  return i == a.size && !b[i];
}

static inline bool write_all(own stream, const uint8_t *data, uint32_t size) {
  while (size) {
    uint32_t n = size < MAX_WRITE ? size : MAX_WRITE;
    result3 done;
    output_write(stream, data, n, &done);
    if (done.tag) return false;
    data += n;
    size -= n;
  }
  return true;
}

static inline bool write_text(own stream, const char *s) { return write_all(stream, (const uint8_t *)s, length(s)); }

static inline bool write_number(own stream, uint32_t n) {
  uint8_t digits[10];
  uint32_t i = sizeof digits;
  do digits[--i] = (uint8_t)('0' + n % 10);
  while (n /= 10);
  return write_all(stream, digits + i, sizeof digits - i);
}

// Copies until the stream ends. A failed read is an end too: the host closes a stream that way.
static inline bool copy(own from, own to) {
  for (uint32_t mark = heap_used;; heap_reset(mark)) {
    result3 got;
    input_blocking_read(from, 64 * 1024, &got);
    if (got.tag) return true;
    if (!write_all(to, got.list.data, got.list.size)) return false;
  }
}

static inline uint32_t number(text s) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < s.size; i++) n = n * 10 + s.data[i] - '0';
  return n;
}

// Clang turns copies and clears into these.
void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  for (size_t i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}

void *memset(void *to, int value, size_t size) {
  for (size_t i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = (uint8_t)value;
  return to;
}
