"""Mixed rows on a CUDA device against PEFT alone: unquantised, nf4 and int8, by bitsandbytes' kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.selections import Selection
from tests.adapters.peft_oracle import expected_logits, lora_config, prefix_config, save_adapter
from tests.conftest import write_tiny_base

pytestmark = pytest.mark.gpu

TASK = "token-classification"
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3]} for n in (9, 2, 14, 5, 1)]
# Relative to the logits' length, against PEFT in float32: bfloat16 keeps 8 bits of everything in between.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.2}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_mixed_rows_on_cuda_equal_peft_on_cpu(quantize: str | None, dtype: str, tmp_path: Path) -> None:
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    folder = write_tiny_base(tmp_path / "base", hidden=128)
    adapted = AdaptedBase(load_base(str(folder), quantize=quantize, device="cuda", dtype=dtype))
    configs = {
        "lora": lora_config(TASK),
        "dora": lora_config(TASK, use_dora=True, r=8),
        "bias": lora_config(TASK, bias="all", use_rslora=True),
        "prefix": prefix_config(TASK),
    }
    selections: list[Selection] = []
    expected: list[torch.Tensor] = []
    for seed, (name, config) in enumerate(configs.items()):
        path = save_adapter(folder, tmp_path / name, TASK, config, seed=seed)
        selections.append(((1.0, adapted.attach(Artifact.read(path))),))
        expected.append(expected_logits(folder, path, TASK, [ROWS[seed]], quantize=quantize)[0])
    mixed = adapted.logits(ROWS, [*selections, ()])
    for ours, theirs in zip(mixed, expected, strict=False):
        assert (ours - theirs).norm() / theirs.norm() <= TOLERANCES[dtype]
