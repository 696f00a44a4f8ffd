"""A base model's fingerprint: what an adapter was trained on, and must meet again.

Four sha256 digests over the folder's files: configuration, tokenizer, shapes of the weights, and the weights'
bytes. Cached by the files' size, times and inode, so that a second look costs no reading. Does not load a
model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import BaseNotFound, StorageError
from adapthub.adapters.files import sha256_bytes, write_bytes
from adapthub.adapters.home import home
from adapthub.adapters.weights import read_headers, weight_files

CACHE_NAME = ".adapthub-fingerprint.json"
# What a library rewrites on every save, and what does not change what the weights compute.
_VOLATILE = {"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "use_cache"}
# The vocabulary in the order of preference: the first group that is there is what decides token ids.
_VOCABULARIES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model", "sentencepiece.bpe.model"),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
)
_PROCESSOR = "preprocessor_config.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Fingerprint:
    """Lower-case hex sha256 each; `tokenizer` is of how pictures are prepared where the base reads no text but these, and
    None for a base with neither."""

    configuration: str
    tokenizer: str | None
    shapes: str
    weights: str

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over all parts: equal exactly when every part is."""
        return f"sha256:{sha256_bytes(_canonical(self.to_dict()))}"

    def difference(self, other: Fingerprint, *, names: tuple[str, str] = ("here", "there")) -> list[str]:
        """What differs, in words: `weights differ (1a2b3c4d.. here, 5e6f7a8b.. there)`; `names` say where."""
        return [
            f"{part} {verb} ({_short(getattr(self, part))} {names[0]}, {_short(getattr(other, part))} {names[1]})"
            for part, verb in _PARTS.items()
            if getattr(self, part) != getattr(other, part)
        ]

    def to_dict(self) -> dict[str, str | None]:
        """The four parts, as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Fingerprint:
        """The inverse of `to_dict`. Raises ValueError for a missing, unknown or malformed part."""
        if set(record) != {field.name for field in fields(cls)}:
            raise ValueError(
                f"a fingerprint has the parts {', '.join(_PARTS)}, not {', '.join(map(str, record))}"
            )
        for part, value in record.items():
            if not (_is_digest(value) or (part == "tokenizer" and value is None)):
                raise ValueError(f"the fingerprint's {part} is not a sha256: {value!r}")
        return cls(**record)


_PARTS = {"configuration": "differs", "tokenizer": "differs", "shapes": "differ", "weights": "differ"}


def fingerprint(folder: Path, *, beside: bool = True) -> Fingerprint:
    """The fingerprint of the transformers folder `folder`.

    With `beside` the cache is kept in the folder where that is writable; otherwise, and for folders that
    belong to a package or to the Hub's cache, under home()/bases. Raises BaseNotFound for a folder without
    configuration or weights.
    """
    cache = _cache_path(folder, beside)
    before = _stamps(folder)
    if cached := _read_cache(cache, before):
        return cached
    computed = Fingerprint(
        configuration=_configuration(folder),
        tokenizer=_tokenizer(folder),
        shapes=_shapes(folder),
        weights=_weights(folder),
    )
    if _stamps(folder) == before:  # a file that changed while it was read is not remembered
        _write_cache(cache, before, computed)
    return computed


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises BaseNotFound naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseNotFound(f"{path} cannot be read as JSON: {error}") from error


def _configuration(folder: Path) -> str:
    config = read_json(folder / "config.json")
    return sha256_bytes(_canonical({key: value for key, value in config.items() if key not in _VOLATILE}))


def _tokenizer(folder: Path) -> str | None:
    files = tokenizer_files(folder)
    if not files:
        return _processor(folder)
    if files[0].name == "tokenizer.json":
        # Truncation and padding are the last caller's settings, saved along.
        content = read_json(files[0])
        return sha256_bytes(
            _canonical({k: v for k, v in content.items() if k not in {"truncation", "padding"}})
        )
    return _digest_of(files)


def _processor(folder: Path) -> str | None:
    """Of how pictures are prepared, where the base reads no text: another size or mean is another input."""
    path = folder / _PROCESSOR
    if not path.is_file():
        return None
    content = read_json(path)
    return sha256_bytes(_canonical({key: value for key, value in content.items() if key not in _VOLATILE}))


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the vocabulary, or none for a base without a tokenizer."""
    for names in _VOCABULARIES:
        present = tuple(folder / name for name in names if (folder / name).is_file())
        if present:
            return present
    return tuple(sorted(folder.glob("*.tiktoken")))


def _shapes(folder: Path) -> str:
    return sha256_bytes(
        _canonical({name: list(tensor.shape) for name, tensor in read_headers(folder).items()})
    )


def _weights(folder: Path) -> str:
    """Over the bytes of all weight files in name order; for a single file that is the file's own sha256."""
    return _digest_of(weight_files(folder))


def _digest_of(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        for chunk in _chunks(path):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[memoryview]:
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                yield view[:count]
    except OSError as error:
        raise BaseNotFound(f"{path} cannot be read: {error.strerror or error}") from error


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size, modification and change time, and inode of every file the fingerprint reads."""
    stamps = {}
    processor = [path for path in (folder / _PROCESSOR,) if path.is_file()]
    for path in (folder / "config.json", *tokenizer_files(folder), *processor, *weight_files(folder)):
        try:
            status = path.stat()
        except OSError as error:
            raise BaseNotFound(f"{path} cannot be read: {error.strerror or error}") from error
        stamps[path.name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return stamps


def _cache_path(folder: Path, beside: bool) -> Path:
    if beside and os.access(folder, os.W_OK):
        return folder / CACHE_NAME
    return home() / "bases" / f"{sha256_bytes(str(folder.resolve()).encode())[:32]}.json"


def _read_cache(cache: Path, stamps: Mapping[str, list[int]]) -> Fingerprint | None:
    """The remembered fingerprint if every file is as it was. A cache that does not parse is no cache."""
    try:
        record = json.loads(cache.read_bytes())
        return Fingerprint.from_dict(record["fingerprint"]) if record["files"] == stamps else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_cache(cache: Path, stamps: Mapping[str, list[int]], computed: Fingerprint) -> None:
    try:
        write_bytes(cache, _canonical({"files": stamps, "fingerprint": computed.to_dict()}))
    except StorageError:  # a full or read-only disk costs only the next look its time
        return


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and all(digit in "0123456789abcdef" for digit in value)


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:8]}.."
