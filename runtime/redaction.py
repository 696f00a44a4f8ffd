"""What a logged text must not hold, masked: every letter an x, every digit a 0, so that positions in the text stay true.

Masks e-mail addresses, numbers of telephones, cards and accounts, and keys by their form, what further patterns match, and
what a function of the administrator's changes. Finds no names of people: that is what such a function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from adapthub.adapters.errors import InvalidSettings

_Part = re.Pattern[str]
_DIGIT, _UPPER, _LOWER = map(re.compile, (r"\d", r"[A-Z]", r"[a-z]"))
_START = r"(?<![^\W_])"  # no letter or digit before; an underscore may be
# What is looked for, and what must be in it besides. Every pattern reads a character a bounded number of times.
_BUILT_IN: tuple[tuple[str, tuple[_Part, ...]], ...] = (
    (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", ()),  # e-mail
    (_START + r"[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?", ()),  # IBAN
    (_START + r"[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}", ()),  # IBAN without spaces
    (r"(?<![\d.])\d(?:[ -]?\d){12,}", ()),  # card
    (_START + r"(?<!\.)(?:\+|\(|\d)[\d ()/.-]{6,18}\d(?!\w)", ()),  # telephone
    (
        _START + r"(?:ah|sk|pk|rk|ghp|gho|ghs|hf|xox[abps]|glpat|AKIA|eyJ)[A-Za-z0-9_.=-]{12,}",
        (),
    ),  # keys by their prefix
    (r"[A-Za-z0-9_-]{32,}", (_DIGIT,)),  # keys, digests and other long words with digits in them
    (r"[A-Za-z0-9+/]{40,}", (_DIGIT, _UPPER, _LOWER)),  # base64, which paths are not
)


class Redaction:
    """Masks a text. `patterns`: regular expressions beside those built in; `hook`: `module:function`, a function that is
    given the text and returns it masked, as long as it was.

    Raises InvalidSettings for a pattern or a hook that is none.
    """

    def __init__(self, patterns: Sequence[str] = (), hook: str | None = None) -> None:
        built_in = [(re.compile(pattern), parts) for pattern, parts in _BUILT_IN]
        self._patterns = [*built_in, *((_compiled(pattern), ()) for pattern in patterns)]
        self._hook = None if hook is None else _function(hook)

    def __call__(self, text: str) -> str | None:
        """The text masked; None where the hook failed or changed its length, so that nothing of it may be kept."""
        for pattern, parts in self._patterns:
            text = pattern.sub(partial(_mask_with, parts), text)
        if self._hook is None:
            return text
        try:
            masked = self._hook(text)
        except Exception:  # whatever a stranger's function raises
            return None
        return masked if isinstance(masked, str) and len(masked) == len(text) else None


def _mask_with(parts: Sequence[_Part], match: re.Match[str]) -> str:
    """What was found, masked if all `parts` are in it."""
    text = match[0]
    if not all(part.search(text) for part in parts):
        return text
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
