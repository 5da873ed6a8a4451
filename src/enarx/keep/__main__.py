# SPDX-License-Identifier: Apache-2.0
"""What a launcher starts: `python -I -S .../enarx/keep/__main__.py --backend ... --link-fd 3`.

Isolated, because neither the environment nor a user's folder has a say in what a Keep loads; without `site`, because finding
the packages is a line that can be read here.
"""

import sys

if __name__ == "__main__":
    import site

    _standard = len(sys.path)
    site.main()
    # Before any other enarx that is installed here: what was measured is the package that this file is in.
    sys.path.insert(_standard, __file__.rsplit("/", 3)[0])
    from enarx.keep.main import main

    main(sys.argv[1:])
