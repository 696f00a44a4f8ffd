"""Folders that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` of the datasets library wrote: found, and opened by it.

Rows stay in its Arrow files, mapped. Does not read them: recipes do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from adapthub.adapters.errors import InvalidData
from adapthub.adapters.files import sha256_bytes, sha256_file

# The library's names for what it writes beside the Arrow files.
_OF_ONE, _OF_SEVERAL = ("state.json", "dataset_info.json"), "dataset_dict.json"
_SHOWN = ("_format", "_output_all_columns")  # of the first: which columns rows have, and in which form
_Read = TypeVar("_Read")


def is_saved(folder: Path) -> bool:
    """Whether a Dataset was saved to `folder`."""
    return all((folder / name).is_file() for name in _OF_ONE)


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a Dataset that was saved to `folder`, in the order of their rows. Raises InvalidData where what
    names them cannot be read."""
    return _said(folder, _OF_ONE[0], lambda said: [folder / file["filename"] for file in said["_data_files"]])


def saved_digest(folder: Path) -> str:
    """sha256 (hex) over all that decides which rows a Dataset saved to `folder` has: equal wherever it was moved or copied
    to. Raises InvalidData, as `saved_files`, and where a file is missing."""
    features = _said(folder, _OF_ONE[1], lambda said: said["features"])
    shown = _said(
        folder, _OF_ONE[0], lambda said: {name: said[name] for name in said if name.startswith(_SHOWN)}
    )
    try:
        files = [sha256_file(file) for file in saved_files(folder)]
    except OSError as error:
        raise InvalidData(
            f"{error.filename}: {error.strerror or error}", hint="Save the dataset anew."
        ) from error
    return sha256_bytes(json.dumps([features, shown, files], sort_keys=True).encode())


def saved_splits(folder: Path) -> tuple[str, ...] | None:
    """The names of the splits that were saved to `folder` as a DatasetDict, each a folder in it; None where it is none.
    Raises InvalidData where what says so cannot be read."""
    if not (folder / _OF_SEVERAL).is_file():
        return None
    return _said(folder, _OF_SEVERAL, lambda said: tuple(map(str, said["splits"])))


def _said(folder: Path, name: str, read: Callable[[Any], _Read]) -> _Read:
    """What `read` makes of one of the library's own documents."""
    path = folder / name
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
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
