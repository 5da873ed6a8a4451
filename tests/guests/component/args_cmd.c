// SPDX-License-Identifier: Apache-2.0
// Prints its arguments, an empty line, then its environment, one item a line, then does what its last argument says:
// "fail" returns an error, "exit-ok" and "exit-error" call wasi:cli/exit, "trap" traps, "spin" never ends, "stderr" writes there.
#include "component.h"

typedef struct {
  text name, value;
} variable;

typedef struct {
  variable *items;
  uint32_t count;
} variables;

IMPORT("wasi:cli/environment@0.2.0", "get-environment") void get_environment(variables *out);
IMPORT("wasi:cli/exit@0.2.0", "exit") void cli_exit(int32_t status);
IMPORT("wasi:cli/stderr@0.2.0", "get-stderr") own get_stderr(void);

RUN {
  own out = get_stdout();
  texts args;
  get_arguments(&args);
  for (uint32_t i = 0; i < args.count; i++) {
    write_all(out, args.items[i].data, args.items[i].size);
    write_text(out, "\n");
  }
  write_text(out, "\n");
  variables env;
  get_environment(&env);
  for (uint32_t i = 0; i < env.count; i++) {
    write_all(out, env.items[i].name.data, env.items[i].name.size);
    write_text(out, "=");
    write_all(out, env.items[i].value.data, env.items[i].value.size);
    write_text(out, "\n");
  }
  text last = args.count ? args.items[args.count - 1] : (text){0};
  if (equal(last, "fail")) return RUN_ERROR;
  if (equal(last, "exit-ok")) cli_exit(0);
  if (equal(last, "exit-error")) cli_exit(1);
  if (equal(last, "trap")) __builtin_trap();
  if (equal(last, "stderr")) write_text(get_stderr(), "to stderr\n");
  if (equal(last, "spin")) {
    for (volatile uint32_t i = 0;; i++) {
    }
  }
  return RUN_OK;
}
