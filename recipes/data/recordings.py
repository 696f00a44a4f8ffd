"""Recordings and what is said in them: audio folders, tables that name files, `datasets` with an Audio column.

Every recording is decoded once while it is read, so that one that cannot be is named before a run begins; its samples are
not kept. Does not know models or resample.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from adapthub.adapters.audio import Audio, read_sound
from adapthub.adapters.errors import InvalidData, InvalidInput
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.pairs import text_of
from adapthub.recipes.data.pictures import METADATA
from adapthub.recipes.data.records import (
    Record,
    Records,
    is_datasets,
    is_parquet,
    mapped_parquet,
    repeated_ids,
    settled,
)
from adapthub.recipes.data.tables import read_records

AUDIO_COLUMNS = ("file_name", "audio", "path", "file", "wav", "audio_filepath", "recording")
TEXT_COLUMNS = ("transcription", "text", "sentence", "transcript", "target")
_OF_PATHS = ("string", "large_string")
_HELD = object()  # a cell whose recording the table holds
_STREAMED = 0x7FFF_0000  # bytes: programs that know no size write one near 2 or 4 GiB
_NEMO = "audio_filepath"  # the column of NVIDIA NeMo's manifests
_PATH = 200  # letters that are shown of one


class Recording(str):
    """A recording by the digest of its bytes, "sha256:<hex>", which stands for it wherever examples are compared.

    `load` gives what read_sound takes; `name` is what people call it; `rate` in Hz, `channels` and `seconds` are its own.
    `is_cut`: its file is shorter than it says itself to be.
    """

    load: Callable[[], Audio]
    name: str
    rate: int
    channels: int
    seconds: float
    is_cut: bool

    @classmethod
    def of(cls, load: Callable[[], Audio], name: str, where: str) -> Recording:
        """Decode it once. Raises InvalidData, beginning with `where`."""
        try:
            source = load()
            sound = read_sound(source, None, f"{where}: {name}")
        except InvalidInput as error:
            raise InvalidData(error.message, hint=error.hint) from error
        content = source if isinstance(source, bytes) else sound.samples.tobytes()
        recording = cls(f"sha256:{hashlib.sha256(content).hexdigest()}")
        recording.load, recording.name = load, name
        recording.is_cut = isinstance(source, bytes) and _is_cut(source)
        recording.rate, recording.channels, recording.seconds = sound.rate, sound.channels, sound.seconds
        return recording


def _is_cut(file: bytes) -> bool:
    """Whether this is the beginning of a WAV file, which decodes as if it were all. What was streamed says no size."""
    said = int.from_bytes(file[4:8], "little")
    return file[:4] == b"RIFF" and len(file) - 8 < said - said % 2 < _STREAMED


def read_recordings(
    source: str | Path | Any,
    *,
    audio_column: str | None,
    text_column: str | None,
    group_column: str | None,
    encoding: str,
    max_seconds: float | None,
    settings: Mapping[str, Any],
) -> Dataset:
    """Examples of `sound`, a Recording, and `target`, what is said in it. Paths are relative to their table's folder.
    Recordings of more than `max_seconds` are left out, and said.

    Raises InvalidData: a column that is missing, a transcript that is empty, a recording that does not decode.
    """
    records, folder, loads = _records(source, encoding, audio_column)
    audio = records.column("audio", audio_column, AUDIO_COLUMNS)
    text = records.column("text", text_column, TEXT_COLUMNS)
    examples = tuple(
        Example(
            {
                "sound": _recording(records, row, audio, folder, loads),
                "target": " ".join(text_of(records, row, text, "transcript").split()),
            },
            records.path,
            row.line,
            records.unit,
        )
        for row in records.rows
    )
    kept = tuple(one for one in examples if max_seconds is None or one.fields["sound"].seconds <= max_seconds)
    if not kept:
        raise InvalidData(
            f"{records.path}: every recording has more than {max_seconds:g} s", hint="Raise max_seconds."
        )
    notes = [*_notes(kept), *repeated_ids(records)]
    if left_out := len(examples) - len(kept):
        notes.append(
            f"{left_out} of {len(examples)} recordings have more than {max_seconds:g} s and are left out"
        )
    read = Dataset(kept, records.path, {"sound": audio, "target": text}, settings, tuple(notes))
    return grouped(read, records, group_column)


def _records(
    source: Any, encoding: str, audio_column: str | None
) -> tuple[Records, Path, Callable[[int, str], Any] | None]:
    """The rows, the folder that their paths start from, and for `datasets` what loads a cell anew."""
    if is_datasets(source):
        records, load = _of_datasets(source, audio_column)
        return records, Path(), load
    if not isinstance(source, (str, Path)):
        return read_records(source), Path(), None
    path = Path(source)
    if path.is_dir():
        tables = [path / name for name in METADATA if (path / name).is_file()]
        if len(tables) != 1:
            found = " and ".join(table.name for table in tables) or "none of them"
            raise InvalidData(
                f"{path}: a folder of recordings has one of {', '.join(METADATA)}; this one has {found}",
                hint="Write a row for each file: file_name and transcription.",
            )
        path = tables[0]
    if is_parquet(path):
        records, load = _of_datasets(mapped_parquet(path), audio_column, name=str(path))
        return records, path.parent, load
    return read_records(path, encoding=encoding), path.parent, None


def _of_datasets(
    dataset: Any, audio_column: str | None, *, name: str | None = None
) -> tuple[Records, Callable[[int, str], Any]]:
    """Without decoding, which would need a library more, and without keeping the recordings in memory: in their place stands
    _HELD."""
    from datasets import Audio as AudioFeature

    dataset = settled(dataset)
    for column, feature in dataset.features.items():
        if isinstance(feature, AudioFeature):
            dataset = dataset.cast_column(column, AudioFeature(decode=False))
    name = name or str(getattr(dataset.info, "dataset_name", None) or "dataset")
    columns = tuple(dataset.column_names)
    asked = Records(columns, (), name, "row").column("audio", audio_column, AUDIO_COLUMNS)
    sounds = [
        column
        for column, feature in dataset.features.items()
        if isinstance(feature, AudioFeature)
        or (column == asked and getattr(feature, "dtype", None) not in _OF_PATHS)
    ]
    rest = dataset.remove_columns(sounds)
    rows = (
        [
            Record({**values, **dict.fromkeys(sounds, _HELD)}, number)
            for number, values in enumerate(rest, start=1)
        ]
        if rest.column_names
        else []
    )
    if not rows:
        raise InvalidData(f"{name}: there are no transcripts", hint="Give a column of texts.")
    return Records(columns, rows, name, "row"), lambda line, column: dataset[line - 1][column]


def _recording(
    records: Records, row: Record, column: str, folder: Path, loads: Callable[[int, str], Any] | None
) -> Recording:
    where, value = records.where(row), row.values.get(column)
    if column.lower() == _NEMO:
        _check_whole(row.values.get("offset"), where)
    if loads is not None and value is _HELD:
        load: Callable[[], Any] = partial(_cell, partial(loads, row.line, column), folder, where)
        return Recording.of(load, f"column {column!r}", where)
    name = str(value) if isinstance(value, (str, Path)) else f"column {column!r}"
    return Recording.of(partial(_cell, lambda: value, folder, where), name, where)


def _check_whole(offset: Any, where: str) -> None:
    """Raises InvalidData for a part of a file, which a manifest tells by where it begins."""
    try:
        begins = float(offset)
    except (TypeError, ValueError):  # none
        return
    if begins > 0:
        raise InvalidData(
            f"{where}: the recording begins {begins:g} s into its file (offset), and whole files are read",
            hint="Cut it out into a file of its own.",
        )


def _cell(value: Callable[[], Any], folder: Path, where: str) -> Audio:
    """What a cell holds: a path, bytes, samples with their rate, or datasets' mapping of such."""
    found = value()
    if isinstance(found, Mapping):
        if found.get("bytes") is not None:
            return bytes(found["bytes"])
        if found.get("array") is not None:
            return found["array"], found.get("sampling_rate")  # type: ignore[return-value]  # read_sound looks
        found = found.get("path")
    if isinstance(found, (str, Path)) and str(found):
        path = folder / found
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:  # the latter: of what is no path
            reason = getattr(error, "strerror", None) or "cannot be read"
            raise InvalidData(f"{where}: {found!s:.{_PATH}}: {reason}") from error
    if isinstance(found, bytes):
        return found
    if isinstance(found, tuple) and len(found) == 2:
        return found
    raise InvalidData(
        f"{where}: a recording is a path, a file's bytes, or samples with their rate, not {found!r:.60}"
    )


def _notes(examples: Sequence[Example]) -> Iterator[str]:
    """Rates and channels: what reading will change."""
    recordings = [example.fields["sound"] for example in examples]
    rates = Counter(recording.rate for recording in recordings)
    shown = ", ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common())
    minutes = sum(recording.seconds for recording in recordings) / 60
    yield f"{len(recordings)} recordings, {minutes:.1f} minutes: {shown}; each is resampled to the base's rate"
    if several := sum(recording.channels > 1 for recording in recordings):
        yield f"{several} recordings have several channels, which are mixed down to one"
    if cut := [example.source for example in examples if example.fields["sound"].is_cut]:
        yield f"{len(cut)} recordings end before their files say, as where a copy broke off, the first {cut[0]}"
