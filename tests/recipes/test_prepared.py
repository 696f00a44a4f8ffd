"""Data read and tokenised once: what is kept is what would be read, by content, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.recipes import prepared, train
from adapthub.recipes.data import tables
from adapthub.recipes.job import Job, prepare
from adapthub.recipes.recipe import lengths_of

WORDS = ("ada was born in london", "bob met alice", "the film is great", "a dull story", "she visited paris")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is kept however small, read and encoded in several parts, and read back at once."""
    monkeypatch.setattr(prepared, "LEAST_BYTES", 0)
    monkeypatch.setattr(prepared, "_HELD_BYTES", 0)
    monkeypatch.setattr(prepared, "_AT_ONCE", 7)
    monkeypatch.setattr(tables, "_BLOCK", 300)


def write(path: Path, kind: str) -> Path:
    """Some forty rows of unlike lengths, of which a few repeat."""
    texts = [f"{WORDS[at % 5]} {'and ' * (at % 4)}{at % 38}" for at in range(40)]
    match kind:
        case "ner":
            rows = [
                "\n".join(f"{word} {'B-X' if word in ('ada', 'bob') else 'O'}" for word in text.split())
                for text in texts
            ]
            path.write_text("\n\n".join(rows) + "\n")
            if path.suffix == ".tsv":
                path.write_text(path.read_text().replace(" ", "\t"))
        case "sentiment":
            rows = [f'"{text}",{"good" if at % 2 else "bad"}' for at, text in enumerate(texts)]
            path.write_text("text,label\n" + "\n".join(rows) + "\n")
        case "classify":
            rows = [
                json.dumps({"text": text, "labels": ["x", "y"][: 1 + at % 2]})
                for at, text in enumerate(texts)
            ]
            path.write_text("\n".join(rows) + "\n")
        case "embed":
            rows = [
                json.dumps({"query": text, "passage": f"{text} ?", "negative": "a story" if at % 3 else None})
                for at, text in enumerate(texts)
            ]
            path.write_text("\n".join(rows) + "\n")
    return path


KINDS = (
    ("ner", "a.conll"),
    ("ner", "a.tsv"),
    ("sentiment", "a.csv"),
    ("classify", "a.jsonl"),
    ("embed", "a.jsonl"),
)


def job_of(task: str, data: Path, base: Path) -> Job:
    return prepare(
        task,
        data,
        base=str(base),
        quantize=None,
        method=None,
        validation=None,
        test=None,
        seed=0,
        given={},
    )


def facts(job: Job) -> dict[str, Any]:
    return {
        "labels": job.labels,
        "encoding": job.encoding,
        "notes": job.notes,
        "splits": {
            name: {
                "rows": [dict(row) for row in split.encoded.rows],
                "lengths": lengths_of(split.encoded.rows).tolist(),
                "positions": [list(row) for row in split.encoded.positions],
                "counts": (split.encoded.supervised, split.encoded.targets, split.encoded.truncated),
                "examples": list(split.dataset),
                "some": [dict(row) for row in split.some(3).encoded.rows],
                "fingerprint": split.dataset.fingerprint,
                "source": split.dataset.source,
            }
            for name, split in job.splits.items()
        },
    }


@pytest.mark.parametrize(("task", "name"), KINDS)
def test_what_is_kept_is_what_would_be_read(
    task: str, name: str, tmp_path: Path, tiny_base: Path, request: pytest.FixtureRequest
) -> None:
    data = write(tmp_path / name, task)
    plain = facts(job_of(task, data, tiny_base))
    request.getfixturevalue("kept")
    assert facts(job_of(task, data, tiny_base)) == plain
    assert facts(job_of(task, data, tiny_base)) == plain


@pytest.mark.usefixtures("kept")
def test_a_file_is_read_and_tokenised_once_and_known_by_its_content(
    tmp_path: Path, tiny_base: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    first = facts(job_of("sentiment", data, tiny_base))
    entries = {entry: entry.stat().st_ino for entry in (own_home / "prepared").iterdir()}
    assert len(entries) == 3  # what was read, and rows of two splits
    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.sentiment.Sentiment.read", None)
        patch.setattr("adapthub.recipes.sentiment.Sentiment.encode", None)
        moved = data.rename(tmp_path / "moved.csv")
        again = facts(job_of("sentiment", moved, tiny_base))
    assert {entry: entry.stat().st_ino for entry in (own_home / "prepared").iterdir()} == entries
    assert again["splits"]["train"]["rows"] == first["splits"]["train"]["rows"]
    assert again["splits"]["train"]["examples"][0].source == f"{moved}:2"
    moved.write_text(moved.read_text().replace("great", "awful"))
    other = facts(job_of("sentiment", moved, tiny_base))
    assert other["splits"]["train"]["rows"] != first["splits"]["train"]["rows"]


@pytest.mark.usefixtures("kept")
def test_entries_that_were_not_used_for_longest_go_when_there_is_no_room(
    tmp_path: Path, tiny_base: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of("sentiment", write(tmp_path / "a.csv", "sentiment"), tiny_base)
    before = set((own_home / "prepared").iterdir())
    for entry in before:
        os.utime(entry, (0, 0))
    monkeypatch.setattr(prepared, "MOST_BYTES", 1)
    job_of("ner", write(tmp_path / "a.conll", "ner"), tiny_base)
    assert not before & set((own_home / "prepared").iterdir())


@pytest.mark.usefixtures("kept")
def test_what_is_wrong_names_its_line_and_nothing_is_kept(
    tmp_path: Path, tiny_base: Path, own_home: Path
) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    with data.open("a") as stream:
        stream.write("a text without a label,\n")
    with pytest.raises(InvalidData, match=r"a\.csv:42: the label in column 'label' is empty"):
        job_of("sentiment", data, tiny_base)
    data = write(tmp_path / "b.jsonl", "classify")
    with data.open("a") as stream:
        stream.write('{"text": "x", "labels": [')
    with pytest.raises(InvalidData, match=r"b\.jsonl:41: not JSON"):
        job_of("classify", data, tiny_base)
    data.write_bytes(data.read_bytes()[:-30] + b"\xff\n")
    with pytest.raises(InvalidData, match=r"b\.jsonl:40: byte \d+ \(0xff\) is not UTF-8"):
        job_of("classify", data, tiny_base)
    assert list((own_home / "prepared").glob("*")) == []


@pytest.mark.usefixtures("kept")
def test_a_run_over_what_is_kept_makes_the_same_adapter(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.conll", "ner")
    options: dict[str, Any] = {"base": str(tiny_base), "quiet": True, "max_steps": 3, "batch_size": 4}
    kept = train("ner", data, output=tmp_path / "kept", **options)
    monkeypatch.setattr(prepared, "LEAST_BYTES", 1 << 30)
    plain = train("ner", data, output=tmp_path / "plain", **options)
    weights = "adapter_model.safetensors"
    assert kept.artifact.files[weights] == plain.artifact.files[weights]
    assert kept.metrics == plain.metrics


_LIMITED = """
import resource, sys
from adapthub.recipes.job import prepare
import torch, transformers
from transformers import Trainer
import peft
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.recipe import lengths_of
status = open("/proc/self/status").read()
data = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (data + {room}, data + {room}))
job = prepare("sentiment", sys.argv[1], base=sys.argv[2], quantize=None, method=None, validation=None, test=None,
              seed=0, given={{"max_length": 16}})
rows = job.splits["train"].encoded.rows
order = iter(LengthGroups(lengths_of(rows), 32, 0))
print(len(rows), len(rows[next(order)]["input_ids"]), job.splits["train"].dataset.fingerprint)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_file_of_three_hundred_megabytes_is_read_in_less_memory_than_it_has(
    tmp_path: Path, tiny_base: Path
) -> None:
    data = tmp_path / "large.csv"
    filler = "the film is a story " * 100
    with data.open("w") as stream:
        stream.write("text,label\n")
        for at in range(150_000):
            stream.write(f"{at} {filler},{'good' if at % 2 else 'bad'}\n")
    assert data.stat().st_size > 300e6
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(room=250 << 20), str(data), str(tiny_base)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[:2] == ["135000", "16"]
