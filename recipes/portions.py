"""Texts to tokenise, some at a time: until it is done with all, a tokenizer keeps some hundred bytes for each token, also of
what is cut off. Does not tokenise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_ITEMS = 1000
_CHARACTERS = 1 << 20


def portions(items: Iterable[_Item], characters: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Items in their order, so many at a time that they have few `characters` in all, and at least one."""
    some: list[_Item] = []
    total = 0
    for item in items:
        more = characters(item)
        if some and (len(some) == _ITEMS or total + more > _CHARACTERS):
            yield some
            some, total = [], 0
        some.append(item)
        total += more
    if some:
        yield some
