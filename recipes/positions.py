"""How long a row may be: what a base has positions for, less what a prefix or a prompt takes of them.

Does not cut rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapthub.adapters.base import ResolvedBase
from adapthub.adapters.errors import InvalidSettings


def longest_row(
    max_length: int | None, given: Mapping[str, Any], adapter: Mapping[str, Any], base: ResolvedBase
) -> int | None:
    """max_length, less where the base has fewer positions, or a prefix or a prompt takes some from the text. Raises
    InvalidSettings where more was asked for.
    """
    taken = "prompt_length" if "prompt_length" in adapter else "prefix_length"
    room = _room(adapter, base)
    if max_length is None or room is None or max_length <= room:
        return max_length
    if given.get("max_length") is not None or room < 1:
        both, shorter = f" and {taken}={adapter.get(taken)} exceed", f", or a shorter {taken}"
        raise InvalidSettings(
            f"max_length={max_length}{both if adapter.get(taken) else ' exceeds'} {base.ref}'s"
            f" {base.config.max_position_embeddings} positions",
            hint=f"Set max_length to at most {max(room, 0)}{shorter if adapter.get(taken) else ''}.",
        )
    return room


def _room(adapter: Mapping[str, Any], base: ResolvedBase) -> int | None:
    """Positions that a prefix or a prompt leaves to the text; None for a base without a limit."""
    positions: int | None = getattr(base.config, "max_position_embeddings", None)
    taken: int = adapter.get("prompt_length", 0) or adapter.get("prefix_length", 0)
    return None if positions is None else positions - taken - _reserved_positions(base)


def _reserved_positions(base: ResolvedBase) -> int:
    """Positions before the first token: RoBERTa's family counts from its padding id."""
    return 2 if "roberta" in base.config.model_type else 0
