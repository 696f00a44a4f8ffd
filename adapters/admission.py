"""The policy on adapter folders: which files may be there, how large, and how they are read.

Admitted is a flat folder of regular files with plain names: `adapter_config.json`, one
`adapter_model.safetensors`, and documents (card, manifest, tokenizer, pictures). Refused, by name: pickles
and code, symbolic links, subfolders, names that could leave the folder, and files beyond the bounds. Names
in IGNORED are no part of the adapter: those of git and download tools are never read, and the signature
`model.sig` says something of the adapter, so it cannot be in what it signs.

Reads only. Does not know digests, and does not look into the files: configuration_policy,
safetensors_header and manifest do.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from adapthub.adapters.errors import AdmissionError, StorageError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "adapthub.json"
CARD = "README.md"
SIGNATURE = "model.sig"

IGNORED = frozenset({".git", ".gitattributes", ".gitignore", ".cache", ".DS_Store", SIGNATURE})
DOCUMENT_SUFFIXES = frozenset(
    {".json", ".jsonl", ".md", ".txt", ".model", ".jinja", ".csv", ".png", ".jpg", ".jpeg"}
)
DOCUMENT_NAMES = frozenset({"LICENSE", "NOTICE"})
MAX_FILES = 64
MAX_BYTES: Mapping[str, int] = {
    CONFIG: 2**20,
    MANIFEST: 4 * 2**20,
    WEIGHTS: 8 * 2**30,
    SIGNATURE: 2**18,
}
MAX_DOCUMENT_BYTES = 64 * 2**20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,127}")


def list_files(folder: Path) -> list[str]:
    """The names of the adapter's files, sorted. Raises AdmissionError for whatever else is in `folder`."""
    names: list[str] = []
    inner = folder / "adapter"
    if (inner / CONFIG).is_file() and not (folder / CONFIG).exists():
        raise AdmissionError(f"{folder} is no adapter, it is a folder around one", hint=f"Name {inner}.")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name not in IGNORED:
                    check_name(entry.name)
                    _check_entry(entry)
                    names.append(entry.name)
                if len(names) > MAX_FILES:
                    raise AdmissionError(f"{folder} has more than {MAX_FILES} files")
    except OSError as error:
        raise _unreadable(folder, error) from error
    for required in (CONFIG, WEIGHTS):
        if required not in names:
            raise AdmissionError(
                f"{folder} has no {required}",
                hint="An adapter is a folder that PEFT's save_pretrained wrote.",
            )
    if len({name.casefold() for name in names}) != len(names):
        raise AdmissionError(f"{folder} has file names that differ only in case")
    return sorted(names)


def check_name(name: str) -> None:
    """Raise AdmissionError where `name` may not be a file of an adapter."""
    if not _NAME.fullmatch(name):
        raise AdmissionError(
            f"{name!r} may not be in an adapter",
            hint="File names are letters, digits and _ . + - without folders.",
        )
    if name == WEIGHTS or name in DOCUMENT_NAMES or Path(name).suffix.lower() in DOCUMENT_SUFFIXES:
        return
    hint = "Remove it: it is not part of an adapter."
    if name.startswith("adapter_model."):
        hint = f"Load it with PEFT where you trust it and save it again: PEFT writes {WEIGHTS}."
    raise AdmissionError(f"the file {name!r} may not be in an adapter", hint=hint)


def _check_entry(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        raise AdmissionError(
            f"{entry.path} is a symbolic link", hint="Copy the folder with its links resolved: cp -rL."
        )
    if not entry.is_file(follow_symlinks=False):
        raise AdmissionError(
            f"{entry.path} is not a regular file", hint="An adapter is a flat folder of files."
        )


def read_file(folder: Path, name: str) -> bytearray:
    """All bytes of one admitted file, read once; a link or a file beyond its bound raises AdmissionError."""
    limit = MAX_BYTES.get(name, MAX_DOCUMENT_BYTES)
    try:
        # Non-blocking, so that a pipe put there after the listing cannot hang us.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise AdmissionError(f"{folder / name} is not a regular file")
            if status.st_size > limit:
                raise AdmissionError(f"{folder / name} has more than {limit} bytes")
            data = bytearray(status.st_size)
            del data[stream.readinto(data) :]  # shorter, if somebody truncated it meanwhile
            return data
    except OSError as error:
        raise _unreadable(folder / name, error) from error


def read_signature(folder: Path) -> bytes | None:
    """The bytes of `model.sig`, None where there is none. Raises AdmissionError where it is no regular file or too large."""
    path = folder / SIGNATURE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise AdmissionError(f"{path} is not a regular file", hint="Have the adapter signed anew.")
    return bytes(read_file(folder, SIGNATURE)) if path.exists() else None


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot read {path}: {error.strerror or error}")
