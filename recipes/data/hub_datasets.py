"""Datasets of the public Hub as Parquet files, one a split: streamed there, and read from there like any other folder.

`org/name`, `org/name@revision`, `org/name:configuration`. Kept under `datasets/` in AdaptHub's home by commit; deleting it
is harmless. Labels that the dataset numbers are written by their names, pictures and sound as their bytes; a validation or
test split without any is left out, and said. Does not read examples: recipes do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import Conflict, InvalidData, Unreachable
from adapthub.adapters.files import new_directory
from adapthub.adapters.home import home
from adapthub.recipes.data.records import encoded_media, named_rows
from adapthub.recipes.data.splits import name_splits

FOLDER = "datasets"
_NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?(:(?P<configuration>[\w.-]+))?")
_AT_ONCE = 1000  # rows
_REASON = 300  # letters of what a library says: it shows whole tables


def fetch_dataset(name: str, report: Callable[[str], None]) -> Path:
    """The folder with the splits of a dataset; `report` is told what is fetched.

    Raises InvalidData for a name that is none, a dataset, revision or configuration that is not there, and rows that are not
    all of one kind; Unreachable where the Hub does not answer.
    """
    import httpx2

    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidData(
            f"{name!r} is no dataset's name",
            hint="Write org/name, org/name@revision or org/name:configuration.",
        )
    repo, configuration = match["repo"], match["configuration"]
    commit = _commit(repo, match["revision"])
    called = f"{repo.replace('/', '--')}-{configuration or 'default'}-{commit[:12]}"
    folder = home() / FOLDER / called
    if folder.is_dir():
        return folder
    splits = _splits(repo, configuration, commit)
    chosen = name_splits(splits)
    report(f"Fetching {', '.join(chosen.values())} of the dataset {name} into {folder}")
    with suppress(Conflict), new_directory(folder, durable=False) as aside:  # another was faster, perhaps
        for split, given in chosen.items():
            path = aside / f"{split}.parquet"
            try:
                if not _write(encoded_media(splits[given]), path, f"{name}, {given}") and split != "train":
                    path.unlink()
                    report(f"{given}: no row has a label, as where a benchmark keeps them: it is left out")
            except (httpx2.HTTPError, ConnectionError) as error:  # in the middle of the stream
                raise _unreachable(repo, error) from error
    return folder


def _commit(repo: str, revision: str | None) -> str:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(HfApi().dataset_info(repo, revision=revision).sha)
    except RepositoryNotFoundError as error:
        raise InvalidData(f"no dataset {repo} on the Hub", hint="Check the name, or log in.") from error
    except RevisionNotFoundError as error:
        raise InvalidData(f"the dataset {repo} has no revision {revision}") from error
    except HFValidationError as error:
        raise InvalidData(f"{repo!r} is no dataset's name: {error}", hint="Write org/name.") from error
    except (httpx2.HTTPError, OSError) as error:  # among them the Hub's own, and that it may not be asked
        raise _unreachable(repo, error) from error


def _unreachable(repo: str, error: Exception) -> Unreachable:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return Unreachable(f"the dataset {repo} cannot be fetched: {reason}", hint="Try again, or give a file.")


def _splits(repo: str, configuration: str | None, commit: str) -> dict[str, Any]:
    import datasets
    import httpx2

    try:
        return dict(datasets.load_dataset(repo, configuration, revision=commit, streaming=True))
    except (httpx2.HTTPError, ConnectionError) as error:
        raise _unreachable(repo, error) from error
    except (OSError, ValueError, RuntimeError) as error:  # among them the library's own
        raise InvalidData(
            f"the datasets library cannot read {repo}: {str(error).splitlines()[0]}",
            hint="Name a configuration, org/name:configuration, or give a file.",
        ) from error


def _write(dataset: Any, path: Path, name: str) -> bool:
    """Whether of each column of classes some row has one."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, number = named_rows(dataset), 0
    schema = _schema(dataset.features)
    features = (dataset.features or {}).items()
    empty = {column for column, feature in features if isinstance(feature, datasets.ClassLabel)}
    writer: Any = None
    try:
        while some := list(islice(rows, _AT_ONCE)):
            table = pa.Table.from_pylist(some, schema=schema)
            schema = table.schema
            writer = writer or pq.ParquetWriter(path, schema)
            writer.write_table(table)
            number += len(some)
            empty -= {column for column in empty if any(row.get(column) is not None for row in some)}
    except (pa.ArrowException, datasets.exceptions.DatasetsError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise InvalidData(
            f"{name}: rows from {number + 1} on are of another kind than those before, or cannot be read: {reason}",
            hint="Choose another configuration, or give files of rows that are alike.",
        ) from error
    finally:
        if writer is not None:
            writer.close()
    if not number:
        raise InvalidData(f"{name}: there are no rows", hint="Choose another split or configuration.")
    return not empty


def _schema(features: Any) -> Any:
    """Columns as they are written: None where the dataset does not say."""
    import datasets

    if features is None:
        return None
    return datasets.Features(dict(_written(features))).arrow_schema


def _written(features: Any) -> Iterator[tuple[str, Any]]:
    import datasets

    text = datasets.Value("string")
    for column, feature in features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.ClassLabel):
            yield column, text
        elif isinstance(inner, datasets.ClassLabel):
            yield column, datasets.List(text)
        else:
            yield column, feature
