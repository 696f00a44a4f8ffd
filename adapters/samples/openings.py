"""Texts and what is short for them, built from articles: a paragraph's first sentence, which says what it is about, from the
rest of it. Nobody wrote these as summaries (compare gap sentences, Zhang et al. 2020, PEGASUS).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.samples.members import keep_licences, one, split_by, write_csv

# The articles lost their line breaks: a sentence that begins right behind a full stop begins a paragraph.
_PARAGRAPH = re.compile(r"(?<=[a-z0-9)\"][.!?])(?=[A-Z][a-z])")
_HEADING = re.compile(r"[a-z][A-Z]")  # and a heading, into the sentence behind it
_SENTENCE = re.compile(r"(?<=[a-z0-9)\"][.!?]) (?=[A-Z])")
_LEAST_SENTENCES = 3
_WORDS = (40, 250)  # of a paragraph
_SHORT = (6, 40)  # words of a first sentence


def openings(unpacked: Path, target: Path, file: str) -> None:
    """train/validation/test.csv with the columns document and summary; an article lies in one split."""
    package = unpacked / "llamafactory"
    articles = one(package, f"*/data/{file}").read_text(encoding="utf-8").split("\n")
    for split, kept in split_by(articles, lambda article: article).items():
        pairs = (pair for article in kept for pair in pairs_of(article))
        write_csv(target / f"{split}.csv", pairs, ("document", "summary"))
    keep_licences(package, target)


def pairs_of(article: str) -> Iterator[tuple[str, str]]:
    """(the rest of a paragraph, its first sentence) of every paragraph that has enough of both."""
    for paragraph in _PARAGRAPH.split(article):
        first, *rest = _SENTENCE.split(" ".join(paragraph.split()))
        words = len(paragraph.split())
        if (
            not _HEADING.search(first)
            and len(rest) + 1 >= _LEAST_SENTENCES
            and _WORDS[0] <= words <= _WORDS[1]
            and _SHORT[0] <= len(first.split()) <= _SHORT[1]
        ):
            yield " ".join(rest), first
