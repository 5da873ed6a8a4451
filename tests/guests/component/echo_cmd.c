// SPDX-License-Identifier: Apache-2.0
// wasi:cli/run that copies stdin to stdout.
#include "component.h"

IMPORT("wasi:cli/stdin@0.2.0", "get-stdin") own get_stdin(void);

RUN { return copy(get_stdin(), get_stdout()) ? RUN_OK : RUN_ERROR; }
