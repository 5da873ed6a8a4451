// SPDX-License-Identifier: Apache-2.0
// Imports an interface that no WASI offers.
#include "component.h"

IMPORT("guests:tests/elsewhere", "launch") void launch(void);

RUN {
  launch();
  return RUN_OK;
}
