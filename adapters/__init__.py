"""What an adapter is, and how adapters act on a base model.

The names below load on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adapthub.adapters.quiet import quiet_bitsandbytes

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.attach import AdaptedBase
    from adapthub.adapters.base import Base, load_base

_HOME = {
    "AdaptedBase": "attach",
    "Artifact": "artifact",
    "Base": "base",
    "load_base": "base",
}

quiet_bitsandbytes()

__all__ = ["AdaptedBase", "Artifact", "Base", "load_base"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
