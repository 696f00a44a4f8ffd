"""Whether kernels run, where they do and where they do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adapthub.adapters import kernel_trial
from adapthub.adapters.kernel_trial import kernels_run
from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels.trial import increased  # noqa: E402  # Triton may not be there

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    kernels_run.cache_clear()
    yield
    kernels_run.cache_clear()


def test_the_least_kernel_counts() -> None:
    assert increased(torch.arange(16, device=DEVICE)).tolist() == [*range(1, 17)]


def test_on_a_gpu_and_on_no_cpu() -> None:
    assert kernels_run(DEVICE) == (DEVICE.type == "cuda")


def test_without_a_compiler_everything_goes_without_kernels_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(device: torch.device) -> bool:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(kernel_trial, "_counts", fails)
    for _ in range(2):
        assert not kernels_run(torch.device("cuda", 0))
    assert caplog.text.count("kernels do not run on cuda:0") == 1
    assert "Failed to find C compiler" in caplog.text


def test_a_kernel_that_counts_wrong_does_not_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_trial, "_counts", lambda device: False)
    assert not kernels_run(torch.device("cuda", 0))
    assert "computes something else" in caplog.text


def test_without_triton_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_trial, "find_spec", lambda name: None)
    assert not kernels_run(torch.device("cuda", 0))
