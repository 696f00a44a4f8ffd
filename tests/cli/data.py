"""Small labelled files whose words the tiny base knows."""

from __future__ import annotations

from pathlib import Path

SENTENCES = (
    ("ada/B-PER was/O born/O in/O london/B-LOC ./O", "alice/B-PER met/O bob/B-PER ./O"),
    ("bob/B-PER works/O at/O acme/B-ORG ./O", "she/O visited/O berlin/B-LOC ./O"),
    ("ada/B-PER visited/O paris/B-LOC ./O", "the/O film/O is/O a/O story/O ./O"),
)
GOOD = ("the film is great", "a fine story", "a good film", "she is great", "a great story")
BAD = ("the film is awful", "a dull story", "a bad film", "she is awful", "a dull film")


def write_conll(path: Path, *, copies: int = 6) -> Path:
    """Persons, places and an organisation, in BIO; each copy ends in one more full stop, so no row repeats."""
    rows = [row + " ./O" * copy for copy in range(copies) for pair in SENTENCES for row in pair]
    sentences = ("\n".join(word.replace("/", " ") for word in row.split()) for row in rows)
    path.write_text("\n\n".join(sentences) + "\n")
    return path


def write_reviews(path: Path, *, copies: int = 4) -> Path:
    """Two labels, balanced; each copy ends in one more full stop, so no row repeats."""
    rows = [
        f"{text}{' .' * copy},{label}"
        for copy in range(copies)
        for pair in zip(GOOD, BAD, strict=True)
        for text, label in zip(pair, ("good", "bad"), strict=True)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path
