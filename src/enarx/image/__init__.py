# SPDX-License-Identifier: Apache-2.0
"""What runs in a Keep, and the measurements that say so.

Runs: host, tenant. Trusted by: the tenant, of its own copy: a reference value is worth what the copy is worth that it was computed
from.

- `process` measures a Keep that is a process. Images for virtual machines are planned.
"""

from __future__ import annotations

from enarx.image.process import PROCESS_IMAGE, measure_process, package_folder

__all__ = ["PROCESS_IMAGE", "measure_process", "package_folder"]
