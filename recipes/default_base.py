"""Which base a run is trained over where none is named: for each kind of task one that installs from a package registry.

By task, and where a text's own words are what is labelled by its language: one English base, one multilingual. Latin letters
with marks and other scripts tell that a text is not English; a language written almost without them (Dutch, Indonesian)
passes for it. Which of a hub's models serves the data best, a run says and no rule. Loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.samples import SAMPLES
from adapthub.recipes.data.dataset import GROUP, TARGETS

if TYPE_CHECKING:
    from adapthub.adapters.tasks import Task
    from adapthub.recipes.data.dataset import Dataset

_BASES: Mapping[Task, str] = {
    "text-generation": "smollm2-135m",
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
    if name is None:
        share = _foreign_letters(train)
        name = _ENGLISH if share <= _MOST_FOREIGN else _MULTILINGUAL
        said = f"of the training texts' letters {share:.2%} are outside ASCII"
        why = f"; {said}, {'as in English' if name == _ENGLISH else f'and {_ENGLISH} knows English alone'}"
    return name, f"base: package:{name}, as none is named ({SAMPLES[name].note}){why}"


def _foreign_letters(train: Dataset) -> float:
    """The share of letters outside ASCII in the inputs of at most 1,000 rows, spread evenly; 0 where none has a letter."""
    rows = min(len(train), _LOOKED_AT)
    letters = foreign = 0
    for example in train.select([at * len(train) // rows for at in range(rows)]):
        for name, value in example.fields.items():
            for text in _texts(value) if name not in (*TARGETS, GROUP) else ():
                foreign += sum(not letter.isascii() for letter in text if letter.isalpha())
                letters += sum(map(str.isalpha, text))
    return foreign / letters if letters else 0.0


def _texts(value: Any) -> Iterator[str]:
    """A text, or the words of one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (word for word in value if isinstance(word, str))
