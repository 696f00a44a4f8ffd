"""What a list of a plain hub says of an adapter: from the tags and the card's metadata, for it has read no adapter.

Does not guess: what neither says is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub.registry import Entry, Facts, Version

_BASE = "base_model:adapter:"
_METHODS = ("lora", "ia3", "prefix", "prompt", "dora")


def entry_of(item: Mapping[str, Any]) -> Entry | None:
    """One adapter of a list; None for what no reference can name. Its version has the number 0 and no digest:
    a plain hub counts none."""
    from adapthub.adapters.errors import InvalidReference
    from adapthub.hub.reference import Reference

    try:
        name = Reference.parse(str(item.get("id"))).full_name
    except InvalidReference:
        return None
    when = item.get("lastModified") or item.get("createdAt")
    created = (
        datetime.fromtimestamp(0, UTC) if when is None else datetime.fromisoformat(str(when)).astimezone(UTC)
    )
    return Entry(Version(name, 0, "", created, "", 0), _facts_of(item), 0, {})


def _facts_of(item: Mapping[str, Any]) -> Facts:
    tags = [str(tag) for tag in item.get("tags") or ()]
    card = item.get("cardData") or {}
    base = card.get("base_model") if isinstance(card, dict) else None
    tagged = next((tag.removeprefix(_BASE) for tag in tags if tag.startswith(_BASE)), None)
    task = item.get("pipeline_tag")
    return Facts(
        method=next((method for method in _METHODS if method in tags), None),
        task=task if task in PEFT_TASK_TYPES else next((tag for tag in tags if tag in PEFT_TASK_TYPES), None),
        labels=None,
        base=base if isinstance(base, str) else tagged,
        base_fingerprint=None,
        rank=None,
        metrics=(),
    )
