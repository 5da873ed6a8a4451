// SPDX-License-Identifier: Apache-2.0
// proc_exit(argv[1]): any 32-bit value, negative ones too.
#include <stdlib.h>
#include <wasi/api.h>

int main(int argc, char **argv) { __wasi_proc_exit(argc > 1 ? (__wasi_exitcode_t)strtoll(argv[1], NULL, 0) : 0); }
