"""Keeps other libraries' chatter off stderr, where a command's own line must be the only one, and their imports short.

Hides what repeats our own words or says nothing to the user; errors still show. Not for use as a library.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries() -> None:
    """Call before transformers is imported. What the user set in the environment stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "off")  # "false" is a user's: see recipes.prepared


@contextmanager
def importing() -> Iterator[None]:
    """Within: nothing is collected, for what torch and transformers make when they are imported stays. Not frozen either:
    Triton, which they import, then tells of leaks when the process ends."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
