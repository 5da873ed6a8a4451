# SPDX-License-Identifier: Apache-2.0
"""What a launcher starts for each virtual machine: `python -I -S .../enarx/host/launchers/__main__.py`; see `guard`."""

import sys

if __name__ == "__main__":
    # It needs nothing that is installed beside Python but this package.
    sys.path.insert(0, __file__.rsplit("/", 4)[0])
    from enarx.host.launchers.guard import main

    main()
