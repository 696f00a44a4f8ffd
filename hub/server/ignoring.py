"""Which files of an upload a `.gitignore` leaves out.

Its patterns are a stranger's: pathspec translates them, and RE2 matches them, in time proportional to the path. A pattern
that RE2 does not read means no file. Reads no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adapthub.adapters.errors import InvalidSettings

NAME = ".gitignore"
MAX_BYTES = 2**16
_MOST_PATTERNS = 1000
_PATTERN_BYTES = 2**18  # of memory that RE2 may take for one


def ignored(text: str, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that the last pattern of `text` to fit leaves out. Raises InvalidSettings for more than is read."""
    if len(text) > MAX_BYTES or text.count("\n") > _MOST_PATTERNS:
        raise InvalidSettings(
            f"{NAME} has more than {MAX_BYTES:,} characters or {_MOST_PATTERNS:,} lines", hint="Shorten it."
        )
    patterns = [*_patterns(text)][::-1]
    return {path for path in paths if next((out for match, out in patterns if match.match(path)), False)}


def _patterns(text: str) -> Iterable[tuple[Any, bool]]:
    """Each pattern, and whether it leaves files out or takes them in again."""
    import re2
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    for line in text.splitlines():
        try:
            expression, out = GitIgnoreSpecPattern.pattern_to_regex(line)
            if isinstance(expression, str) and out is not None:
                yield re2.compile(expression, options), out
        except (ValueError, re2.error):  # pathspec's own error is a ValueError
            continue
