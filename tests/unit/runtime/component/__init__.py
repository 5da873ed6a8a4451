# SPDX-License-Identifier: Apache-2.0
"""Components on the engine: one module per module of `enarx.runtime.component`."""
