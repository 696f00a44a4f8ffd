"""A hub without anything in it, as the first who opens one leaves it: made once in a process and then copied, as making its
tables takes longer than most of what tests do with them.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from adapthub.hub.store import DATABASE, Store


def make_empty(root: Path) -> Path:
    """Let there be an empty hub in the folder `root`, which is not there yet."""
    root.mkdir(parents=True)
    (root / DATABASE).write_bytes(_tables())
    return root


@cache
def _tables() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "hub"
        Store.open(root).database.close()
        return (root / DATABASE).read_bytes()
