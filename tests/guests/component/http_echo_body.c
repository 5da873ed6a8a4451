// SPDX-License-Identifier: Apache-2.0
// Answers with what was asked: "METHOD PATH\n", "name: value\n" for each header, an empty line, then the request's body.
// The response has the headers x-first: 1 and x-second: two.
#include "http.h"

// variant method: the text of other(string) lies at 4.
typedef struct {
  uint8_t tag;
  text other;
} method;

typedef struct {
  text name, value;
} field;

typedef struct {
  field *items;
  uint32_t count;
} entries;

// result<_, header-error>
typedef struct {
  uint8_t tag, code;
} header_result;

IMPORT(HTTP, "[method]incoming-request.method") void request_method(own self, method *out);
IMPORT(HTTP, "[method]incoming-request.path-with-query") void request_path(own self, result3 *out);
IMPORT(HTTP, "[method]incoming-request.headers") own request_headers(own self);
IMPORT(HTTP, "[method]incoming-request.consume") void request_consume(own self, result3 *out);
IMPORT(HTTP, "[method]fields.entries") void fields_entries(own self, entries *out);
IMPORT(HTTP, "[method]fields.append")
void fields_append(own self, const char *name, uint32_t name_size, const char *value, uint32_t size, header_result *out);
IMPORT(HTTP, "[resource-drop]fields") void fields_drop(own self);

static const char *const methods[] = {"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                      "CONNECT", "OPTIONS", "TRACE", "PATCH"};

static void add(own headers, const char *name, const char *value) {
  header_result done;
  fields_append(headers, name, length(name), value, length(value), &done);
  if (done.tag) __builtin_trap();
}

HANDLE {
  heap_reset(0);
  own stream, response_headers = fields_new();
  add(response_headers, "x-first", "1");
  add(response_headers, "x-second", "two");
  own body = respond(response_out, response_headers, &stream);

  method verb;
  request_method(request, &verb);
  if (verb.tag < sizeof methods / sizeof *methods) write_text(stream, methods[verb.tag]);
  else write_all(stream, verb.other.data, verb.other.size);
  write_text(stream, " ");
  result3 path;
  request_path(request, &path);
  if (path.tag) write_all(stream, path.list.data, path.list.size);
  write_text(stream, "\n");

  own headers = request_headers(request);
  entries all;
  fields_entries(headers, &all);
  for (uint32_t i = 0; i < all.count; i++) {
    write_all(stream, all.items[i].name.data, all.items[i].name.size);
    write_text(stream, ": ");
    write_all(stream, all.items[i].value.data, all.items[i].value.size);
    write_text(stream, "\n");
  }
  write_text(stream, "\n");
  fields_drop(headers);

  result3 sent, input;
  request_consume(request, &sent);
  if (sent.tag) __builtin_trap();
  incoming_body_stream(sent.handle, &input);
  if (input.tag) __builtin_trap();
  copy(input.handle, stream);
  input_drop(input.handle);
  incoming_body_drop(sent.handle);
  finish(body, stream);
  request_drop(request);
}
