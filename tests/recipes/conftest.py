"""Small labelled data that a two-layer model can learn something of."""

from __future__ import annotations

import gc
import json
import random
import shutil
from pathlib import Path

import pytest

PERSONS = ("ada", "bob", "alice")
PLACES = ("london", "paris", "berlin")
OTHERS = ("was", "born", "in", "works", "at", "the", "film", "is", "good", "she", "visited")


def write_ner(path: Path, rows: int, seed: int) -> Path:
    """CoNLL: names and places among other words, rows of 3 to 12 tokens."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        for _ in range(draw.randint(3, 12)):
            kind = draw.random()
            if kind < 0.2:
                lines.append(f"{draw.choice(PERSONS)} B-PER")
            elif kind < 0.4:
                lines.append(f"{draw.choice(PLACES)} B-LOC")
            else:
                lines.append(f"{draw.choice(OTHERS)} O")
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_reviews(path: Path, rows: int, seed: int) -> Path:
    """CSV: texts with one telling word."""
    draw = random.Random(seed)
    lines = ["text,label"]
    for _ in range(rows):
        label = draw.choice(("positive", "negative"))
        word = draw.choice(("good", "great", "fine") if label == "positive" else ("bad", "awful", "dull"))
        filler = " ".join(draw.choices(("the", "film", "story", "is", "a"), k=draw.randint(2, 9)))
        lines.append(f"{filler} {word},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def calm_copy(base: Path, folder: Path) -> Path:
    """The same encoder without dropout."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def quick_collections() -> None:
    """Every run starts with a full garbage collection; it need not walk over what importing has made."""
    import adapthub.recipes.training  # noqa: F401

    gc.freeze()


@pytest.fixture(scope="session")
def ner_data(quick_collections: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.conll (22 rows), validation.conll (12) and test.conll (12)."""
    folder = tmp_path_factory.mktemp("ner")
    for seed, (split, rows) in enumerate({"train": 22, "validation": 12, "test": 12}.items()):
        write_ner(folder / f"{split}.conll", rows, seed)
    return folder


@pytest.fixture(scope="session")
def review_data(quick_collections: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (22 rows), validation.csv (12) and test.csv (12)."""
    folder = tmp_path_factory.mktemp("reviews")
    for seed, (split, rows) in enumerate({"train": 22, "validation": 12, "test": 12}.items()):
        write_reviews(folder / f"{split}.csv", rows, seed)
    return folder
