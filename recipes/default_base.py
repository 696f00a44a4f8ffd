"""Which base a run is trained over where none is named: for each kind of task one that installs from a package registry.

By task, and where a text's own words are what is labelled by its language: one English base, one multilingual. Latin letters
with marks and other scripts tell that a text is not English; a language written almost without them (Dutch, Indonesian)
passes for it. No language model that installs so knows other languages: where the texts are in one, what is said of the base
is a warning. Which of a hub's models serves the data best, a run says and no rule. Loads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.samples import SAMPLES
from adapthub.adapters.tasks import TEXT_GENERATION
from adapthub.recipes.data.dataset import GROUP, TARGETS

if TYPE_CHECKING:
    from adapthub.adapters.tasks import Task
    from adapthub.recipes.data.dataset import Dataset

_BASES: Mapping[Task, str] = {
    TEXT_GENERATION: "smollm2-135m",
    "feature-extraction": "e5-small",
    "image-classification": "efficientnet-lite0",
    "automatic-speech-recognition": "whisper-base",
}
_ENGLISH, _MULTILINGUAL = "minilm", "e5-small"  # for every other task
# Of all letters. Measured on the samples: English 0 to 0.15 %, French, German, Italian, Spanish, Swedish, Portuguese 1.0 to
# 4.4 %, Chinese 69 to 96 % (with Latin names), Cyrillic, Arabic and Indic scripts over 88 %.
_MOST_FOREIGN = 0.005
_LOOKED_AT = 1000  # rows


def default_base(task: str, train: Dataset) -> tuple[str, str]:
    """The base for a recipe's `task` and its training rows, the name of a sample; and in a line that it is so, and why."""
    name, why = _BASES.get(cast("Task", task)), ""
    if name is None or task == TEXT_GENERATION:
        # What a language model learns to write is text too.
        share = _foreign_letters(train, (GROUP,) if task == TEXT_GENERATION else (*TARGETS, GROUP))
        is_english = share <= _MOST_FOREIGN
        said = f"of the training texts' letters {share:.2%} are outside ASCII"
        if name is None:
            name = _ENGLISH if is_english else _MULTILINGUAL
            why = f"; {said}, {'as in English' if is_english else f'and {_ENGLISH} knows English alone'}"
        elif not is_english:
            why = (
                f"; {said}, and {name} was taught English: expect little of it, and name a base that knows their language, a"
                " folder or a hub's id, such as a multilingual instruct model of a size that fits"
            )
    return name, f"base: package:{name}, as none is named ({SAMPLES[name].note}){why}"


def _foreign_letters(train: Dataset, apart: Collection[str]) -> float:
    """The share of letters outside ASCII in the fields of at most 1,000 rows, spread evenly, those `apart` left out; 0 where
    none has a letter."""
    rows = min(len(train), _LOOKED_AT)
    letters = foreign = 0
    for example in train.select([at * len(train) // rows for at in range(rows)]):
        for name, value in example.fields.items():
            for text in _texts(value) if name not in apart else ():
                foreign += sum(not letter.isascii() for letter in text if letter.isalpha())
                letters += sum(map(str.isalpha, text))
    return foreign / letters if letters else 0.0


def _texts(value: Any) -> Iterator[str]:
    """A text, the words of one, a message's, or those of a conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("content"))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
