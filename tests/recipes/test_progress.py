"""The progress bar, driven by a real run."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adapthub.recipes import train


def run(base: Path, data: Path, output: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("adapthub.recipes.training.Console", lambda **_: console)
    settings: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "eval_steps": 2}
    validation = data / "validation.conll"
    train("ner", data / "train.conll", base=str(base), validation=validation, output=output, **settings)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_step_loss_metric_and_time_left(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    shown = run(tiny_base, ner_data, tmp_path / "run", console, monkeypatch)
    last = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).splitlines() if line.strip()][-1]
    assert "4/4" in last
    assert "loss " in last
    assert "f1 0." in last
    assert "left" in last


def test_a_file_shows_nothing(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=120)
    assert run(tiny_base, ner_data, tmp_path / "run", console, monkeypatch) == ""
