# SPDX-License-Identifier: Apache-2.0
"""What the `enarx` command runs, in a Python without `site`: the start image if there is one, else the modules as ever.

`bin/enarx` runs the compiled form of this file as a program, because compiling it would cost a start a millisecond.
What of the image is believed, and why: enarx/cli/start_image.py.
"""

import gc
import marshal
import posix
import sys

_base = sys.path[:]
_loaded = False
if sys.argv[1:2] == ["run"]:
    # Looking for garbage among what is being loaded takes a twentieth of a start and finds none.
    gc.disable()
    try:
        _cache = posix.environ.get(b"XDG_CACHE_HOME", b"")
        if _cache[:1] != b"/":
            _cache = posix.environ[b"HOME"] + b"/.cache"
        _folder = _cache.decode("utf-8", "surrogateescape") + "/enarx/start"
        _name = f"/{sys.implementation.cache_tag}-{sys.hexversion:x}{sys.executable.replace('/', '%')}"
        _around = posix.lstat(_folder)
        _fd = posix.open(_folder + _name, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        try:
            _stat = posix.fstat(_fd)
            if (
                (_around.st_mode & 0o170077, _stat.st_mode & 0o170077, _stat.st_mtime_ns) == (0o040000, 0o100000, 0)
                and _around.st_uid == _stat.st_uid == posix.geteuid()
                and _folder[0] == "/"
            ):
                # Without a name for what was read, its memory is soon used again.
                _code, _arguments = marshal.loads(posix.read(_fd, min(_stat.st_size, 1 << 20)))  # noqa: S302  # ours
                # `types` would be an import.
                _loaded = type(lambda: 0)(_code, {})(*_arguments)  # type: ignore[misc]
        finally:
            posix.close(_fd)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, there is a way without
        _loaded = False
if not _loaded:
    import site

    gc.enable()
    site.main()
from enarx.cli import main  # noqa: E402  # only now can it be found

_status = main(sys.argv[1:], None if _loaded else _base)
for _stream in (sys.stdout, sys.stderr):
    if _stream is not None:
        _stream.flush()
# Taking the interpreter apart object by object would be a tenth of a short run.
posix._exit(_status)
