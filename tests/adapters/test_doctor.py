"""The examination: every row says what was found, what was really tried, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
import torch

from adapthub.adapters import doctor, kernel_trial
from adapthub.adapters.doctor import Finding, examine
from adapthub.adapters.home import home


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    rows = examine()
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def test_versions_are_the_installed_ones(findings: dict[str, Finding]) -> None:
    assert findings["torch"].detail == importlib.metadata.version("torch")
    assert findings["torch"].state == "ok"


@pytest.mark.parametrize("name", ["nf4 on cpu", "int8 on cpu"])
def test_quantisations_are_tried(findings: dict[str, Finding], name: str) -> None:
    assert findings[name].state == "ok"
    assert "off a layer in fp32" in findings[name].detail


def test_whatever_is_not_ok_comes_with_advice(findings: dict[str, Finding]) -> None:
    assert all(row.advice for row in findings.values() if row.state != "ok")


def test_whether_kernels_run_is_tried_on_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without one it is said that none are needed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (row,) = doctor._kernels()
    assert (row.area, row.state) == ("kernels", "missing")
    assert "on a CPU everything goes without them" in row.detail
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    tried: list[torch.device] = []
    monkeypatch.setattr(kernel_trial, "run_least", tried.append)
    assert [(row.name, row.state) for row in doctor._kernels()] == [
        ("triton kernels on cuda:0", "ok"),
        ("triton kernels on cuda:1", "ok"),
    ]
    assert tried == [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("error", "advice"),
    [("Failed to find C compiler. Please\nset CC", "install a C compiler"), ("no PTX", "the whole error")],
)
def test_why_kernels_do_not_run_is_said(error: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device) -> bool:
        raise RuntimeError(error)

    monkeypatch.setattr(kernel_trial, "_counts", fails)
    row = doctor._try_kernel(torch.device("cuda", 0))
    assert row.state == "fails"
    assert row.detail == f"{error.splitlines()[0]}: everything goes without them, and slower"
    assert advice in row.advice
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    row = doctor._try_kernel(torch.device("cuda", 0))
    assert (row.state, row.advice) == ("missing", "pip install triton")
    assert "triton is not installed" in row.detail


@pytest.mark.gpu
def test_kernels_on_a_gpu() -> None:
    assert doctor._try_kernel(torch.device("cuda", 0)).state == "ok"


def test_looking_changes_nothing() -> None:
    list(doctor._places())
    assert not list(home().iterdir())


def test_bitsandbytes_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str, weight: torch.Tensor) -> torch.nn.Module:
        raise OSError("libbitsandbytes.so: wrong ELF class\nmore")

    monkeypatch.setattr(doctor, "_quantised_layer", broken)
    row = doctor._try_quantisation("nf4", torch.device("cpu"))
    assert (row.state, row.detail) == ("fails", "libbitsandbytes.so: wrong ELF class")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    row = doctor._try_quantisation("nf4", torch.device("cpu"))
    assert (row.state, row.advice) == ("missing", "pip install bitsandbytes")


def test_a_layer_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_quantised_layer", lambda kind, weight: torch.nn.Linear(64, 64))
    row = doctor._try_quantisation("int8", torch.device("cpu"))
    assert row.state == "fails"
    assert "computes something else" in row.detail


def test_too_old_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["torch>=99", 'gguf>=1; extra == "gguf"']
    )
    row = next(row for row in doctor._versions() if row.name == "torch")
    assert row.state == "fails"
    assert row.detail.endswith("needs torch>=99")
    assert row.advice == "pip install 'torch>=99'"


def test_an_absent_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIBRARIES", ("no-such-library",))
    row = next(row for row in doctor._versions() if row.name == "no-such-library")
    assert (row.state, row.advice) == ("missing", "pip install no-such-library")


def test_a_home_that_is_not_there_yet_is_judged_by_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "a" / "b"))
    row = next(doctor._places())
    assert row.state == "ok"
    assert str(tmp_path / "a" / "b") in row.detail
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert next(doctor._places()).state == "fails"
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_LOW_DISK", 1 << 60)
    assert next(doctor._places()).advice.startswith("under")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantisations_on_a_gpu(kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    assert doctor._try_quantisation(kind, torch.device("cuda")).state == "ok"


def test_missing_pieces_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    rows = list(doctor._optional())
    assert {row.state for row in rows} == {"missing"}
    monkeypatch.setattr(doctor, "find_spec", importlib.util.find_spec)
    assert next(row for row in doctor._optional() if row.name == "pip").state == "ok"
