"""The splits of one run: found or given, read, completed by a validation split; leaks and repeats counted.

Does not encode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.recipes.data.dataset import GROUP, Dataset
from adapthub.recipes.data.pictures import PATIENT
from adapthub.recipes.data.saved import opened, saved_splits
from adapthub.recipes.data.splits import find_splits, group_keys, leaked, name_splits, repeated, split_off
from adapthub.recipes.recipe import Grouping, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adapthub.recipes.metrics import Measured

SPLITS = ("train", "validation", "test")
_FEW_ROWS = (
    8  # where few-shot methods begin (SetFit, Tunstall et al. 2022); below that a label is hardly learnt
)
_SHOWN = 5
_CHOSEN = " chosen "


def chosen_sources(data: Any, *, validation: Any = None, test: Any = None) -> dict[str, Any]:
    """What is read as which split: arguments as for `read_splits`."""
    sources = _sources(data)
    sources |= {
        name: given for name, given in (("validation", validation), ("test", test)) if given is not None
    }
    return {name: sources[name] for name in SPLITS if name in sources and sources[name] is not False}


def read_splits(
    recipe: Recipe, data: Any, *, validation: Any = None, test: Any = None, **options: Any
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The datasets of "train", "validation" and, where there is one, "test"; and notes worth showing.

    `data` is what recipe.read takes, or a folder with train.* and maybe validation.* and test.*, or a mapping
    of those names, or of dev, eval and their like (a datasets.DatasetDict). `validation` and `test` go before what `data`
    brings. Without a validation split, split_off sets some of the training rows aside: the same whatever the seed;
    `validation=False` or `test=False`: none is wanted, not even one that `data` brings. Raises InvalidData.
    """
    sources = chosen_sources(data, validation=validation, test=test)
    read = {name: recipe.read(opened(source), **options) for name, source in sources.items()}
    found, notes = completed(recipe, read, set_aside=validation is not False)
    return found, (*unused(data), *notes)


def unused(data: Any) -> tuple[str, ...]:
    """A note where a mapping, also one that was saved to a folder, has more splits than are read."""
    if isinstance(data, (str, Path)):
        names: Iterable[str] = saved_splits(Path(data)) or ()
    else:
        names = data if isinstance(data, Mapping) else ()
    others = sorted({*names}.difference(name_splits(names).values())) if names else []
    return (f"the data has {', '.join(map(repr, others))} besides, which is not used",) if others else ()


def completed(
    recipe: Recipe, read: Mapping[str, Dataset], *, set_aside: bool
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """As `read_splits`, of splits that are read: without validation, rows are set aside for it if `set_aside`."""
    read = dict(read)
    notes = [f"{name}: {note}" for name, dataset in read.items() for note in dataset.notes]
    if "validation" not in read and set_aside:
        # What is wrong with the rows is said before that they are too few.
        recipe.check(read["train"], recipe.labels(read["train"]))
        groups, together = _together(recipe, read["train"])
        read["train"], read["validation"] = split_off(read["train"], recipe.labels_of, groups=groups)
        aside, rest = len(read["validation"]), len(read["train"])
        notes.append(
            f"validation: no such split given, so {aside} of {aside + rest} training rows are set aside,"
            f"{_CHOSEN}by their content{together}"
        )
    read = {name: read[name] for name in SPLITS if name in read}
    return read, (
        *notes,
        *_rare(recipe, read["train"]),
        *_repeats(read["train"]),
        *_leaks(read),
        *_shares(recipe, read),
    )


def set_aside_by(notes: Iterable[str]) -> str | None:
    """How the rows for validation were chosen, by a run's notes, as what they say after "chosen"; None where none were."""
    ways = (note.partition(_CHOSEN)[2] for note in notes if note.startswith("validation: no such split"))
    return next(ways, None)


@dataclass(frozen=True)
class Clusters:
    """Which examples of a data set its own column says belong together: `groups` [n] from 0, and what they are `called`."""

    groups: NDArray[np.int64]
    called: str

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.groups.max()) + 1

    @property
    def note(self) -> str:
        """That intervals are of them."""
        return (
            f"intervals: rows of one {self.called} are resampled together, {self.count} groups of {len(self.groups)} rows:"
            " what they share makes them tell less"
        )


def clusters(dataset: Dataset, statistics: Measured) -> Clusters | None:
    """The groups of the data's GROUP; None where no column names any, where all rows are of one or each is of its own, and
    where what is measured is not rows (queries, in retrieval)."""
    if GROUP not in dataset.columns or statistics.n != len(dataset):
        return None
    found, groups = np.unique(group_keys(dataset, GROUP), return_inverse=True)
    if not 1 < len(found) < len(dataset):
        return None
    return Clusters(groups.astype(np.int64), _called(dataset, GROUP))


def _together(recipe: Recipe, train: Dataset) -> tuple[NDArray[np.uint64] | None, str]:
    """Keys of the rows that no split parts, None where each stands alone; and a note's words for it."""
    field = _grouped_by(recipe, train)
    if field is None:
        return None, ""
    keys, called = group_keys(train, field), _called(train, field)
    if _says_nothing(called, keys):
        return None, f"; all have one {called}, so who has pictures on both sides is not known"
    return keys, f"; rows of one {called} stay together"


def _says_nothing(called: str, keys: NDArray[np.uint64]) -> bool:
    """Whether all have one patient's id: those were taken out, often."""
    return called == PATIENT and bool((keys == keys[0]).all())


def _grouped_by(recipe: Recipe, dataset: Dataset) -> str | None:
    """The field by which rows belong together: GROUP where the data have it, else the recipe's, if they have that."""
    if GROUP in dataset.columns:
        return GROUP
    field = recipe.group if isinstance(recipe, Grouping) else None
    there = field is not None and (field in dataset.columns or field in dataset[0].fields)
    return field if there else None


def _called(dataset: Dataset, field: str) -> str:
    return dataset.columns.get(field, field) if field == GROUP else field


def _rare(recipe: Recipe, train: Dataset) -> Iterator[str]:
    """Labels with too few rows to be learnt, where others have enough."""
    counts = Counter(label for example in train for label in recipe.labels_of(example))
    rare = sorted((count, label) for label, count in counts.items() if count < _FEW_ROWS)
    if rare and len(rare) < len(counts):
        shown = ", ".join(f"{label} ({count})" for count, label in rare[:_SHOWN])
        more = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
        yield f"train: {len(rare)} of {len(counts)} labels have fewer than {_FEW_ROWS} rows: {shown}{more}"


def _repeats(train: Dataset) -> Iterator[str]:
    repeats, contradictions = repeated(train)
    if repeats:
        otherwise = f", {contradictions} of them with other labels" if contradictions else ""
        yield f"train: {repeats} of {len(train)} rows repeat an earlier one{otherwise}"


def _leaks(read: Mapping[str, Dataset]) -> Iterator[str]:
    for known, name in combinations(read, 2):
        if count := leaked(read[known], read[name]):
            which = "training" if known == "train" else known
            yield f"{name}: {count} of {len(read[name])} rows also stand in the {which} split"


def _shares(recipe: Recipe, read: Mapping[str, Dataset]) -> Iterator[str]:
    """Rows that belong to those of another split, where their inputs are not equal."""
    fields = {name: _grouped_by(recipe, dataset) for name, dataset in read.items()}
    keys = {name: group_keys(read[name], field) for name, field in fields.items() if field is not None}
    if keys and _says_nothing(
        _called(read["train"], fields["train"] or ""), np.concatenate([*keys.values()])
    ):
        return
    for known, name in combinations(keys, 2):
        inputs = np.isin(read[name].keys.inputs, read[known].keys.inputs)
        if count := int((np.isin(keys[name], keys[known]) & ~inputs).sum()):
            which, field = "training" if known == "train" else known, _called(read[name], fields[name] or "")
            yield f"{name}: {count} of {len(read[name])} rows have their {field} in common with the {which} split"


def _sources(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return {name: data[key] for name, key in name_splits(data).items()}
    if isinstance(data, (str, Path)):
        return dict(find_splits(Path(data)))
    return {"train": data}
