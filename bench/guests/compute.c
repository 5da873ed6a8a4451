// SPDX-License-Identifier: Apache-2.0
// The compute benchmark: a table CRC, a matrix product, a sieve and a pointer chase, each about as long as the others.
// Everything is integer or exact in binary floating point, so that every engine, and a native build, prints the same lines.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t lcg(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

static uint32_t crc(void) {
  enum { SIZE = 1 << 20, ROUNDS = 192 };
  static uint32_t table[256];
  static uint8_t data[SIZE];
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  uint32_t seed = 1, c = ~0u;
  for (int i = 0; i < SIZE; i++) data[i] = (uint8_t)(lcg(&seed) >> 24);
  for (int r = 0; r < ROUNDS; r++) {
    for (int i = 0; i < SIZE; i++) c = table[(c ^ data[i]) & 255] ^ (c >> 8);
  }
  return ~c;
}

static double matmul(void) {
  enum { N = 400, ROUNDS = 12 };
  static double a[N][N], b[N][N], c[N][N];
  uint32_t seed = 2;
  for (int i = 0; i < N; i++) {
    for (int j = 0; j < N; j++) {
      a[i][j] = (double)(lcg(&seed) >> 24);
      b[i][j] = (double)(lcg(&seed) >> 24);
    }
  }
  for (int r = 0; r < ROUNDS; r++) {
    for (int i = 0; i < N; i++) {
      for (int k = 0; k < N; k++) {
        double x = a[i][k];
        for (int j = 0; j < N; j++) c[i][j] += x * b[k][j];
      }
    }
  }
  double trace = 0;
  for (int i = 0; i < N; i++) trace += c[i][i];
  return trace;
}

static uint32_t sieve(void) {
  enum { LIMIT = 20000000, ROUNDS = 2 };
  uint8_t *composite = malloc(LIMIT + 1);
  if (!composite) abort();
  uint32_t count = 0;
  for (int r = 0; r < ROUNDS; r++) {
    memset(composite, 0, LIMIT + 1);
    for (uint32_t i = 2; i <= LIMIT; i++) {
      if (composite[i]) continue;
      count++;
      for (uint64_t j = (uint64_t)i * i; j <= LIMIT; j += i) composite[j] = 1;
    }
  }
  free(composite);
  return count;
}

static uint32_t chase(void) {
  enum { SIZE = 1 << 20, STEPS = 12000000 };
  uint32_t *next = malloc(SIZE * sizeof *next);
  if (!next) abort();
  for (uint32_t i = 0; i < SIZE; i++) next[i] = i;
  // Sattolo's shuffle leaves one cycle through all of them.
  uint32_t seed = 3;
  for (uint32_t i = SIZE - 1; i > 0; i--) {
    uint32_t j = (uint32_t)(((uint64_t)lcg(&seed) * i) >> 32), t = next[i];
    next[i] = next[j];
    next[j] = t;
  }
  uint32_t at = 0;
  for (int i = 0; i < STEPS; i++) at = next[at];
  free(next);
  return at;
}

int main(void) {
  printf("crc %08x\n", crc());
  printf("matmul %.0f\n", matmul());
  printf("sieve %u\n", sieve());
  printf("chase %u\n", chase());
  return 0;
}
