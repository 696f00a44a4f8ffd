"""Of how many examples a text is written and measured at the end, and of which: the setting `answered`; and writing them.

Writing takes most of what measuring takes, so it is bounded; the loss is of every example. Does not measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidSettings

if TYPE_CHECKING:
    from adapthub.recipes.data.dataset import Dataset
    from adapthub.runtime import Runtime

REASON = (
    "writing takes longest of what is measured at the end; how much so many texts tell, the intervals say"
)
DEFAULT = 128
"""Texts that are written of a split unless `answered` is given, by tasks whose texts are a line or two: not by chat, whose
answers are longer."""
ALL = "all"


def setting(answered: int | str) -> dict[str, Any]:
    """What Dataset.settings hold of it: nothing where all texts are written, as in runs from before there was a choice.
    Raises InvalidSettings."""
    if answered == ALL:
        return {}
    count: object = int(answered) if isinstance(answered, str) and answered.isdecimal() else answered
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InvalidSettings(
            f"answered={answered!r} is no number of examples", hint=f"Give a whole number from 0, or {ALL}."
        )
    return {"answered": count}


def places(dataset: Dataset) -> list[int]:
    """The places of the examples whose texts are written, spread evenly; all of them where the data have no such setting."""
    rows = len(dataset)
    wanted = min(rows, dataset.settings.get("answered", rows))
    return [at * rows // wanted for at in range(wanted)]


def note(dataset: Dataset) -> str | None:
    """What is worth saying of a split that is measured; None where all of its texts are written."""
    rows, written = len(dataset), len(places(dataset))
    if written == rows:
        return None
    return f"texts of {written:,} of {rows:,} rows are written and measured (answered), the loss of all"


def write(
    runtime: Runtime,
    adapter: str | None,
    prompts: Mapping[int, list[int]],
    rows: int,
    *,
    most: int,
    stops: Sequence[int],
) -> list[str]:
    """Of `rows` examples what the served adapter writes after the token ids of each one's prompt, by place; "" for others.

    Fewer tokens than `most` where a prompt leaves no room for more, and none where it leaves no room at all: one long row
    costs its own text, not the measures of all others.
    """
    by_length: dict[int, list[int]] = {}
    for at, prompt in prompts.items():
        by_length.setdefault(min(most, runtime.room(adapter, len(prompt))), []).append(at)
    texts = [""] * rows
    for tokens, places in by_length.items():
        if tokens > 0:
            some = [prompts[at] for at in places]
            found = runtime.generate(some, adapter, max_new_tokens=tokens, stop_token_ids=stops)
            for at, generation in zip(places, found, strict=True):
                texts[at] = generation.text
    return texts
