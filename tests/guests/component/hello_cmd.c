// SPDX-License-Identifier: Apache-2.0
// wasi:cli/run that writes one line.
#include "component.h"

RUN {
  own out = get_stdout();
  return write_text(out, "Hello, Enarx!\n") ? RUN_OK : RUN_ERROR;
}
