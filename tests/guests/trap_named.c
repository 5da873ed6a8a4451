// SPDX-License-Identifier: Apache-2.0
// Traps three named functions below main; built with names, so that the backtrace can show them.
static __attribute__((noinline)) int innermost_function(int n) {
  if (n) __builtin_trap();
  return n;
}

static __attribute__((noinline)) int middle_function(int n) { return innermost_function(n) + 1; }

static __attribute__((noinline)) int outer_function(int n) { return middle_function(n) + 1; }

int main(int argc, char **argv) {
  (void)argv;
  return outer_function(argc);
}
