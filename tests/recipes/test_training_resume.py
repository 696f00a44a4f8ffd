"""A run that was interrupted and resumed ends as if nothing had happened: bit for bit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapthub.adapters.errors import InvalidSettings, StorageError, TrainingInterrupted
from adapthub.recipes import TrainingResult, loop, train
from adapthub.recipes import run as runs
from adapthub.recipes.interrupt import StopAtStep

# 22 rows in batches of 4: an epoch is 6 steps. Dropout is on, in the base and in the adapter.
COMMON: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": 14,
    "eval_steps": 5,
    "learning_rate": 1e-2,
    "seed": 7,
    "quiet": True,
}
LORA = {"method": "lora", "dropout": 0.1, "rank": 16}
DORA = {"method": "dora", "dropout": 0.1, "rank": 4}
PREFIX = {"method": "prefix"}
NF4 = {"method": "lora", "dropout": 0.1, "quantize": "nf4"}
INT8 = {"method": "lora", "dropout": 0.1, "quantize": "int8"}
KINDS: dict[str, dict[str, Any]] = {"lora": LORA, "dora": DORA, "prefix": PREFIX, "nf4": NF4, "int8": INT8}


class SignalAt(StopAtStep):
    """Sends this process a signal during step `step`."""

    step = 0
    number = signal.SIGINT

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.step:
            signal.raise_signal(self.number)
        super().on_step_end(args, state, control, **kwargs)


class Bench:
    """Trains one kind of adapter, once without and any number of times with an interruption."""

    def __init__(self, base: Path, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.data, self.folder, self.monkeypatch = base, data, folder, monkeypatch

    def train(self, kind: str, output: Path, **more: Any) -> TrainingResult:
        settings = {**COMMON, **KINDS[kind], "output": output, **more}
        settings.setdefault("validation", self.data / "validation.conll")
        return train("ner", self.data / "train.conll", base=str(self.base), **settings)

    def interrupt(self, kind: str, output: Path, step: int, number: int = signal.SIGINT, **more: Any) -> str:
        """Start a run, let a signal end it after `step`; the error's text."""
        with self.signal_at(step, number), pytest.raises(TrainingInterrupted) as caught:
            self.train(kind, output, **more)
        return str(caught.value)

    @contextmanager
    def signal_at(self, step: int, number: int = signal.SIGINT) -> Iterator[None]:
        stop = type("Stop", (SignalAt,), {"step": step, "number": number})
        with self.monkeypatch.context() as patch:
            patch.setattr(loop, "StopAtStep", stop)
            yield


@pytest.fixture
def bench(tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tiny_base, ner_data, tmp_path, monkeypatch)


@cache
def _unbroken(kind: str, base: Path, data: Path, folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    settings = {**COMMON, **KINDS[kind], "output": folder / kind}
    result = train(
        "ner", data / "train.conll", base=str(base), validation=data / "validation.conll", **settings
    )
    return (result.artifact.path / "adapter_model.safetensors").read_bytes(), result.run.history


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the unbroken runs lie, one a kind."""
    return tmp_path_factory.mktemp("straight")


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("lora", 3),  # in the middle of the first epoch, before any checkpoint
        ("lora", 6),  # at the end of an epoch
        ("lora", 10),  # at an evaluation
        ("prefix", 8),
        ("nf4", 8),
        *(pytest.param(kind, 8, marks=pytest.mark.slow) for kind in ("dora", "int8")),
    ],
)
def test_interrupted_and_resumed_is_bit_for_bit_the_unbroken_run(
    kind: str, step: int, bench: Bench, straight: Path, tmp_path: Path
) -> None:
    weights, history = _unbroken(kind, bench.base, bench.data, straight)
    message = bench.interrupt(kind, tmp_path / "run", step)
    assert f"interrupted at step {step} of 14; checkpoint-{step} is kept in" in message
    assert f"--resume {tmp_path / 'run'}" in message
    assert runs.load(tmp_path / "run").state == "started"

    resumed = bench.train(kind, tmp_path / "run", resume=True)
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.run.history == history
    assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, 15))
    assert [entry["step"] for entry in history if "eval_f1" in entry] == [5, 10, 14]


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "prefix"))]
)
def test_two_steps_of_sentiment_with_a_resume_between(
    method: str, bench: Bench, review_data: Path, tmp_path: Path
) -> None:
    def run(output: Path, **more: Any) -> TrainingResult:
        settings = {**COMMON, "max_steps": 2, "method": method, "output": output, **more}
        return train("sentiment", review_data / "train.csv", base=str(bench.base), **settings)

    straight = run(tmp_path / "straight")
    with bench.signal_at(1), pytest.raises(TrainingInterrupted, match="at step 1 of 2"):
        run(tmp_path / "run")
    resumed = run(tmp_path / "run", resume=True)
    weights = "adapter_model.safetensors"
    assert resumed.artifact.files[weights] == straight.artifact.files[weights]
    assert resumed.run.history == straight.run.history


def test_a_run_can_be_interrupted_twice_and_by_sigterm(bench: Bench, straight: Path, tmp_path: Path) -> None:
    weights, history = _unbroken("lora", bench.base, bench.data, straight)
    before = signal.getsignal(signal.SIGTERM)
    bench.interrupt("lora", tmp_path / "run", 2, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "step 9" in bench.interrupt("lora", tmp_path / "run", 9, resume=True)
    resumed = bench.train("lora", tmp_path / "run", resume=tmp_path / "run")
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.run.history == history


def test_a_run_that_ended_before_its_artifact_is_not_trained_further(
    bench: Bench, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash in the very end: the checkpoints are there, the adapter is not."""
    weights, history = _unbroken("lora", bench.base, bench.data, straight)

    def crash(*_: Any) -> None:
        raise RuntimeError("crash in the end")

    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.training.Outcome.save", crash)
        with pytest.raises(RuntimeError, match="crash in the end"):
            bench.train("lora", tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()
    resumed = bench.train("lora", tmp_path / "run", resume=True)
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.run.history == history


def test_an_interruption_while_measuring_says_how_to_go_on(
    bench: Bench, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = _unbroken("lora", bench.base, bench.data, straight)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.training.Outcome.measure", interrupt)
        with pytest.raises(TrainingInterrupted, match=r"checkpoint-14 is kept in .*--resume"):
            bench.train("lora", tmp_path / "run")
    assert runs.load(tmp_path / "run").state == "trained"
    resumed = bench.train("lora", tmp_path / "run", resume=True)
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.metrics["validation"]["f1"].n == 12


@pytest.mark.parametrize("room", [60_000, 150_000])
def test_a_disk_that_is_full_at_a_checkpoint_loses_nothing_before_it(
    room: int, bench: Bench, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow beyond `room`: the weights (119 kB) do not fit, or the optimiser's state (253 kB)."""
    weights, history = _unbroken("lora", bench.base, bench.data, straight)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FullDisk(StopAtStep):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.global_step == 8:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopAtStep", FullDisk)
        try:
            with pytest.raises(StorageError, match=r"cannot write a checkpoint in .*--resume"):
                bench.train("lora", tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resumed = bench.train("lora", tmp_path / "run", resume=True)
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.run.history == history


def test_a_torn_checkpoint_is_passed_over(bench: Bench, straight: Path, tmp_path: Path) -> None:
    """As after a kill in the middle of writing one: transformers writes its state last."""
    weights, history = _unbroken("lora", bench.base, bench.data, straight)
    bench.interrupt("lora", tmp_path / "run", 8)
    (tmp_path / "run" / "checkpoints" / "checkpoint-8" / "trainer_state.json").write_text('{"global_st')
    resumed = bench.train("lora", tmp_path / "run", resume=True)
    assert (resumed.artifact.path / "adapter_model.safetensors").read_bytes() == weights
    assert resumed.run.history == history


def test_another_configuration_is_not_resumed(bench: Bench, tmp_path: Path) -> None:
    bench.interrupt("lora", tmp_path / "run", 3)
    with pytest.raises(InvalidSettings, match=r"settings\.learning_rate was 0\.01, is now 0\.02"):
        bench.train("lora", tmp_path / "run", resume=True, learning_rate=2e-2)
    with pytest.raises(InvalidSettings, match=r"method was 'lora', is now 'prefix'"):
        bench.train("prefix", tmp_path / "run", resume=True)
    with pytest.raises(InvalidSettings, match=r"settings\.lora_plus_ratio was 1\.0, is now 4"):
        bench.train("lora", tmp_path / "run", resume=True, lora_plus_ratio=4)
    with pytest.raises(InvalidSettings, match=r"data\.validation was .*, is now None"):
        bench.train("lora", tmp_path / "run", resume=True, validation=False)
    with pytest.raises(InvalidSettings, match=r"stays in its folder, .*run; output='.*other' is another"):
        bench.train("lora", tmp_path / "other", resume=tmp_path / "run")


def test_other_versions_on_resume_are_told_and_not_refused(bench: Bench, tmp_path: Path) -> None:
    bench.interrupt("lora", tmp_path / "run", 3)
    told: list[str] = []
    bench.train("lora", tmp_path / "run", resume=True, report=told.append)
    assert not any("versions" in note for note in told)

    bench.interrupt("lora", tmp_path / "old", 3)
    record = json.loads((tmp_path / "old" / "run.json").read_text())
    record["environment"]["libraries"] |= {"torch": "1.0", "gone": "2"}
    (tmp_path / "old" / "run.json").write_text(json.dumps(record))
    told.clear()
    bench.train("lora", tmp_path / "old", resume=True, report=told.append)
    assert told[-1].startswith(
        f"resumed with other versions than {tmp_path / 'old'} began with: torch 1.0 -> "
    )
    assert told[-1].endswith(", gone 2 -> none")


def test_the_latest_run_of_the_same_configuration_is_found(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettings, match="nothing to resume under runs/: there is no run"):
        train("ner", bench.data / "train.conll", base=str(bench.base), resume=True, **COMMON)
    with bench.signal_at(2), pytest.raises(TrainingInterrupted):
        train("ner", bench.data / "train.conll", base=str(bench.base), name="acme/ner", **COMMON)
    result = train("ner", bench.data / "train.conll", base=str(bench.base), resume=True, **COMMON)
    assert result.run.path.parent == Path("runs")
    assert result.run.path.name.startswith("acme-ner-")
    assert result.run.state == "finished"
    with pytest.raises(InvalidSettings, match=r"acme-ner-.* is finished"):
        train("ner", bench.data / "train.conll", base=str(bench.base), resume=True, **COMMON)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_keeps_a_checkpoint(bench: Bench, tmp_path: Path) -> None:
    """A whole process, as the shell would stop it."""
    program = f"""
        from adapthub.adapters.errors import TrainingInterrupted
        from adapthub.recipes import train
        try:
            train("ner", {str(bench.data / "train.conll")!r}, base={str(bench.base)!r},
                  validation={str(bench.data / "validation.conll")!r}, output={str(tmp_path / "run")!r},
                  batch_size=4, max_steps=100_000, eval_steps=5, patience=0, quiet=True)
        except TrainingInterrupted as error:
            print(error)
            raise SystemExit(2)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    run = runs.load(tmp_path / "run")
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    step = int(checkpoint.name.partition("-")[2])
    assert f"interrupted at step {step} of 100000" in output
    assert run.history[-1]["step"] == step
