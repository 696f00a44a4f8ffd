"""Every sample of the catalogue, really fetched and looked into. Needs network, npm and Debian."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from adapthub.adapters import load_base
from adapthub.adapters.samples import SAMPLES, fetch
from adapthub.adapters.samples.members import SPLITS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fetched")


@pytest.fixture(autouse=True)
def shared_home(fetched: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One home for this file, so that nothing is fetched twice."""
    monkeypatch.setenv("ADAPTHUB_HOME", str(fetched))


def conll(folder: Path) -> int:
    tags: set[str] = set()
    for split in SPLITS:
        lines = (folder / f"{split}.conll").read_text(encoding="utf-8").split("\n")
        tags |= {line.split()[-1] for line in lines if line.strip()}
    assert "O" in tags
    assert {tag[:2] for tag in tags} == {"O", "B-", "I-"}
    return len({tag[2:] for tag in tags}) - 1


def classes(folder: Path) -> int:
    labels: set[str] = set()
    for split in SPLITS:
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert all(row["text"].strip() for row in rows)
        labels |= {row["label"] for row in rows}
    return len(labels)


def count(pattern: str) -> Callable[[Path], int]:
    return lambda folder: len(list(folder.glob(pattern)))


def lines(folder: Path) -> int:
    rows = [row for split in SPLITS for row in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
    assert all(json.loads(row) for row in rows)
    return len(rows)


def pairs(folder: Path) -> int:
    total = 0
    for split in SPLITS:
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert all(row["source"] and row["target"] for row in rows)
        total += len(rows)
    return total


def questions(folder: Path) -> int:
    written = [json.loads((folder / f"{split}.json").read_text("utf-8")) for split in SPLITS]
    paragraphs = [
        paragraph for one in written for article in one["data"] for paragraph in article["paragraphs"]
    ]
    return sum(len(paragraph["qas"]) for paragraph in paragraphs)


def recordings(folder: Path) -> int:
    for path in folder.glob("*/*.wav"):
        with wave.open(str(path)) as sound:
            assert (sound.getnchannels(), sound.getframerate()) == (1, 8000)
    return len(list(folder.glob("*/*.wav")))


# What is counted, and the count: entity types, labels, rows, pictures or recordings.
DATA: dict[str, tuple[Callable[[Path], int], int]] = {
    "conll2003": (conll, 4),
    "twitter-ner": (conll, 10),
    "chinese-ner": (conll, 3),
    "japanese-ner": (conll, 8),
    "movie-reviews": (classes, 2),
    "product-reviews": (classes, 2),
    "news-opinions": (classes, 2),
    "tweets": (classes, 2),
    "chinese-reviews": (classes, 2),
    "r8": (classes, 8),
    "r52": (classes, 52),
    "newsgroups": (classes, 20),
    "election-tweets": (classes, 2),
    "spam": (classes, 2),
    "instructions-en": (lines, 985),
    "instructions-zh": (lines, 992),
    "identity": (lines, 91),
    "preferences": (lines, 295),
    "feedback": (lines, 300),
    "tool-calls": (lines, 265),
    "small-talk": (lines, 6459),
    "openings": (count("*.csv"), 3),
    "entity-kinds": (lines, 18714),
    "entity-questions": (questions, 8765),
    "wikipedia": (count("*.txt"), 3),
    "interface-en-de": (pairs, 750),
    "interface-en-es": (pairs, 764),
    "interface-en-fr": (pairs, 764),
    "interface-en-ja": (pairs, 764),
    "interface-en-ru": (pairs, 764),
    "interface-en-zh": (pairs, 763),
    "prompts-en-es": (pairs, 441),
    "prompts-en-fr": (pairs, 500),
    "prompts-en-it": (pairs, 530),
    "prompts-en-ru": (pairs, 534),
    "mnist": (count("*/*/*.png"), 5000),
    "mnist-10k": (count("*/*/*.png"), 10000),
    "emoji": (count("*/*/*.png"), 3786),
    "speech-en": (recordings, 537),
    "speech-es": (recordings, 462),
    "speech-fr": (recordings, 491),
    "speech-it": (recordings, 561),
    "speech-ru": (recordings, 536),
}


def test_every_data_set_is_looked_into() -> None:
    assert set(DATA) == {sample.name for sample in SAMPLES.values() if sample.kind == "data"}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str) -> None:
    look, expected = DATA[name]
    assert look(fetch(name)) == expected


def test_minilm() -> None:
    base = load_base("package:minilm", "nf4")
    assert base.uninitialised == ()
    assert base.model.config.hidden_size == 384


def test_e5_finds_the_passage_that_answers() -> None:
    base = load_base("package:e5-small")
    assert base.tokenizer is not None
    assert base.uninitialised == ("pooler",)
    texts = (
        "query: 南瓜的家常做法",
        "passage: 清炒南瓜丝：嫩南瓜半个，葱、盐、白糖。",
        "passage: Women need about 46 grams of protein a day.",
    )
    vectors = []
    for text in texts:
        with torch.inference_mode():
            hidden = base.model(**base.tokenizer(text, return_tensors="pt")).last_hidden_state
        vectors.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.05


def test_smollm2_knows_the_capital_of_france() -> None:
    base = load_base("package:smollm2-135m")
    assert base.tokenizer is not None
    prompt = base.tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = base.model(**prompt).logits[0, -1].argmax()
    assert base.tokenizer.convert_ids_to_tokens(int(best)) == "ĠParis"


def test_whisper_writes_down_what_is_said() -> None:
    import numpy as np
    from transformers import WhisperProcessor

    base = load_base("package:whisper-base")
    processor = WhisperProcessor.from_pretrained(base.path)
    (path,) = fetch("speech-en").glob("*/agent-loggedoff.wav")
    with wave.open(str(path)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32768
    at_16k = np.interp(np.arange(2 * len(samples)) / 2, np.arange(len(samples)), samples)
    features = processor(at_16k, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        tokens = cast(Any, base.model).generate(features, language="en", task="transcribe")
    words = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    assert words.strip(" .").lower() == "agent logged off"
