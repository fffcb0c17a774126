"""What a `module:attribute` of the user's depends on: the source files behind it, followed through its own imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from autotune.fingerprint import digest_of, file_digest

_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = sys.stdlib_module_names


def code_digest(path: str) -> str | None:
    """A digest of the module of `path` ("module:attribute") and of the modules beside it that it imports, directly or not.

    Libraries do not count: what is installed is known by its version. None where the module has no source file. The module's
    parent packages are imported, the module itself is not. Raises ImportError where one of them cannot be.
    """
    files = sorted(source_files(path.partition(":")[0]))
    return digest_of([file_digest(file) for file in files]) if files else None


def source_files(module: str) -> set[Path]:
    """The source files of a module and of what it imports from its own tree: the same package, or the folder it lies in."""
    found: set[Path] = set()
    waiting = [module]
    seen: set[str] = set()
    root = _root(module)
    while waiting:
        name = waiting.pop()
        file = None if name in seen else _file(name)
        seen.add(name)
        if file is None or root is None or not file.is_relative_to(root):
            continue
        found.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imports(file, package)
    return found


def _root(module: str) -> Path | None:
    """The folder whose modules count as the user's: that of the top-level module; of an installed one its package alone."""
    top = module.partition(".")[0]
    file = _file(top)
    if file is None:
        return None
    package = file.parent if file.name == "__init__.py" else file
    folder = package.parent
    return package if any(part in _INSTALLED for part in folder.parts) else folder


def _file(module: str) -> Path | None:
    """The module's source file; None for built-in, compiled and missing ones."""
    try:
        spec: ModuleSpec | None = find_spec(module)
    except (ImportError, ValueError, AttributeError):  # a name that is no module, such as the class in `from a.b import C`
        return None
    if spec is None:
        return None
    if spec.origin in (None, "namespace") and spec.submodule_search_locations:  # a folder without __init__.py
        return None
    return Path(spec.origin).resolve() if spec.origin and spec.origin.endswith(".py") else None


def _imports(file: Path, package: str) -> Iterator[str]:
    """The names that may be modules in every import statement of a file. A file that does not parse imports nothing."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] not in _STDLIB)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name.partition(".")[0] not in _STDLIB:
                yield from (name, *(f"{name}.{alias.name}" for alias in node.names))
