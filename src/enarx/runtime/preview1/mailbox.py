# SPDX-License-Identifier: Apache-2.0
"""Where the router leaves a call's arguments and Python its answer: indices of u32 words in the mailbox memory.

The same layout in bytes is in `tools/make_overlay.py`; a test compares the two.
"""

from __future__ import annotations

ERRNO = 0  # success before a call, so that only a failure has to be told; for `refuse` what it refuses with
PAGES = 1  # of the workload's memory, at the time of the call
IOV_PTR = 2  # the first iovec, where there is one
IOV_LEN = 3
ARG0 = 4  # argument n is the word ARG0 + 2n; a 64-bit one has its high half in the next word
ARG1 = 6
ARG2 = 8
ARG3 = 10
OPEN = 25  # descriptors open now, of either side
OPEN_LIMIT = 27  # for them
EXITED = 28  # 1 once the workload has called proc_exit
EXIT_CODE = 29
COUNT = 30  # the second result, such as the number of bytes read
NOW = 32  # the engine's monotonic clock when poll_oneoff was called, 64 bits of ns
OWN_CLOCK = 34  # 1 where the wall clock is not this machine's
WALL = 36  # what it shows, 64 bits of ns since 1970
MAPPED = 38  # pages of the workload's memory as Python has it mapped
DIRECT = 39  # the descriptor where one mapped buffer without flags is all there is to a read or write, else none
RESULT = 40  # where Python leaves an answer of a fixed size, of up to RESULT_BYTES bytes
RESULT_BYTES = 64

# The map of descriptors: u16 words from this byte on, one for each of the workload's numbers.
MAP_OFFSET = 4096
MAP_ENTRIES = 30720
FREE = 0
HELD = 0xFFFF  # by Python; anything else is the engine's own number
FIRST_NATIVE = 3  # the engine's number of the first preopened directory
