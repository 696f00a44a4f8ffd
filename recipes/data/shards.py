"""One split in several Parquet files, as the datasets library writes them and the Hub serves them:

    train-00000-of-00002.parquet
    train-00001-of-00002.parquet

One path stands for all of them, in the order of their numbers: the pattern train-*-of-00002.parquet, or another that no
other shards match. Does not read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from adapthub.adapters.errors import InvalidData

# Some versions of the library put a hash behind the numbers.
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?\.parquet")
_SHOWN = 5


def is_pattern(path: Path) -> bool:
    """Whether a path stands for shards."""
    return "*" in path.name and path.suffix.lower() == ".parquet" and not path.exists()


def patterns(files: Iterable[Path]) -> dict[Path, str]:
    """The pattern of each set of shards among `files`, and what their names begin with, such as "train"."""
    matches = ((_SHARD.fullmatch(file.name), file.parent) for file in files)
    return {
        folder / f"{match['stem']}-*-of-{match['count']}.parquet": match["stem"]
        for match, folder in matches
        if match is not None
    }


def shards_of(path: Path) -> list[Path]:
    """The files that `path` stands for, in the order of their rows: itself where it is no pattern. Raises InvalidData where
    some are missing, or files match that are not all of one set."""
    if not is_pattern(path):
        return [path]
    try:
        files = sorted(file for file in path.parent.iterdir() if _matches(file, path))
    except OSError as error:
        raise InvalidData(f"{path.parent}: {error.strerror or error}") from error
    if not files:
        raise InvalidData(f"{path}: no file matches", hint="Write it as train-*-of-00002.parquet.")
    shards = [(_SHARD.fullmatch(file.name), file) for file in files]
    first = shards[0][0]
    there: dict[int, Path] = {}
    for match, file in shards:
        if (
            match is None
            or first is None
            or (match["stem"], match["count"]) != (first["stem"], first["count"])
        ):
            raise InvalidData(
                f"{path}: {files[0].name} and {file.name} are no shards of one split",
                hint="Name one set of files such as train-00000-of-00002.parquet, or each file by itself.",
            )
        if (number := int(match["number"])) in there:
            raise InvalidData(
                f"{path}: {there[number].name} and {file.name} are the same shard", hint="Remove one."
            )
        there[number] = file
    assert first is not None
    count = int(first["count"])
    if lost := sorted({*range(count)} - there.keys()):
        names = ", ".join(f"{first['stem']}-{at:05}-of-{count:05}.parquet" for at in lost[:_SHOWN])
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise InvalidData(
            f"{path.parent}: missing of {count} shards: {names}{more}", hint="Download them, too."
        )
    return [there[at] for at in sorted(there)]


def _matches(file: Path, pattern: Path) -> bool:
    """A set's own pattern matches no hash behind the count; files that have one are of the set all the same."""
    name, shard = pattern.name, _SHARD.fullmatch(file.name)
    plain = file.name if shard is None else f"{shard['stem']}-{shard['number']}-of-{shard['count']}.parquet"
    return fnmatchcase(file.name, name) or fnmatchcase(plain, name)
