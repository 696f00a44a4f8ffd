"""The files that a server's pages are made of, read once: style, script, icon, and the style that both servers share.

Serves none of them.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
_STYLE = "style.css"
_HOUSE = "house.css"


def read_files(folder: Traversable) -> dict[str, bytes]:
    """The files in `folder` by name; its style behind what both servers' pages share."""
    found = {file.name: file.read_bytes() for file in folder.iterdir() if _ending(file.name) in _TYPES}
    return found | {_STYLE: (files("adapthub.web") / _HOUSE).read_bytes() + found[_STYLE]}


def media_type(name: str) -> str:
    """What a file is, by its name."""
    return _TYPES[_ending(name)]


def _ending(name: str) -> str:
    return name.rpartition(".")[2]
