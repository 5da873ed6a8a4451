// SPDX-License-Identifier: Apache-2.0
// Recurses until the stack is gone. Frames hold nothing in linear memory, so the engine's own stack runs out.
static __attribute__((noinline)) unsigned down(unsigned n) {
  __asm__ volatile("" : "+r"(n));
  return down(n + 1) + n;
}

int main(void) { return (int)down(0); }
