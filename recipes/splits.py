"""The splits of one run: found or given, read, completed by a validation split, leaks counted.

Does not check labels and does not encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.data.splits import find_splits, leaked, split_off
from adapthub.recipes.recipe import Recipe

SPLITS = ("train", "validation", "test")


def read_splits(
    recipe: Recipe, data: Any, *, validation: Any = None, test: Any = None, **options: Any
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The datasets of "train", "validation" and, where there is one, "test"; and notes worth showing.

    `data` is what recipe.read takes, or a folder with train.* and maybe validation.* and test.*, or a mapping
    of those names (a datasets.DatasetDict). `validation` and `test` go before what `data` brings. Without a
    validation split, a tenth of the training rows is set aside: the same rows whatever the seed. Raises
    InvalidData.
    """
    sources = _sources(data)
    sources |= {
        name: given for name, given in (("validation", validation), ("test", test)) if given is not None
    }
    read = {name: recipe.read(sources[name], **options) for name in SPLITS if name in sources}
    notes = []
    if "validation" not in read:
        read["train"], read["validation"] = split_off(read["train"], recipe.labels_of)
        aside, rest = len(read["validation"]), len(read["train"])
        notes.append(
            f"validation: no such split given, so {aside} of {aside + rest} training rows are set aside,"
            " chosen by their content"
        )
    for name in SPLITS[1:]:
        if name in read and (count := leaked(read["train"], read[name])):
            notes.append(f"{name}: {count} of {len(read[name])} rows also stand in the training split")
    return {name: read[name] for name in SPLITS if name in read}, tuple(notes)


def _sources(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        if "train" not in data:
            raise InvalidData(f"the data has no split 'train', only {', '.join(map(repr, data))}")
        return {name: data[name] for name in SPLITS if name in data}
    if isinstance(data, (str, Path)):
        return dict(find_splits(Path(data)))
    return {"train": data}
