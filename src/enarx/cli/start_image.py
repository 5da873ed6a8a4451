# SPDX-License-Identifier: Apache-2.0
"""One file with the code of every module that saying hello needs, so that a start imports nothing from anywhere else.

Importing those modules one by one costs a start more than a millisecond, most of it in looking for files. The image is
read by the launcher (`bin/enarx`), which runs `load` out of it; `write` is called by the first `enarx run` that had to
do without. It lies beside the compiled modules: `start/<Python and its version><environment>` in the cache directory.

`marshal` must never see bytes of a stranger: they would run as the user. So the rule is that of compiled modules: the
directory is ours and closed to others, the file is ours, regular, closed to others and as we wrote it. The last is told
by its mtime, which is set to SEALED_NS: whatever is written into the file later moves it. The mtime and size of each
source, and of each directory that `site` found, are in the image; if one has changed, if the image is damaged, if
anything at all goes wrong, the modules are imported as ever and the image is written anew.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Sequence
    from types import CodeType

# What the launcher looks for, too.
SEALED_NS = 0
FOLDER = "start"

# In the order in which they can run: each after those it imports. A test compares this with what hello loads.
MODULES = (
    "enarx",
    "enarx.errors",
    "enarx.cli.ui",
    "enarx.cli.options",
    "enarx.cli",
    "enarx.cli.run",
    "enarx.host.backends",
    "enarx.host",
    "enarx.runtime.capi",
    "enarx.runtime.cache",
    "enarx.runtime.engine",
    "enarx.runtime",
    "enarx.runtime.workload",
    "enarx.runtime.watch",
    "enarx.runtime.preview1",
    "enarx.runtime.preview1.mailbox",
    "enarx.runtime.preview1.errno",
    "enarx.runtime.preview1.descriptors",
    "enarx.runtime.preview1.host",
    "enarx.runtime.preview1.core",
)

_MAX_IMAGES = 16
# A file this young may be written again within the resolution of its times: it is left for a later run.
_SETTLED_NS = 50_000_000


def load(
    executable: str,
    paths: list[str],
    files: list[tuple[str, int, int]],
    modules: list[tuple[str, str, bool, CodeType]],
) -> bool:
    """Make the modules of an image, in place of importing them; False, and nothing done, if it is not to be used.

    The launcher runs this function's code alone, so it uses nothing else of this module.

    Args:
        executable: the Python of the environment it was written for.
        paths: what `site` would add to `sys.path`.
        files: path, mtime in ns and size in bytes of what it was made from.
        modules: name, source, whether it is a package, and code, in the order in which they run.
    """
    import gc
    import posix
    import sys
    from _frozen_importlib import ModuleSpec

    # Collecting garbage while modules run finds none; `enarx run` switches it on again for its workload.
    gc.disable()
    if executable != sys.executable:
        return False
    for path, mtime_ns, size in files:
        stat = posix.stat(path)
        if stat.st_mtime_ns != mtime_ns or stat.st_size != size:
            return False
    loaded = sys.modules
    spaces = {}
    # A package comes after some of its modules in the order of running, so all of them are there before any runs.
    for name, path, package, _ in sorted(modules):
        module = loaded[name] = type(sys)(name)
        spaces[name] = space = module.__dict__
        space["__spec__"] = spec = ModuleSpec(name, None, origin=path, is_package=package)
        space["__file__"] = path
        parent, _, leaf = name.rpartition(".")
        space["__package__"] = name if package else parent
        if package:
            space["__path__"] = spec.submodule_search_locations = [path.rpartition("/")[0]]
        if parent:
            spaces[parent][leaf] = module
    before = len(sys.path)
    sys.path += paths
    try:
        for name, _, _, code in modules:
            exec(code, spaces[name])  # noqa: S102  # the image's trust is the module docstring's subject
    except Exception:  # noqa: BLE001  # whatever it is, importing the modules will say it better
        del sys.path[before:]
        for name in spaces:
            del loaded[name]
        return False
    return True


def image_path(root: str) -> str:
    """Return the file of this Python and environment below the cache's root; the launcher says the same in its words."""
    # Not `sys.prefix`, which knows of an environment only after `site`.
    environment = sys.executable.replace("/", "%")
    return f"{root}/{FOLDER}/{sys.implementation.cache_tag}-{sys.hexversion:x}{environment}"


def write(base: Sequence[str], say: Callable[[str], None]) -> None:
    """Write the image for the next start. It fails no run: what goes wrong is said.

    Args:
        base: `sys.path` as it was before `site`.
        say: is told one line for `--verbose`.
    """
    from enarx.errors import PlatformError
    from enarx.runtime.cache import default_root

    root = default_root()
    if root is None:
        return
    path = image_path(root)
    try:
        if _write(path, [entry for entry in sys.path if entry not in base]):
            say(f"cache: wrote {path} for the next start")
    except (OSError, SyntaxError, PlatformError) as error:
        say(f"cache: cannot write {path}: {error}")


def _write(path: str, paths: list[str]) -> bool:
    import contextlib
    import marshal
    import os

    from enarx.runtime.cache import require_private

    folder = path.rpartition("/")[0]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    require_private(folder)
    temporary = f"{path}.{posix.urandom(8).hex()}.tmp"
    # First of all, so that a cache that cannot be written costs nothing.
    fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            made = _make(paths)
            if made is not None:
                file.write(marshal.dumps(made))
                file.flush()
                os.utime(fd, ns=(SEALED_NS, SEALED_NS))
        if made is not None:
            posix.rename(temporary, path)
            _prune(folder)
        return made is not None
    finally:
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(temporary)


def _make(
    paths: list[str],
) -> tuple[CodeType, tuple[str, list[str], list[tuple[str, int, int]], list[tuple[str, str, bool, CodeType]]]] | None:
    """Return the code of `load` and its arguments; None while a source is too young to be known by its times."""
    import os
    import time

    import enarx

    top = enarx.__path__[0].rpartition("/")[0]
    files = [(path, stat.st_mtime_ns, stat.st_size) for path in paths for stat in [os.stat(path)]]
    modules = []
    for name in MODULES:
        base = f"{top}/{name.replace('.', '/')}"
        path = f"{base}/__init__.py" if os.path.isdir(base) else f"{base}.py"
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            text = file.read()
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SETTLED_NS or len(text) != stat.st_size:
            return None
        files.append((path, stat.st_mtime_ns, stat.st_size))
        modules.append((name, path, path.endswith("/__init__.py"), _compile(text, path)))
    return load.__code__, (sys.executable, paths, files, modules)


def _compile(text: bytes, path: str) -> CodeType:
    """Compile a module without what a start never reads.

    That is docstrings, annotations with the imports they need, columns, which only mark a place in a traceback's line, and
    qualified names.
    """
    import ast

    tree = ast.parse(text, path)
    tree.body = [node for node in tree.body if not _is_for_annotations(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.stmt | ast.expr):
            node.end_lineno, node.col_offset, node.end_col_offset = node.lineno, -1, -1
    return _shorten(compile(tree, path, "exec", flags=annotations.compiler_flag, dont_inherit=True, optimize=2))


def _shorten(code: CodeType) -> CodeType:
    """Leave out the qualified names of functions, which only their `repr` shows."""
    consts = (_shorten(const) if isinstance(const, type(code)) else const for const in code.co_consts)
    return code.replace(co_qualname=code.co_name, co_consts=tuple(consts))


def _is_for_annotations(node: ast.stmt) -> bool:
    """Return whether a statement is the import that postpones annotations, or a block for type checkers alone."""
    import ast

    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _prune(folder: str) -> None:
    """Keep the youngest images: environments come and go."""
    import contextlib

    found = []
    for name in posix.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append((posix.lstat(f"{folder}/{name}").st_ctime_ns, name))
    for _, name in sorted(found, reverse=True)[_MAX_IMAGES:]:
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(f"{folder}/{name}")
