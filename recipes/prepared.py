"""Data read once and tokenised once: what a file, or a dataset saved to a folder, became, found again by its content.

Under `prepared/` in AdaptHub's home, a folder an entry: the examples of these with their splits, labels and notes, by their
bytes, the recipe and how they are read; and rows of token ids, by the examples, the tokenizer and the settings. What
is kept is mapped, and read and encoded some rows at a time, so memory holds none of it whole.
Entries are written aside and renamed; one that cannot be read is made anew. Beyond a bound those not used for longest go;
deleting the folder is harmless, also to a run that goes on: whatever it reads is open.
Small files, rows that a program gives, pictures, sound, questions' windows and recipes of one's own are not kept. Does not
read or encode: recipes do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from adapthub import adapters, runtime
from adapthub.adapters.errors import Conflict, InvalidData
from adapthub.adapters.files import new_directory, sha256_bytes, sha256_file
from adapthub.adapters.home import home
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH
from adapthub.recipes.catalog import RECIPES
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.label_studio import holds_tasks
from adapthub.recipes.data.odd_labels import OddLabels
from adapthub.recipes.data.records import Ids, blocks_of_datasets
from adapthub.recipes.data.saved import is_saved, opened, saved_digest, saved_files
from adapthub.recipes.data.shards import is_pattern, shards_of
from adapthub.recipes.data.stored import ExampleWriter, Files, StoredExamples
from adapthub.recipes.data.tables import BY_BLOCKS, record_blocks
from adapthub.recipes.recipe import Encoded, Recipe
from adapthub.recipes.splits import chosen_sources, completed, unused
from adapthub.recipes.stored_rows import RowWriter, read_rows

if TYPE_CHECKING:
    from adapthub.adapters.base import ResolvedBase

_Splits = tuple[dict[str, Dataset], tuple[str, ...], tuple[str, ...]]
_Kept = TypeVar("_Kept")
FOLDER = "prepared"
LEAST_BYTES = 1 << 20  # of files: less is read and tokenised in no time
MOST_BYTES = 20 << 30  # of all entries
_FRESH = 3600  # seconds: what was used since then may be about to be opened
_HELD_BYTES = 64 << 20  # of a file: what it became is not read back while it is looked at for the first time
_AT_ONCE = 2048  # examples that are encoded together
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_SHOWN_NOTES = 3
_FORMAT = 1
_DOCUMENT = "splits.json"
# Suffixes of records that a task takes for something else, or refuses: CoNLL with tabs, SQuAD's JSON.
_ASKED, _LABELLED = "question-answering", "text-classification"
_NO_RECORDS = {"token-classification": (".csv", ".tsv"), _ASKED: (".json",)}
_OTHER_TASKS = (SPEECH, IMAGE_CLASSIFICATION, _ASKED)


def prepare_splits(
    recipe: Recipe, data: Any, *, validation: Any, test: Any, options: Mapping[str, Any]
) -> _Splits:
    """The datasets by split, the labels of the training split, and notes: as `read_splits`, `Recipe.labels` and
    `Recipe.check` have them. Raises what they raise, and StorageError where a large file cannot be kept."""
    sources = chosen_sources(data, validation=validation, test=test)
    if not _is_kept(recipe, sources):
        read = {name: recipe.read(opened(source), **options) for name, source in sources.items()}
        datasets, labels, notes = _labelled(recipe, read, wants_validation=validation is not False)
        return datasets, labels, (*unused(data), *notes)
    paths = {name: Path(source) for name, source in sources.items()}
    before = {name: _digest(path) for name, path in paths.items()}
    wanted = {
        "files": {
            name: [before[name], "/" if path.is_dir() else path.suffix.lower()]
            for name, path in paths.items()
        },
        "validation": validation is not False,
        "options": {name: [value, _said_in(value)] for name, value in options.items()},
    }

    held: dict[str, Sequence[Example] | None] = {}

    def write(folder: Path) -> None:
        read = {name: _stored(recipe, path, options, folder / name) for name, path in paths.items()}
        held.update({name: getattr(dataset.examples, "held", None) for name, dataset in read.items()})
        datasets, labels, notes = _labelled(recipe, read, wants_validation=validation is not False)
        for name, path in paths.items():
            if _digest(path) != before[name]:
                raise InvalidData(f"{path} changed while it was read", hint="Try again.")
        _write_document(folder, paths, read, datasets, labels, notes)

    def found(folder: Path) -> _Splits:
        return _read_document(folder, paths, held)

    datasets, labels, notes = _kept(f"splits-{_key(recipe, wanted)}", write, found)
    return datasets, labels, (*unused(data), *notes)


def prepare_rows(
    recipe: Recipe,
    processor: Any,
    base: ResolvedBase,
    dataset: Dataset,
    labels: Sequence[str],
    settings: Mapping[str, Any],
) -> Encoded:
    """As `Recipe.encode`, and kept where the examples are."""
    if not isinstance(dataset.examples, StoredExamples) or recipe.task in _OTHER_TASKS:
        return recipe.encode(processor, dataset, labels, settings)
    wanted = {
        "examples": dataset.fingerprint,
        "read": dict(dataset.settings),
        "tokenizer": _tokenizer_digest(base),
        "labels": list(labels),
        "settings": dict(settings),
    }

    def write(folder: Path) -> None:
        writer = RowWriter(folder)
        try:
            for start in range(0, len(dataset), _AT_ONCE):
                some = replace(dataset, examples=tuple(dataset.examples[start : start + _AT_ONCE]))
                with _all_cores():
                    encoded = recipe.encode(processor, some, labels, settings)
                writer.add(encoded)
        finally:
            writer.close()

    return _kept(f"rows-{_key(recipe, wanted)}", write, read_rows)


@contextmanager
def _all_cores() -> Iterator[None]:
    """Within: tokenizers use every core, unless the user said otherwise. Afterwards they are told to use one, or they would
    warn of each process that is started later."""
    before = os.environ.get(_PARALLELISM)
    if before not in (None, "off"):
        yield
        return
    os.environ[_PARALLELISM] = "on"
    try:
        yield
    finally:
        os.environ[_PARALLELISM] = "off"


def _said_in(value: Any) -> str | None:
    """The digest of the file that an option names, as a chat template's; None where it names none."""
    with suppress(OSError, ValueError):  # a text that is no path
        if isinstance(value, (str, Path)) and Path(value).is_file():
            return sha256_file(Path(value))
    return None


def _is_kept(recipe: Recipe, sources: Mapping[str, Any]) -> bool:
    if RECIPES.get(recipe.name) is not recipe or recipe.task in (SPEECH, IMAGE_CLASSIFICATION):
        return False
    if not all(isinstance(source, (str, Path)) and _is_readable(Path(source)) for source in sources.values()):
        return False
    return sum(_size(Path(source)) for source in sources.values()) >= LEAST_BYTES


def _is_readable(path: Path) -> bool:
    return path.is_file() or is_pattern(path) or is_saved(path)


def _size(path: Path) -> int:
    """Bytes of a file, of shards, or of the files of a saved dataset."""
    files = saved_files(path) if path.is_dir() else shards_of(path)
    return sum(file.stat().st_size for file in files if file.is_file())


def _digest(path: Path) -> str:
    if path.is_dir():
        return saved_digest(path)
    files = shards_of(path)
    return sha256_file(path) if files == [path] else sha256_bytes("\n".join(map(sha256_file, files)).encode())


def _labelled(recipe: Recipe, read: Mapping[str, Dataset], *, wants_validation: bool) -> _Splits:
    datasets, notes = completed(recipe, read, set_aside=wants_validation)
    labels = recipe.labels(datasets["train"])
    for dataset in datasets.values():
        recipe.check(dataset, labels)
    return datasets, labels, notes


def _stored(recipe: Recipe, path: Path, options: Mapping[str, Any], folder: Path) -> Dataset:
    """The examples of a file or of a saved dataset, written to `folder` as they are read."""
    folder.mkdir()
    writer = ExampleWriter(folder)
    notes: list[str] = []
    whole: Dataset | None = None
    held: list[Example] | None = [] if _size(path) <= _HELD_BYTES else None
    columns = options.get("label_columns", ())
    # A column called 5 may be given as a number.
    ids, odd = Ids(), OddLabels([columns] if isinstance(columns, str) else [*map(str, columns)])
    try:
        for part in _parts(recipe, path, options, ids, odd):
            notes += part.notes
            if not len(part):  # all of its rows were left out, as those that nobody accepted
                continue
            if whole is not None and (part.columns, part.settings) != (whole.columns, whole.settings):
                raise InvalidData(
                    f"{path}: the rows from {part[0].source} on have other columns than those before:"
                    f" {part.columns} and {whole.columns}",
                    hint="Give all rows the same columns, or name those that are meant.",
                )
            whole = part
            writer.add(part.examples)
            if held is not None:
                held += part.examples
    finally:
        writer.close()
    if whole is None:
        raise InvalidData(f"{path}: no row is left: {'; '.join(notes[:1])}", hint="Give labelled examples.")
    notes[:0] = [*odd.notes(), *_said_of(ids, recipe)]
    if len(notes) > _SHOWN_NOTES:
        notes[_SHOWN_NOTES:] = [f"and {len(notes) - _SHOWN_NOTES} more of the like"]
    return replace(whole, examples=StoredExamples(Files(folder), str(path), held=held), notes=tuple(notes))


def _said_of(ids: Ids, recipe: Recipe) -> list[str]:
    """A note of ids that several rows have. Raises InvalidData where each must be one row's."""
    found = ids.repeated()
    if found is None:
        return []
    if recipe.task == _ASKED and found.column.lower() == "id":
        raise InvalidData(
            f"{found.again}: its id also stands at {found.before}", hint="Give each question its own."
        )
    return [
        f"{found.count} rows have the {found.column} of an earlier one: that of {found.before} also stands at"
        f" {found.again}"
    ]


def _parts(
    recipe: Recipe, path: Path, options: Mapping[str, Any], ids: Ids, odd: OddLabels
) -> Iterator[Dataset]:
    """What the recipe reads, a part of the file after another where its format allows that; `ids` is told those of each, and
    `odd` the examples where a text has labels."""
    suffix = path.suffix.lower()
    if path.is_dir():
        blocks = blocks_of_datasets(opened(path))
    elif suffix not in BY_BLOCKS or suffix in _NO_RECORDS.get(recipe.task, ()):
        yield recipe.read(path, **options)
        return
    else:
        reading = {name: options[name] for name in ("encoding", "delimiter") if name in options}
        blocks = record_blocks(path, **reading)
    for at, records in enumerate(blocks):
        if at == 0 and holds_tasks(records):  # see there: no part of them tells what it has
            yield recipe.read(opened(path), **options)
            return
        ids.add(records)
        part = recipe.read(replace(records, whole=False), **options)
        if recipe.task == _LABELLED:
            odd.add(part.examples)
        yield part


def _write_document(
    folder: Path,
    paths: Mapping[str, Path],
    read: Mapping[str, Dataset],
    datasets: Mapping[str, Dataset],
    labels: Sequence[str],
    notes: Sequence[str],
) -> None:
    splits = {}
    for name, dataset in datasets.items():
        examples = dataset.examples
        assert isinstance(examples, StoredExamples)
        of = next(known for known in read if examples.files.folder == folder / known)
        if examples.places is not None:
            np.save(folder / f"{name}.npy", examples.places)
        splits[name] = {
            "of": of,
            "chosen": examples.places is not None,
            "source": dataset.source,
            "columns": dict(dataset.columns),
            "settings": dict(dataset.settings),
            "notes": list(dataset.notes),
        }
    document = {
        "paths": {name: str(path) for name, path in paths.items()},
        "splits": splits,
        "labels": list(labels),
        "notes": list(notes),
    }
    (folder / _DOCUMENT).write_text(json.dumps(document))


def _read_document(
    folder: Path, paths: Mapping[str, Path], held: Mapping[str, Sequence[Example] | None]
) -> _Splits:
    """As it was written, of the same files wherever they lie now. `held`: of each, its examples if they are at hand."""
    document = json.loads((folder / _DOCUMENT).read_text())
    moved = {old: str(paths[name]) for name, old in document["paths"].items()}
    # All at once, the longest first: one may have the name that another had, or the beginning of it.
    known = re.compile("|".join(map(re.escape, sorted(moved, key=len, reverse=True))))

    def now(text: str) -> str:
        return known.sub(lambda found: moved[found[0]], text)

    files = {name: Files(folder / name) for name in {split["of"] for split in document["splits"].values()}}
    datasets = {}
    for name, split in document["splits"].items():
        of = split["of"]
        examples = StoredExamples(files[of], str(paths[of]), held=held.get(of))
        if split["chosen"]:
            examples = examples.select(np.load(folder / f"{name}.npy", mmap_mode="r"))
        datasets[name] = Dataset(
            examples,
            now(split["source"]),
            split["columns"],
            split["settings"],
            tuple(map(now, split["notes"])),
        )
    return datasets, tuple(document["labels"]), tuple(map(now, document["notes"]))


def _kept(name: str, write: Callable[[Path], None], read: Callable[[Path], _Kept]) -> _Kept:
    """What `read` makes of the entry `name`, written now if it is not there whole."""
    folder = home() / FOLDER / name
    if folder.is_dir():
        # Not so where another process has removed it by now, or the machine went down before it was on the disk.
        with suppress(OSError, ValueError, KeyError):
            found = read(folder)
            os.utime(folder)
            return found
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(Conflict), new_directory(folder, durable=False) as aside:  # another was faster, perhaps
        write(aside)
    found = read(folder)
    _make_room(folder)
    return found


def _make_room(keep: Path) -> None:
    """Remove what was not used for longest while all entries hold more than MOST_BYTES, and what was begun and left."""
    sizes: dict[Path, int] = {}
    used: dict[Path, float] = {}
    entries: list[Path] = []
    with suppress(OSError):  # somebody is removing all of them
        entries += keep.parent.iterdir()
    for entry in entries:
        with suppress(OSError):  # another process is removing it
            files = [file.stat() for file in entry.rglob("*")]
            sizes[entry], used[entry] = sum(file.st_size for file in files), entry.stat().st_mtime
            if entry.name.startswith("."):  # is being written as long as its files are
                used[entry] = max((used[entry], *(file.st_mtime for file in files)))
    total = sum(sizes.values())
    for entry in sorted(used, key=lambda entry: (not entry.name.startswith("."), used[entry])):
        is_left = entry.name.startswith(".")
        if entry != keep and time.time() - used[entry] >= _FRESH and (is_left or total > MOST_BYTES):
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]


def _key(recipe: Recipe, wanted: Mapping[str, Any]) -> str:
    document = {"format": _FORMAT, "code": _code(), "recipe": recipe.name, **wanted}
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=repr).encode()).hexdigest()[:32]


@cache
def _code() -> list[Any]:
    """What reads and encodes, here and in the folders that it stands on: other code may do so otherwise."""
    here = Path(__file__).parent
    folders = (
        here,
        here / "data",
        *(Path(str(file)).parent for file in (adapters.__file__, runtime.__file__)),
    )
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [stamps, *(version(name) for name in ("transformers", "tokenizers", "pyarrow", "jinja2"))]


def _tokenizer_digest(base: ResolvedBase) -> str:
    """Over every small file of the base that can decide how text becomes tokens."""
    names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
    parts = [str(base.fingerprint.tokenizer), base.fingerprint.configuration]
    parts += [sha256_file(base.path / name) for name in names if (base.path / name).is_file()]
    return sha256_bytes("\n".join(parts).encode())
