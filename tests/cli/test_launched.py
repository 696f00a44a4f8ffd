"""`accelerate launch -m adapthub.cli train`: two processes on CPUs, from the command line to the folder and to Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.recipes.run import load
from tests.cli.conftest import ROOT
from tests.cli.data import write_conll

pytestmark = pytest.mark.slow

LAUNCH = (
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--num_processes",
    "2",
    "--main_process_port",
    "0",
)
PLAIN = (*LAUNCH, "--multi_gpu")
PARTS = (*LAUNCH, "--use_fsdp", "--fsdp_version", "2")


def start(launch: Sequence[str], base: Path, folder: Path, *more: Any) -> subprocess.Popen[str]:
    data = folder / "train.conll"
    if not data.exists():
        write_conll(data)
    command = [
        *launch,
        "-m",
        "adapthub.cli",
        "train",
        "--task",
        "ner",
        "--data",
        str(data),
        "--base",
        str(base),
    ]
    return subprocess.Popen(
        [*command, "--batch-size", "4", "--device", "cpu", *map(str, more)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / '.src'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("launch", [PLAIN, PARTS], ids=["plain", "parts"])
def test_two_processes_leave_one_run(launch: Sequence[str], tiny_base: Path, tmp_path: Path) -> None:
    running = start(
        launch, tiny_base, tmp_path, "--quantize", "nf4", "--max-steps", 4, "--output", "run", "--json"
    )
    out, err = running.communicate()
    assert running.returncode == 0, err
    record = json.loads(out)  # one document: one process speaks
    assert Artifact.read(tmp_path / "run" / "adapter").digest == record["digest"]
    assert [path.name for path in tmp_path.iterdir()].count("run") == 1
    run = load(tmp_path / "run")
    assert run.state == "finished"
    assert run.environment["hardware"]["processes"] == 2
    assert [entry["step"] for entry in run.history if "loss" in entry] == [1, 2, 3, 4]


def test_what_is_refused_is_said_once(tiny_base: Path, tmp_path: Path) -> None:
    running = start(PLAIN, tiny_base, tmp_path, "--set", "colour=red")
    _, err = running.communicate()
    assert running.returncode != 0
    assert err.count("adapt: 'colour' is no setting of ner") == 1
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_leaves_a_run_that_goes_on(tiny_base: Path, tmp_path: Path) -> None:
    given = ("--max-steps", 200, "--set", "eval_steps=200", "--output", "run")
    running = start(PLAIN, tiny_base, tmp_path, *given)
    log = tmp_path / "run" / "tensorboard"
    while running.poll() is None and not log.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the launcher and to both processes
    _, err = running.communicate()
    assert err.count("adapt: interrupted at step") == 1, err
    stopped = load(tmp_path / "run")
    checkpoint = stopped.last_checkpoint()
    assert checkpoint is not None
    assert {path.name for path in checkpoint.iterdir()} >= {"rng_state_0.pth", "rng_state_1.pth"}
    assert stopped.state == "started"
    resumed = start(PLAIN, tiny_base, tmp_path, *given, "--resume", "run")
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert load(tmp_path / "run").state == "finished"
