"""What a list of a plain hub says of an adapter: from the tags and the card's metadata, for it has read no adapter.

Does not guess: what neither says is unknown.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub.registry import Entry, Facts, Version

if TYPE_CHECKING:
    from adapthub.hub.plain_documents import ListedDocument

_BASE = "base_model:adapter:"
_METHODS = ("lora", "ia3", "prefix", "prompt", "dora")


def entry_of(item: ListedDocument) -> Entry | None:
    """One adapter of a list; None for what no reference can name. Its version has the number 0 and no digest:
    a plain hub counts none."""
    from adapthub.adapters.errors import InvalidReference
    from adapthub.hub.reference import Reference

    try:
        name = Reference.parse(item.id).full_name
    except InvalidReference:
        return None
    when = item.lastModified or item.createdAt
    created = datetime.fromtimestamp(0, UTC) if when is None else when.astimezone(UTC)
    return Entry(Version(name, 0, "", created, "", 0), _facts_of(item), 0, {})


def _facts_of(item: ListedDocument) -> Facts:
    tags = item.tags or []
    base = item.cardData.get("base_model") if isinstance(item.cardData, dict) else None
    tagged = next((tag.removeprefix(_BASE) for tag in tags if tag.startswith(_BASE)), None)
    task = item.pipeline_tag
    return Facts(
        method=next((method for method in _METHODS if method in tags), None),
        task=task if task in PEFT_TASK_TYPES else next((tag for tag in tags if tag in PEFT_TASK_TYPES), None),
        labels=None,
        base=base if isinstance(base, str) else tagged,
        base_fingerprint=None,
        rank=None,
        metrics=(),
    )
