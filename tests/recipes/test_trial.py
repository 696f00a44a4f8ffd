"""What a plan says of memory and time by trying the first steps is what the run then takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from adapthub.recipes import economy, peaks, plan, trial
from adapthub.recipes import run as runs
from adapthub.recipes.adaptation import adapt
from adapthub.recipes.job import prepare
from adapthub.recipes.loop import fit
from adapthub.recipes.parts import PASS_TOKENS
from adapthub.recipes.peaks import Peak, Step, free_for_us, largest_batch, more_rows
from adapthub.recipes.recipe import lengths_of
from adapthub.recipes.trial import _Trying

MB = 1 << 20
_RUN = """
import json, sys, time
from pathlib import Path
from adapthub.recipes import train
import torch
options = json.loads(sys.argv[1])
train(quiet=True, **options)
status = Path("/proc/self/status").read_text()
peak = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
print(json.dumps({"memory": peak, "seconds": time.process_time()}))
"""


def run(options: dict[str, Any]) -> dict[str, float]:
    """What training took, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    document: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return document


def of_ner(base: Path, data: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "ner", "data": data / "train.conll", "base": str(base), "quantize": None, "method": None,
        "seed": 0, "validation": False, "test": False, "given": settings,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux tells it")
@pytest.mark.parametrize(
    ("task", "sample", "base", "settings"),
    [
        ("ner", "conll2003", "package:minilm", {"max_steps": 80, "eval_rows": 300}),
        ("sentiment", "movie-reviews", "package:minilm", {"max_steps": 80, "batch_size": 16, "rank": 4}),
        (
            "chat",
            "instructions-en",
            "package:smollm2-135m",
            {"max_steps": 12, "batch_size": 4, "max_length": 192},
        ),
    ],
)
def test_memory_and_time_are_as_planned(
    task: str, sample: str, base: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = fetch(sample)
    options = {"task": task, "data": str(folder), "base": base, "test": False, **settings}
    if task == "chat":
        options["answered"] = 0
    planned = plan(**options, try_steps=True)
    trial = planned.trial
    assert trial is not None, planned.notes
    took = run({**options, "output": str(tmp_path / "run")})
    assert trial.memory == pytest.approx(took["memory"], rel=0.10)
    assert trial.seconds == pytest.approx(took["seconds"], rel=0.25)
    assert trial.largest_batch is not None
    assert trial.largest_batch >= planned.settings["batch_size"]


def test_an_adaptation_is_trained_in_the_same_numbers_another_time(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    """As the trial does: half of a batch, and then batches."""
    job = prepare(
        "ner", ner_data / "train.conll", base=str(tiny_base), quantize=None, method=None, validation=False,
        test=False, seed=0, given={"max_steps": 1, "batch_size": 4, "precision": "bf16"},
    )  # fmt: skip
    base = load_base(job.base.ref, device="cpu")
    adaptation = adapt(base, job.task, job.labels, job.method, job.adapter, job.ranks)
    seen: list[torch.dtype] = []
    layer = next(module for module in base.model.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for name in ("half", "whole"):
        run = runs.start(job.configuration, {}, name=name, path=tmp_path / name)
        fit(job, base, adaptation, run, console=None)
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 2


def test_a_small_run_is_tried_and_leaves_nothing(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = plan("ner", ner_data / "train.conll", base=str(tiny_base), batch_size=4, try_steps=True)
    trial = planned.trial
    assert trial is not None, planned.notes
    assert trial.memory > 100e6
    assert 0 < trial.loading < trial.seconds
    assert trial.seconds == pytest.approx(trial.loading + trial.training + trial.measuring)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batches_of_any_size_are_tried(tiny_base: Path, ner_data: Path, batch_size: int) -> None:
    """Also of one row, which has no half, and of more than there are."""
    arguments = of_ner(tiny_base, ner_data, {"batch_size": batch_size, "epochs": 6})
    trial = _Trying("cpu", arguments).trial()
    rows = prepare(**arguments).rows
    assert trial.largest_batch == rows  # as few tokens as they have at a time, and the machine has room
    assert rows < 64
    assert trial.step > 0


def test_a_batch_is_no_larger_than_its_evaluations_allow(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have twice its rows, and are not cut up."""
    arguments = of_ner(tiny_base, ner_data, {"batch_size": 4}) | {"validation": ner_data / "train.conll"}
    monkeypatch.setattr(trial, "more_rows", lambda evaluation, left: 2)
    assert _Trying("cpu", arguments).trial().largest_batch == (8 + 2) // 2
    few = tmp_path / "few.conll"
    few.write_text("".join(f"ada B-PER\nb{at} O\n\n" for at in range(3)))
    trying = _Trying("cpu", arguments | {"validation": few})
    assert (
        trying.trial().largest_batch == trying._job.rows
    )  # three are evaluated at once, however many might be


def test_the_longest_are_evaluated_first(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    """As in the run, whose evaluations take most memory there."""
    many = tmp_path / "many.conll"
    lengths = [2] * 30 + [9] * 3 + [2] * 30
    many.write_text("\n".join("ada B-PER\n" + "b O\n" * (length - 1) for length in lengths))
    arguments = of_ner(tiny_base, ner_data, {"batch_size": 4}) | {"validation": many}
    trying = _Trying("cpu", arguments)
    for job in (trying._half(), trying._typical()):
        seen = sorted(lengths_of(job.splits["validation"].encoded.rows))
        assert seen[-3:] == [max(seen)] * 3
        assert seen[-4] < max(seen)


def test_a_step_has_no_more_batches_than_its_epoch(tiny_base: Path, ner_data: Path) -> None:
    """Steps that accumulate more than an epoch has take an epoch's time."""
    of = {"batch_size": 4, "max_steps": 50}
    steps = []
    for accumulated in (8, 1000):
        trying = _Trying("cpu", of_ner(tiny_base, ner_data, of | {"gradient_accumulation": accumulated}))
        assert len(trying._batches) < 8
        tried = trying._typical()
        clock: Any = SimpleNamespace(seconds=[1.0] * tried.steps)
        steps.append(trying._stepping(tried, clock)[0])
    assert steps == pytest.approx([50, 50], rel=0.2)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_rows_that_are_compared_are_tried_with_each_other(tiny_base: Path, batch_size: int) -> None:
    """Half of so few would be one row, of which a loss that compares rows has no gradient."""
    rows = [{"query": f"ada {at}", "passage": f"bob {at}"} for at in range(8)]
    arguments = of_ner(tiny_base, Path(), {"batch_size": batch_size}) | {"task": "embed", "data": rows}
    trying = _Trying("cpu", arguments)
    assert len(trying._half().taught) == 2
    assert trying.trial().largest_batch is not None


def test_a_part_is_told_as_the_trainer_cuts(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of tokens on a CPU have parts, and those that a loss compares have none."""
    trying = _Trying("cpu", of_ner(tiny_base, ner_data, {"batch_size": 4}))
    lengths = trying._lengths[trying._batches[0]]
    assert trying._part() == PASS_TOKENS // lengths.mean()
    rows = [{"query": f"ada {at}", "passage": f"bob {at}"} for at in range(8)]
    embed = of_ner(tiny_base, Path(), {"batch_size": 4}) | {"task": "embed", "data": rows}
    assert _Trying("cpu", embed)._part() is None


@pytest.mark.slow
def test_why_a_run_cannot_be_tried_is_a_note(tiny_base: Path, ner_data: Path) -> None:
    options: dict[str, Any] = {"base": str(tiny_base), "init": "eva", "rank": 60, "try_steps": True}
    planned = plan("ner", ner_data / "train.conll", **options)
    assert planned.trial is None
    assert planned.notes[-1].startswith("memory and time are not known: init=eva needs")


def test_data_that_no_other_process_can_have_is_a_note(tiny_base: Path) -> None:
    class Row(dict[str, Any]):
        """Of a class that no other process knows."""

    rows = [Row(tokens=["ada", str(at)], labels=["B-PER", "O"]) for at in range(12)]
    planned = plan("ner", rows, base=str(tiny_base), try_steps=True)
    assert planned.trial is None
    assert "cannot be given the data" in planned.notes[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="no other system forgets what a process took at most")
def test_what_a_step_adds_is_seen_each_time() -> None:
    """Also where it finds room that was freed, which the system's count of the process still has."""
    program = """
import torch
from adapthub.recipes.peaks import Peak
peak = Peak(torch.device("cpu"))
for _ in range(3):
    held = peak.rest()
    blocks = [bytearray(60_000) for _ in range(1001)]
    kept = blocks.pop()  # lies behind the others, which the process therefore keeps when they are freed
    del blocks
    print(peak.tells_steps, round((peak.read() - held) / 60e6, 1))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == 3 * ["True", "1.0"]


def test_where_the_system_cannot_forget_steps_are_not_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peaks, "_CLEAR", tmp_path / "none" / "clear_refs")
    (tmp_path / "status").write_text("VmRSS:\t10 kB\n")
    monkeypatch.setattr(peaks, "_STATUS", tmp_path / "status")
    peak = Peak(torch.device("cpu"))
    assert not peak.tells_steps
    assert peak.read() > 10e6


def test_how_many_rows_fit() -> None:
    """Of 100 MB each, beside what was taken; fewer where too much was."""
    steps = Step(4, 400 * MB), Step(8, 800 * MB)
    for left, rows in ((400, 12), (90, 8), (-90, 7), (-200, 6), (-2000, 1), (5000, 50)):
        assert largest_batch(*steps, left=left * MB, part=None, most=50) == rows, left
    assert largest_batch(Step(0, 0), steps[1], left=400 * MB, part=None, most=50) == 12


def test_what_cannot_be_seen_is_no_room_without_end() -> None:
    assert largest_batch(Step(4, 500), Step(8, 400), left=1 << 30, part=None, most=10**6) == 8 + 4 * 128


def test_rows_beyond_those_that_are_computed_at_a_time_add_nothing() -> None:
    steps = Step(4, 400 * MB), Step(8, 800 * MB)
    for left, part, rows in ((400, 12, 999), (399, 12, 11), (0, 4, 999), (-90, 4, 3), (-900, 4, 1)):
        assert largest_batch(*steps, left=left * MB, part=part, most=999) == rows, (left, part)
    same = Step(16, 400 * MB), Step(32, 400 * MB)
    assert largest_batch(*same, left=-100 * MB, part=4, most=999) == 3


def test_how_many_more_rows_can_be_evaluated_at_once() -> None:
    assert more_rows(Step(8, 800 * MB), 450 * MB) == 4
    assert more_rows(Step(8, 800 * MB), -1) == -1
    assert more_rows(Step(8, 0), 10 * MB) == 10


@pytest.mark.parametrize("masked", [False, None])
def test_steps_that_are_tried_spare_padding_as_the_run_does(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch, masked: bool | None
) -> None:
    """By all rows: the few that are tried have other padding. On a GPU by batches of few lengths where a base can."""
    arguments = of_ner(tiny_base, ner_data, {"max_steps": 1, "batch_size": 4})
    trying = _Trying("cpu", arguments)
    trying._adapted().release()
    assert trying._job.settings.packing is economy.packs(prepare(**arguments))
    monkeypatch.setattr(economy, "kernels_run", lambda device: True)
    monkeypatch.setattr(economy, "mask_for", lambda *_: masked)
    on_gpu = _Trying("cpu", arguments)
    on_gpu._adapted().release()
    expected = trying._job.settings.packing if masked is None else "auto"
    assert on_gpu._job.settings.packing == expected


def test_of_a_gpu_a_row_takes_what_was_in_use_and_the_base_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What torch keeps after half a batch is there for the whole one, and the base is within what may be taken."""
    kept, used = [70, 72], [40, 60]
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: kept.pop(0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: used.pop(0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 45)
    device = torch.device("cuda", 0)
    peak = Peak(device)
    assert [peak.read(), peak.read()] == [40, 60]
    assert (peak.device, reset) == (72, [device, device])
    kept, used = [80], [50]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert peak.rest() == 30
    assert free_for_us(device) == 95
