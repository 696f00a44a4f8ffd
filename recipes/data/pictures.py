"""Labelled pictures: folders of class folders, tables with paths, Parquet and datasets with bytes.

An example's `image` is the sha256 of the picture's bytes, so that equal pictures are found wherever they stand; the bytes
stay where they are (`PictureDataset.bytes_of`), and a data set of any size takes a few hundred bytes a picture. Every
picture is read once here, and must decode. Does not decode for use, resize or augment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapthub.adapters import dicom
from adapthub.adapters.errors import InvalidData, InvalidInput
from adapthub.adapters.picture_files import SUFFIXES, check, encode, has_more
from adapthub.recipes.data.classes import label_text
from adapthub.recipes.data.dataset import GROUP, Dataset, Example
from adapthub.recipes.data.groups import group_of
from adapthub.recipes.data.records import (
    Record,
    Records,
    class_name,
    is_datasets,
    is_parquet,
    mapped_parquet,
    of_mappings,
    repeated_ids,
    settled,
)
from adapthub.recipes.data.tables import read_records

Bytes = Callable[[], bytes]

IMAGE = ("image", "file_name", "filename", "path", "file", "picture", "img")
LABEL = ("label", "class", "category", "target", "diagnosis")
GROUPS = ("patient", "patient_id", "subject", "subject_id")
PATIENT = "PatientID"
"""DICOM's name of what GROUP is where no column says it."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables that say what the files of their folder are, as the datasets library names them."""
_LEFT = ("thumbs.db", "desktop.ini")  # by Windows, where others leave hidden files
_TOLD = 5  # of the pictures that cannot be read, and of the folders without any
_PATH = 200  # letters that are shown of one: cells may hold a picture's text in its place


@dataclass(frozen=True)
class PictureDataset(Dataset):
    """Examples with `image` ("sha256:<hex>" of the bytes) and `label`, and where the bytes of each digest are."""

    files: Mapping[str, Bytes] = field(default_factory=dict, repr=False)

    def bytes_of(self, example: Example) -> bytes:
        """The picture's bytes as they are stored. Raises InvalidData where they are gone or have changed."""
        digest = example.fields["image"]
        try:
            data = self.files[digest]()
        except OSError as error:
            raise InvalidData(f"{example.source}: {error.strerror or error}") from error
        if _digest(data) != digest:
            raise InvalidData(f"{example.source}: the picture has changed since it was first read")
        return data


@dataclass(frozen=True)
class _Entry:
    """One labelled picture before it was read."""

    read: Bytes
    label: str
    path: str
    line: int
    unit: str
    group: str | None = None

    @property
    def source(self) -> str:
        return Example({}, self.path, self.line, self.unit).source


@dataclass(frozen=True)
class _Read:
    """What a picture's bytes say: their digest, or the problem with them; whether it is read nearly black or white; whether
    it is the first of several; the digest of its patient's id, where it is a DICOM file that has one."""

    digest: str = ""
    problem: str | None = None
    is_dark: bool = False
    has_more: bool = False
    patient: str | None = None


@dataclass(frozen=True)
class _Found:
    """All entries of a source, its name, which column is what, and what is odd."""

    entries: list[_Entry]
    name: str
    columns: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """The columns that the caller named."""

    image: str | None
    label: str | None
    group: str | None

    def columns(self, records: Records) -> dict[str, str]:
        """The column of `image`, `label` and, where there is one, `group`."""
        found = {
            "image": records.column("image", self.image, IMAGE),
            "label": records.column("label", self.label, LABEL),
        }
        if self.group is not None or {name.strip().lower() for name in records.columns}.intersection(GROUPS):
            found[GROUP] = records.column(GROUP, self.group, GROUPS)
        return found


def read_pictures(
    source: str | Path | Any,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    settings: Mapping[str, Any],
) -> PictureDataset:
    """The pictures of one split, with GROUP where a column says which belong together, or else DICOM files whose each is (a
    digest). `settings` as in Dataset.

    Raises InvalidData naming the pictures that are missing or do not decode, up to five, and how many they are; a row
    without picture or label; a source that holds none.
    """
    found = _entries(source, _Asked(image_column, label_column, group_column))
    entries, name = found.entries, found.name
    if not entries:
        raise InvalidData(f"{name}: there are no pictures", hint="Give at least one labelled picture.")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        read = list(threads.map(_read, entries))
    wrong = [one.problem for one in read if one.problem is not None]
    if wrong:
        more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise InvalidData(
            f"{name}: {len(wrong)} of {len(entries)} pictures cannot be used: {'; '.join(wrong[:_TOLD])}{more}",
            hint="Mend them, or take them out.",
        )
    columns, groups = dict(found.columns), [entry.group for entry in entries]
    if GROUP not in columns and any(one.patient for one in read):
        columns[GROUP], groups = PATIENT, [one.patient for one in read]
    examples = tuple(
        Example(
            {"image": one.digest, "label": entry.label, **({} if group is None else {GROUP: group})},
            entry.path,
            entry.line,
            entry.unit,
        )
        for entry, one, group in zip(entries, read, groups, strict=True)
    )
    files = {one.digest: entry.read for entry, one in zip(entries, read, strict=True)}
    dark = [entry.source for entry, one in zip(entries, read, strict=True) if one.is_dark]
    notes = [
        f"{len(dark)} of {len(entries)} pictures hold at most 12 bits in 16 and are read nearly black or white, the first"
        f" {first}; stretch their values to 16 bits, or save them with 8"
        for first in dark[:1]
    ]
    several = [entry.source for entry, one in zip(entries, read, strict=True) if one.has_more]
    notes += [
        f"{len(several)} of {len(entries)} files hold several pictures, of which the first is read, as {first}"
        for first in several[:1]
    ]
    notes += found.notes
    return PictureDataset(examples, name, columns, settings, notes=tuple(notes), files=files)


def has_pictures(folder: Path) -> bool:
    """Whether `folder` has folders with pictures in them."""
    return any(map(_has_picture, _folders(folder)))


def _has_picture(folder: Path) -> bool:
    with _readable(folder):  # and no further than to the first
        return any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir())


def listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted. Raises InvalidData where it cannot be read."""
    with _readable(folder):
        return sorted(folder.iterdir())


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidData(
            f"{folder}: cannot be read: {error.strerror or error}", hint="Allow it, or take it out."
        ) from error


def _entries(source: Any, asked: _Asked) -> _Found:
    if is_datasets(source):
        return _of_datasets(source, asked)
    if not isinstance(source, (str, Path)):
        return _of_records(of_mappings(source), Path(), asked)
    path = Path(source)
    if path.is_dir():
        tables = [path / name for name in METADATA if (path / name).is_file()]
        if len(tables) > 1:
            raise InvalidData(
                f"{path}: {tables[0].name} and {tables[1].name} could both say what the pictures are",
                hint="Leave one out.",
            )
        if not tables:
            entries = list(_of_folder(path))
            notes = *_without_pictures(path, {entry.label for entry in entries}), *_loose(path)
            return _Found(entries, str(path), {"image": "file", "label": "folder"}, notes)
        path = tables[0]
    if is_parquet(path):
        return _of_datasets(mapped_parquet(path), asked, name=str(path), folder=path.parent)
    return _of_records(read_records(path), path.parent, asked)


def _of_folder(folder: Path) -> Iterator[_Entry]:
    """A folder a class, with all that is in folders and links below it."""
    classes = _folders(folder)
    if not classes:
        raise InvalidData(
            f"{folder}: no folders of classes, and no {' or '.join(METADATA)}",
            hint="Put the pictures of each class into a folder of its name.",
        )
    for inner in classes:
        for path in sorted(_files(inner)):
            yield _Entry(path.read_bytes, inner.name, str(path), 0, "file")


def _files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Also where links lead, and links that lead nowhere; without what file managers leave. `above`: the folders that it is
    in, to which a link may lead back."""
    if (place := folder.resolve()) in above:
        return
    for path in listed(folder):
        if path.name.startswith(".") or path.name.lower() in _LEFT:
            continue
        if path.is_dir():
            yield from _files(path, above | {place})
        elif path.is_file() or not path.exists():
            yield path


def _loose(folder: Path) -> Iterator[str]:
    """A note where pictures lie beside the folders of classes."""
    found = [path for path in listed(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if loose := [path for path in found if not path.name.startswith(".")]:
        yield f"{len(loose)} pictures lie in no folder of a class and are not read, the first {loose[0]}"


def _without_pictures(folder: Path, labels: Container[str]) -> Iterator[str]:
    """A note where folders of classes hold none of the pictures, whose `labels` are given: those classes are not learnt."""
    names = [inner.name for inner in _folders(folder) if inner.name not in labels]
    if names:
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        yield f"folders of classes without pictures: {', '.join(map(repr, names[:_TOLD]))}{more}"


def _folders(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if path.is_dir() and not path.name.startswith(".")]


def _of_records(records: Records, folder: Path, asked: _Asked) -> _Found:
    columns = asked.columns(records)

    def entry(row: Record) -> _Entry:
        where = records.where(row)
        label = label_text(row.values.get(columns["label"]))
        if label is None:
            raise _no_label(where, columns["label"], row.values.get(columns["label"]))
        read = _reader(row.values.get(columns["image"]), folder, where, columns["image"])
        group = group_of(row.values.get(columns[GROUP])) if GROUP in columns else None
        return _Entry(read, label, records.path, row.line, records.unit, group)

    entries = [entry(row) for row in records.rows]
    return _Found(entries, records.path, columns, tuple(repeated_ids(records)))


def _of_datasets(
    rows: Any,
    asked: _Asked,
    *,
    name: str | None = None,
    folder: Path = Path(),
) -> _Found:
    import datasets

    rows = settled(rows)
    name = name or str(getattr(rows.info, "dataset_name", None) or "dataset")
    records = Records(tuple(rows.column_names), (), name, "row")
    columns = asked.columns(records)
    if isinstance(rows.features[columns["image"]], datasets.Image):
        rows = rows.cast_column(columns["image"], datasets.Image(decode=False))
    names = getattr(rows.features[columns["label"]], "names", None)
    pictures = rows.select_columns([columns["image"]])

    def entry(at: int, label: Any, group: Any) -> _Entry:
        where = f"{name}:row {at + 1}"
        text = label_text(label if names is None else class_name(names, label))
        if text is None:
            raise _no_label(where, columns["label"], label)

        def read() -> bytes:
            return _reader(pictures[at][columns["image"]], folder, where, columns["image"])()

        return _Entry(read, text, name, at + 1, "row", group_of(group))

    labels = rows[columns["label"]]
    groups = rows[columns[GROUP]] if GROUP in columns else [None] * len(rows)
    entries = [entry(at, *said) for at, said in enumerate(zip(labels, groups, strict=True))]
    return _Found(entries, name, columns)


def _reader(value: Any, folder: Path, where: str, column: str) -> Bytes:
    """How to get the bytes that a cell holds or points to. Raises InvalidData for a cell with neither."""
    if isinstance(value, Mapping):  # as datasets keeps pictures
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, (bytes, bytearray)) and value:
        return _held(bytes(value))
    if isinstance(value, (str, Path)) and str(value).strip():
        return (folder / str(value).strip()).read_bytes
    if hasattr(value, "save") and hasattr(value, "getexif"):  # a picture of Pillow
        try:
            return _held(encode(value, f"{where}: the picture"))
        except InvalidInput as error:
            raise InvalidData(error.message, hint=error.hint) from error
    what = "empty" if value is None or value in ("", b"") else f"{type(value).__name__}, not a path or bytes"
    raise InvalidData(f"{where}: the picture in column {column!r} is {what}", hint="Remove the row.")


def _held(data: bytes) -> Bytes:
    return lambda: data


def _read(entry: _Entry) -> _Read:
    try:
        data = entry.read()
        is_dark = check(data, entry.source)
    except (InvalidInput, InvalidData) as error:
        return _Read(problem=error.message)
    except (OSError, ValueError) as error:  # the latter: of what is no path
        path, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        named = "" if entry.unit == "file" or path is None else f" {path!s:.{_PATH}}:"
        return _Read(problem=f"{entry.source}:{named} {reason or error}")
    patient = dicom.patient(data) if dicom.is_dicom(data) else None
    return _Read(_digest(data), None, is_dark, has_more(data), patient)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _no_label(where: str, column: str, value: Any) -> InvalidData:
    shown = "empty" if value is None or value == "" else repr(value)
    return InvalidData(
        f"{where}: the label in column {column!r} is {shown}",
        hint="Give every picture one label, a name or a whole number.",
    )
