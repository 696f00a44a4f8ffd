"""What is printed: tables in a pipe and on a terminal, predictions, sizes; nothing that can drive a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.cli import text
from adapthub.cli.data import find_base
from adapthub.cli.main import adapt
from adapthub.cli.output import show_record, show_table
from adapthub.cli.predictions import pieces, prediction_record, show_predictions
from adapthub.runtime import AnswerSpan, Entity, Prediction
from tests.cli.conftest import Command, command, write_plain_adapter

NER = "token-classification"


def test_a_table_in_a_pipe_is_aligned_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [
        {"name": "a", "score": 0.123456, "labels": ["x", "y"]},
        {"name": "評判", "score": None, "labels": []},
        {"name": "e\x1b[2Jvil\n", "score": True, "labels": {"k": 1}},
    ]
    show_table(records, ("name", "score", "labels"))
    assert capsys.readouterr().out.splitlines() == [
        "name       score   labels",
        "a          0.1235  x, y",
        "評判       -       -",
        "e�[2Jvil�  yes     k 1",
    ]
    show_table([], ("name",), empty="nothing here")
    assert capsys.readouterr().out == "nothing here\n"
    show_record({"one_two": None, "three": 3})
    assert capsys.readouterr().out == "one two  -\nthree    3\n"


@given(st.text())
def test_clean_text_has_no_control_character(value: str) -> None:
    cleaned = text.clean(value)
    assert len(cleaned) == len(value)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or "\u202a" <= c <= "\u202e" for c in cleaned)
    assert "\n" not in text.one_line(value)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (84_100_000, "84.1 MB"),
        (2.5e9, "2.5 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_sizes(count: float, words: str) -> None:
    assert text.size(int(count)) == words


@pytest.mark.parametrize(("value", "words"), [(0.44, "0.4 s"), (12.2, "12 s"), (185.9, "3 min 05 s")])
def test_durations(value: float, words: str) -> None:
    assert text.duration(value) == words


def entities(line: str, *spans: tuple[int, int, str]) -> Prediction:
    found = tuple(Entity(line[a:b], label, a, b, 0.9) for a, b, label in spans)
    return Prediction("acme/ner", ("sha256:0",), NER, False, entities=found)


def test_entities_are_marked_in_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    line = "Ada met\nBob."
    prediction = entities(line, (0, 3, "PER"), (8, 11, "PER"))
    show_predictions([prediction, entities("Nobody.")], [line, "Nobody."], as_json=False)
    assert capsys.readouterr().out == "[Ada PER] met [Bob PER].\nNobody.\n"
    record = prediction_record(prediction, line)
    assert record["entities"][1] == {"text": "Bob", "label": "PER", "start": 8, "end": 11, "score": 0.9}
    assert json.loads(json.dumps(record)) == record


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5))
def test_pieces_put_together_are_the_text(line: str, cuts: list[tuple[int, int]]) -> None:
    spans, end = [], 0
    for gap, length in cuts:
        start, stop = end + gap, end + gap + length
        if start < stop <= len(line):
            spans.append(Entity(line[start:stop], "X", start, stop, 1.0))
            end = stop
    parts = list(pieces(line, spans))
    assert "".join(part for part, _ in parts) == line
    assert [part for part, label in parts if label] == [entity.text for entity in spans]


def test_classes_have_bars_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"bad": 0.25, "good": 0.75}
    good = Prediction("acme/mood", ("sha256:0",), "text-classification", True, (), "good", 0.75, scores)
    show_predictions([good], ["a fine film"], as_json=False)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "a fine film"
    assert [line.split()[:2] for line in lines[1:]] == [["good", "0.750"], ["bad", "0.250"]]
    assert lines[1].count("█") == 3 * lines[2].count("█") > 0
    assert "not read" in shown.err
    assert prediction_record(good, "a fine film")["scores"] == scores


TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "140"}


def read_all(master: int) -> str:
    """What comes from a terminal's other end until it is closed."""
    chunks = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        chunks.append(chunk)
    os.close(master)
    return b"".join(chunks).decode()


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    """What a command prints when stdout is a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        arguments, stdout=slave, stderr=slave, env={**os.environ, **TERMINAL, **environment}
    ) as process:
        os.close(slave)
        shown = read_all(master)
        assert process.wait() == 0
    return shown


def here_on_a_terminal(*arguments: str, **environment: str) -> str:
    """What `adapt` prints in this process when stdout is a terminal."""
    master, slave = pty.openpty()
    with ThreadPoolExecutor(1) as thread, pytest.MonkeyPatch.context() as patch:
        shown = thread.submit(read_all, master)
        for name, value in {**TERMINAL, **environment}.items():
            patch.setenv(name, value)
        with os.fdopen(slave, "w") as terminal:
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            adapt.main([*arguments], prog_name="adapt", standalone_mode=False)
        return shown.result()


def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(cli: Command, tmp_path: Path) -> None:
    cli("push", write_plain_adapter(tmp_path / "plain"), "acme/named-entities", "--alias", "prod").fine()
    narrow = on_a_terminal(command("list"), COLUMNS="60")
    assert "acme/named-entities" in narrow
    assert "Not shown, for want of width:" in narrow
    assert "created. --json has everything." in narrow
    assert "Not shown" not in here_on_a_terminal("list")


def test_a_terminal_gets_a_table_and_no_color_is_honoured(cli: Command, tmp_path: Path) -> None:
    cli("push", write_plain_adapter(tmp_path / "plain"), "acme/ner", "--message", "[red]not markup").fine()
    coloured = here_on_a_terminal("show", "acme/ner")
    assert "─" in coloured
    assert "\x1b[" in coloured
    plain = here_on_a_terminal("show", "acme/ner", NO_COLOR="1")
    assert "─" in plain
    assert "\x1b[3" not in plain  # no colour
    assert "[red]not markup" in plain
    assert "\x1b" not in cli("show", "acme/ner").fine()


@pytest.mark.parametrize(("base", "said"), [("package:minilm", 1), ("org/base", 0), ("package:no-sample", 0)])
def test_a_base_that_must_be_fetched_is_said(
    base: str, said: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "adapthub.adapters.samples.fetch", lambda name, report: report(f"Fetching {name} (Apache-2.0)")
    )
    assert find_base(base) == base
    assert capsys.readouterr().err == "Fetching minilm (Apache-2.0)\n" * said


def test_answers_vectors_and_several_labels_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    spans = (AnswerSpan("Ada", 0, 3, 0.75), AnswerSpan("", 0, 0, 0.25))
    answered = Prediction("acme/qa", ("sha256:0",), "question-answering", False, answers=spans)
    features = torch.tensor([[3.0, 0.0], [3.0, 8.0]])
    embedded = Prediction("acme/search", ("sha256:0",), "feature-extraction", False, features=features)
    several = Prediction(
        "acme/topics",
        ("sha256:0",),
        "text-classification",
        False,
        scores={"film": 0.9, "mood": 0.8, "city": 0.1},
        labels=("film", "mood"),
    )
    show_predictions([answered, embedded, several], ["who", "a film", "fun"], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "who",
        "  Ada  0.750",
        "  (no answer)  0.250",
        "a film",
        "  0.6000 0.8000 ... (2 values)",
    ]
    assert lines[5:7] == ["fun", "  labels: film, mood"]
    assert [line.split()[:2] for line in lines[7:]] == [
        ["film", "0.900"],
        ["mood", "0.800"],
        ["city", "0.100"],
    ]
    show_predictions([answered, embedded, several], ["who", "a film", "fun"], as_json=True)
    records = json.loads(capsys.readouterr().out)
    assert records[0]["answers"][0] == {"text": "Ada", "start": 0, "end": 3, "score": 0.75}
    assert records[1]["vector"] == pytest.approx([0.6, 0.8])
    assert records[2]["labels"] == ["film", "mood"]
