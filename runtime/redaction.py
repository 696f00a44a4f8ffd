"""What a logged text must not hold, masked: every letter an x, every digit a 0, so that positions in the text stay true.

Masks e-mail addresses, telephone and card numbers and keys by their form, what further patterns match, and what a function
of the administrator's changes. Finds no names of people: that is what such a function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module

from adapthub.adapters.errors import InvalidSettings

_BUILT_IN = (
    r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",  # e-mail
    r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)",  # card
    r"(?<![\w.])(?:\+|\(|\d)[\d ()/.-]{6,18}\d(?!\w)",  # telephone
    r"\b(?:ah|sk|pk|rk|ghp|gho|ghs|hf|xox[abps]|glpat|AKIA|eyJ)[A-Za-z0-9_.=-]{12,}",  # keys by their prefix
    r"\b(?=[A-Za-z_-]{0,40}\d)[A-Za-z0-9_-]{32,}\b",  # keys, digests and other long words with digits in them
)


class Redaction:
    """Masks a text. `patterns`: regular expressions beside those built in; `hook`: `module:function`, a function that is
    given the text and returns it masked, as long as it was.

    Raises InvalidSettings for a pattern or a hook that is none.
    """

    def __init__(self, patterns: Sequence[str] = (), hook: str | None = None) -> None:
        self._patterns = [*map(re.compile, _BUILT_IN), *map(_compiled, patterns)]
        self._hook = None if hook is None else _function(hook)

    def __call__(self, text: str) -> str | None:
        """The text masked; None where the hook failed or changed its length, so that nothing of it may be kept."""
        for pattern in self._patterns:
            text = pattern.sub(lambda match: _mask(match[0]), text)
        if self._hook is None:
            return text
        try:
            masked = self._hook(text)
        except Exception:  # whatever a stranger's function raises
            return None
        return masked if isinstance(masked, str) and len(masked) == len(text) else None


def _mask(text: str) -> str:
    return "".join("0" if sign.isdigit() else "x" if sign.isalpha() else sign for sign in text)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidSettings(f"{pattern!r} is no regular expression: {error}") from error


def _function(hook: str) -> Callable[[str], str]:
    module, _, name = hook.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(
            f"{hook!r} cannot be imported: {error}", hint="Write module:function, on Python's path."
        ) from error
    if not callable(found):
        raise InvalidSettings(f"{hook!r} is no function")
    function: Callable[[str], str] = found
    return function
