"""Kernels of other servers, from a folder of their sources outside this repository: their modules alone, without the
packages around them, which need much that a benchmark does not.

A module is loaded with those beside it; whatever else it imports of its own package stands in as an object that is false and
empty, calls itself when called, and gives a function that it decorates back: settings are then at their defaults where these
are off. Whoever runs a kernel checks what it gives.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


class Missing(Exception):
    """The folder does not have the file."""


def load(folder: Path, package: str, file: str, **supplied: Any) -> Any:
    """The module of `package` in a file of that name anywhere under `folder`; `supplied` are what stand-ins have by name.

    Raises Missing, and what the module raises.
    """
    found = sorted(folder.rglob(file), key=lambda path: (len(path.parts), path))
    if not found:
        raise Missing(f"no {file} under {folder}")
    parts = found[0].with_suffix("").parts
    start = len(parts) - 1 - parts[::-1].index(package)
    name = ".".join(parts[start:])
    finder = _Finder(package, name.rpartition(".")[0], found[0].parent, supplied)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)


class _Anything:
    """Stands in for whatever is asked of it."""

    def __init__(self, supplied: dict[str, Any]) -> None:
        self._supplied = supplied

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._supplied.get(name, self)

    def __call__(self, *args: Any, **_: Any) -> Any:
        decorated = len(args) == 1 and hasattr(args[0], "run")  # what triton.jit gives
        return args[0] if decorated else self

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _StandIn(ModuleType):
    def __init__(self, name: str, supplied: dict[str, Any]) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, whose modules are stand-ins too
        self._anything = _Anything(supplied)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._anything, name)


class _Finder(MetaPathFinder, Loader):
    """Modules of one package: those of one folder as they are, stand-ins for the others."""

    def __init__(self, package: str, inside: str, folder: Path, supplied: dict[str, Any]) -> None:
        self._package, self._inside, self._folder, self._supplied = package, inside, folder, supplied

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self._package:
            return None
        parent, _, last = name.rpartition(".")
        file = self._folder / f"{last}.py"
        if parent == self._inside and file.exists():
            return spec_from_file_location(name, file)
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, self._supplied)

    def exec_module(self, module: ModuleType) -> None:
        pass
