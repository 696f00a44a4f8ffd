"""`--device` of every command that loads a base: it is heeded, and one that does not work here is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapthub.recipes.run import load
from tests.cli.conftest import Command
from tests.cli.data import write_conll

TRAINING = ("--task", "ner", "--max-steps", "1", "--no-validation")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_conll(tmp_path / "test.conll", copies=2)


@pytest.mark.parametrize("name", ["train", "plan", "sweep", "eval", "compare", "certify", "run"])
def test_a_device_that_does_not_work_is_refused(
    cli: Command, trained: Path, tiny_base: Path, data: Path, name: str
) -> None:
    anew = ("--task", "ner", "--data", data, "--base", tiny_base, "--max-steps", "1")
    given: dict[str, tuple[str | Path, ...]] = {
        "train": anew,
        "plan": anew,
        "sweep": (*anew, "--try", "rank=4|8", "--trials", "1"),
        "eval": (trained, "--data", data),
        "compare": (trained, trained, "--data", data),
        "certify": (trained, "--data", data, "--form", "nf4"),
        "run": (trained, "Ada was born in London."),
    }
    found = cli(name, *given[name], "--device", "cuda:99")
    assert found.code != 0
    assert found.err.splitlines()[-1].startswith("adapt: the device 'cuda:99' does not work here: ")


@pytest.mark.usefixtures("tried_here")
def test_a_run_is_planned_and_trained_where_it_is_said(
    cli: Command, tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    anew = (*TRAINING, "--data", data, "--base", tiny_base, "--device", "cpu")
    planned = json.loads(cli("plan", *anew, "--json").fine())
    assert planned["trial"]["device_memory"] is None
    cli("train", *anew, "--output", tmp_path / "run").fine()
    sources = load(tmp_path / "run").sources
    assert sources is not None
    assert sources["device"] == "cpu"
