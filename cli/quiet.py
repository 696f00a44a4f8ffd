"""Keeps other libraries' chatter off stderr, where a command's own line must be the only one.

Hides what repeats our own words or says nothing to the user; errors still show. Not for use as a library.
"""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Call before transformers is imported. What the user set in the environment stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
