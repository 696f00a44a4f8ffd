"""Sentiment data: short texts with a label, as train/validation/test.csv with columns text and label.

Does not balance or clean: only exact duplicates and ratings of exactly zero are left out.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.samples.members import keep_licences, one, split_rows, write_csv


def movie_reviews(unpacked: Path, target: Path) -> None:
    """Movie review snippets of Hutto and Gilbert (2014): id, mean rating of -4 to 4 by 20 people, text."""
    package = unpacked / "vaderSentiment"
    for split, rows in split_rows(_rated(package, "movieReviewSnippets")).items():
        write_csv(target / f"{split}.csv", rows)
    keep_licences(package, target)


def _rated(package: Path, part: str) -> Iterator[tuple[str, str]]:
    with tarfile.open(one(package, "*/additional_resources/hutto_ICWSM_2014.tar.gz"), "r:gz") as tar:
        stream = tar.extractfile(f"hutto_ICWSM_2014/{part}_GroundTruth.txt")
        if stream is None:
            raise AdmissionError(f"{package.name}: {part}_GroundTruth.txt is not a regular file")
        for line in stream.read().decode("utf-8").splitlines():
            _, rating, text = line.split("\t", 2)
            if float(rating) != 0:
                yield text.strip(), "positive" if float(rating) > 0 else "negative"
