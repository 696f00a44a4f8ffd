"""What a plan counts for activations is what backward then keeps, in float32 and in bfloat16."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from adapthub.adapters.base import Base, load_base
from adapthub.recipes import plan, planning, train
from tests.conftest import write_tokenizer

ROWS = 4


def write_base(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 160, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 576, "pad_token_id": 0,
    }  # fmt: skip
    if family == "bert":
        BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder)
    else:
        LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


class Kept:
    """Bytes that are kept for backward, at most at once; parameters are there anyway."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._there: set[int] = set()

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        owner = tensor if tensor._base is None else tensor._base
        key = storage.data_ptr()
        if not isinstance(owner, torch.nn.Parameter) and key not in self._there:
            self._there.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())
        return tensor

    def _gone(self, key: int, size: int) -> None:
        self._there.discard(key)
        self.now -= size


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_base(folder / family, family) for family in ("bert", "llama")}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("bf16", "float32")]
)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_activations_are_counted_in_the_numbers_that_are_computed(
    family: str,
    precision: str,
    dtype: str,
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = getattr(torch, dtype)
    monkeypatch.setattr(planning, "choose_dtype", lambda dtype, device: number)
    rows = [{"text": f"{word} " * 90, "label": word} for word in ("good", "bad") for _ in range(ROWS)]
    options: dict[str, Any] = {
        "validation": False, "batch_size": ROWS, "max_steps": 1, "rank": 2, "precision": precision,
        "packing": False,
    }  # fmt: skip
    planned = plan("sentiment", rows, base=str(bases[family]), **options)
    counted = planned.estimated_memory - planned.base_bytes - 16 * planned.trainable
    kept = Kept()
    base: Base = load_base(str(bases[family]), device="cpu", dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        train("sentiment", rows, base=base, output=tmp_path / "run", quiet=True, **options)
    assert counted == pytest.approx(kept.peak, rel=0.1)


@pytest.mark.parametrize(("family", "module"), [("bert", "intermediate.dense"), ("llama", "down_proj")])
def test_an_adapters_own_matrices_are_not_counted_as_the_bases_layers(
    family: str, module: str, bases: dict[str, Path]
) -> None:
    """They are as wide as what they change: an adapter of one layer would make a gate, or hide one."""

    def counted(**settings: Any) -> int:
        rows = [{"text": f"{word} " * 90, "label": word} for word in ("good", "bad") for _ in range(ROWS)]
        planned = plan(
            "sentiment", rows, base=str(bases[family]), validation=False, batch_size=ROWS, **settings
        )
        return planned.estimated_memory - planned.base_bytes - 16 * planned.trainable

    assert counted(target_modules=module) == counted(target_modules="all-linear")
