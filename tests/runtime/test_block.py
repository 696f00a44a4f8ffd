"""Tensors in one piece of memory, and on a device by one copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.runtime.block import Block
from adapthub.runtime.host_copy import HostCopy, attach_from, attached_bytes, own_storages
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import lora_config, save_adapter
from tests.runtime.generating import lora

CPU = torch.device("cpu")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TASK = "token-classification"
ROWS = [{"input_ids": [2, 7, 8, 9, 3]}]


def made() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 5),
        "ids": torch.arange(7),
        "half": torch.randn(9).half(),
        "none": torch.empty(0, 4),
        "b": torch.randn(2, 17),
    }


def test_a_block_holds_what_it_was_given() -> None:
    tensors = made()
    block = Block(tensors, pin=False)
    assert {
        tensor.untyped_storage().data_ptr() for name, tensor in block.tensors.items() if name != "none"
    } == {block.tensors["a"].untyped_storage().data_ptr()}
    for name, tensor in tensors.items():
        assert torch.equal(block.tensors[name], tensor)
        assert block.tensors[name].dtype == tensor.dtype
        assert block.tensors[name].data_ptr() % 16 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_image_is_each_tensor_in_the_devices_dtype(dtype: torch.dtype) -> None:
    tensors = made()
    block = Block(tensors, pin=False)
    image = block.image(CPU, dtype)
    for name, tensor in block.tensors.items():
        found = image.of(tensor)
        if name == "none":
            assert found is None
            continue
        assert found is not None
        wanted = tensors[name].to(dtype) if tensor.is_floating_point() else tensors[name]
        assert torch.equal(found, wanted)
        assert found.dtype == wanted.dtype
        assert found.data_ptr() % 16 == 0
        assert found.is_contiguous()
    assert image.of(tensors["a"]) is None  # equal, and another


def test_an_empty_block_has_an_image() -> None:
    assert Block({}, pin=False).image(CPU, torch.float16).of(torch.ones(1)) is None


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_of_one_copy_is_the_adapter(
    tiny_base: Path, tmp_path: Path, kind: dict[str, bool]
) -> None:
    path = save_adapter(tiny_base, tmp_path / "adapter", TASK, lora_config(TASK, **kind))
    plain = HostCopy.load(Artifact.read(path), CPU, torch.float32)
    assert plain.block is None
    own = {name: tensor for name, tensor in plain.held.items() if "lora_" in name}
    block = Block(own, pin=False)
    moved = replace(plain, held={**plain.held, **block.tensors}, block=block)
    logits = []
    for copy in (plain, moved.on(CPU, torch.float32)):
        adapted = AdaptedBase(load_base(str(tiny_base), dtype="float32"))
        attach_from(copy, adapted)
        logits.append(adapted.logits(ROWS, [((1.0, copy.digest),)])[0])
        bytes_ = attached_bytes(copy.digest, adapted, own_storages(adapted))
        assert sum(tensor.nbytes for tensor in own.values()) <= bytes_
        if copy is not plain:
            used = [update for group in adapted.attached[copy.digest].updates.values() for update in group]
            low_rank: list[Any] = [getattr(update, "low_rank", update) for update in used]
            assert len({update.a.untyped_storage().data_ptr() for update in low_rank}) == 1
        adapted.close()
    assert torch.equal(*logits)


@pytest.mark.parametrize("in_one_piece", [False, True])
@pytest.mark.parametrize(
    ("kind", "is_remembered"),
    [
        ({}, True),
        ({"use_dora": True}, False),
        ({"lora_bias": True}, False),
        ({"modules_to_save": ["model.norm"]}, False),
    ],
    ids=["lora", "dora", "bias", "more"],
)
def test_an_adapter_that_comes_back_is_put_together_and_not_bound_again(
    kind: dict[str, Any],
    is_remembered: bool,
    in_one_piece: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = write_causal_base(tmp_path / "base")
    path = save_adapter(base, tmp_path / "adapter", CAUSAL, lora(**kind))
    copy = HostCopy.load(Artifact.read(path), CPU, torch.float32)
    if in_one_piece:
        block = Block({name: each for name, each in copy.held.items() if "lora_" in name}, pin=False)
        copy = replace(copy, held={**copy.held, **block.tensors}, block=block)
    # Onto a GPU nothing comes but in one piece.
    adapted = AdaptedBase(load_base(str(base), device=DEVICE if in_one_piece else "cpu", dtype="float32"))
    bound: list[str] = []
    bind = adapted.attach

    def noted(artifact: Artifact) -> str:
        bound.append(artifact.digest)
        return bind(artifact)

    monkeypatch.setattr(adapted, "attach", noted)
    logits = []
    for _ in range(3):
        attach_from(copy.on(CPU, torch.float32), adapted)
        logits.append(adapted.logits(ROWS, [((1.0, copy.digest),)])[0])
        adapted.detach(copy.digest)
    assert len(bound) == (1 if is_remembered else 3)
    assert all(torch.equal(logits[0], again) for again in logits[1:])
    adapted.close()
