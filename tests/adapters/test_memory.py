"""Out of memory in one shape, and refusing what cannot fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapthub.adapters import memory
from adapthub.adapters.errors import OutOfMemory
from adapthub.adapters.memory import free_memory, memory_errors, require_memory


def test_torchs_own_host_allocation_failure_is_translated() -> None:
    message = r"out of memory while loading x\. Use less"
    with pytest.raises(OutOfMemory, match=message) as caught, memory_errors("loading x", "Use less."):
        torch.empty(1 << 56, dtype=torch.uint8)
    assert isinstance(caught.value, MemoryError)


def test_pythons_own_is_translated() -> None:
    with pytest.raises(OutOfMemory, match="while reading"), memory_errors("reading", "Use less."):
        bytearray(1 << 62)


def test_the_devices_own_is_translated() -> None:
    with pytest.raises(OutOfMemory), memory_errors("training", "Use less."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_other_runtime_errors_pass_unchanged() -> None:
    message = "shapes cannot be multiplied"
    with pytest.raises(RuntimeError, match=message) as caught, memory_errors("training", "Use less."):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not isinstance(caught.value, OutOfMemory)


def test_what_cannot_fit_is_refused_before_it_is_tried() -> None:
    device = torch.device("cpu")
    require_memory(1, device, "loading x", "Use less.")
    with pytest.raises(OutOfMemory, match=r"loading x needs about 9\d+\.\d GB and cpu has .* free"):
        require_memory(
            free_memory(device) + 999 * 10**9 - free_memory(device), device, "loading x", "Use less."
        )


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert free_memory(torch.device("cpu")) == 2000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 700\nactive_file 9\n")
    assert free_memory(torch.device("cpu")) == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 1 << 20
