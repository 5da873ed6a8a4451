# SPDX-License-Identifier: Apache-2.0
"""What runs in a Keep, and the measurements that say so.

Runs: host, tenant. Trusted by: the tenant, of its own copy: a reference value is worth what the copy is worth that it was computed
from.

- `process` measures a Keep that is a process.
- `build` makes the image of one that is a virtual machine: `contents` says of what, `lock` pins it, `inputs` fetches it, `tools` runs what
  decides bytes, `initramfs` puts it together, `manifest` describes it.
- `store` is what everybody else knows of images: where they are, and that they are whole.
- `measure` and `reference` say what hardware will say of one.
"""

from __future__ import annotations

from enarx.image.process import PROCESS_IMAGE, measure_process, package_folder

__all__ = ["PROCESS_IMAGE", "measure_process", "package_folder"]
