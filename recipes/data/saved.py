"""Folders that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` of the datasets library wrote: found, and opened by it.

Rows stay in its Arrow files, mapped. Does not read them: recipes do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData

# The library's names for what it writes beside the Arrow files.
_OF_ONE, _OF_SEVERAL = ("state.json", "dataset_info.json"), "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a Dataset was saved to `folder`."""
    return all((folder / name).is_file() for name in _OF_ONE)


def saved_splits(folder: Path) -> tuple[str, ...] | None:
    """The names of the splits that were saved to `folder` as a DatasetDict, each a folder in it; None where it is none.
    Raises InvalidData where what says so cannot be read."""
    path = folder / _OF_SEVERAL
    if not path.is_file():
        return None
    try:
        return tuple(map(str, json.loads(path.read_text(encoding="utf-8"))["splits"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidData(f"{path}: not what save_to_disk writes: {error}", hint="Save it anew.") from error


def opened(source: Any) -> Any:
    """`source`; the Dataset where that is a folder to which one was saved. Raises InvalidData for what the library cannot
    read, and for a folder of several splits."""
    if not isinstance(source, (str, Path)):
        return source
    folder = Path(source)
    if (names := saved_splits(folder)) is not None:
        raise InvalidData(
            f"{folder} holds the splits {', '.join(map(repr, names))}, and one is read here",
            hint=f"Name its folder, such as {folder / names[-1]}." if names else None,
        )
    if not is_saved(folder):
        return source
    import datasets
    import pyarrow as pa

    try:
        found = datasets.Dataset.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InvalidData(
            f"{folder}: the datasets library cannot read it: {reason}", hint="Save it anew."
        ) from error
    found.info.dataset_name = str(folder)  # by which readers call their rows
    return found
