"""Progress on a terminal and in a file, driven by real runs, and by a clock where time matters."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapthub.recipes import train
from adapthub.recipes.progress import ProgressBar


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
    assert "validation f1 0." in last
    assert "left" in last


def test_without_a_terminal_each_evaluation_is_a_plain_line(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=20)
    lines = run(tiny_base, ner_data, tmp_path / "run", console, monkeypatch).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"step 2 of 4, loss \d+\.\d{3}, validation f1 0\.\d{4}, \d+ s left", lines[0])
    assert re.fullmatch(r"step 4 of 4, loss \d+\.\d{3}, validation f1 0\.\d{4}", lines[1])


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(bar: ProgressBar, clock: Clock, steps: range, *, seconds: float, of: int) -> None:
    """A run without evaluations, from the step before `steps`."""
    arguments, control = TrainingArguments(report_to=[]), TrainerControl()
    state = TrainerState(global_step=steps.start - 1, max_steps=of)
    bar.on_train_begin(arguments, state, control)
    for step in steps:
        clock.now += seconds
        state.global_step = step
        bar.on_step_end(arguments, state, control)
        bar.on_log(arguments, state, control, logs={"loss": 1 / step})


def test_between_rare_evaluations_a_line_comes_every_half_minute() -> None:
    console, clock = Console(file=io.StringIO()), Clock()
    drive(ProgressBar(console, "f1", clock=clock), clock, range(1, 11), seconds=12, of=40)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "step 3 of 40, loss 0.333, about 7 min left",
        "step 6 of 40, loss 0.167, about 7 min left",
        "step 9 of 40, loss 0.111, about 6 min left",
    ]


def test_a_resumed_run_takes_its_pace_from_its_own_steps() -> None:
    console, clock = Console(file=io.StringIO()), Clock()
    drive(ProgressBar(console, "f1", clock=clock), clock, range(39, 41), seconds=30, of=41)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "step 39 of 41, loss 0.026, about 1 min left",
        "step 40 of 41, loss 0.025, 30 s left",
    ]


def test_quiet_shows_nothing(
    tiny_base: Path, ner_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = ner_data / "train.conll"
    train("ner", data, base=str(tiny_base), output=tmp_path / "run", max_steps=2, batch_size=4, quiet=True)
    assert capfd.readouterr() == ("", "")
