/* SPDX-License-Identifier: Apache-2.0 */
/* Where Hugs in a package finds its library, and the program's own modules. */
#define HUGSDIR "/hugs"
#define HUGSPATH "/app:{Hugs}/packages/*"
#define HUGSSUFFIXES ".hs:.lhs"
#define LARGE_HUGS 1
