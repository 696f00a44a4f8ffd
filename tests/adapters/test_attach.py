"""The runtime's arithmetic against PEFT's: every variant alone, and all of them mixed in one batch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase, Selection
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdapterNotFound, InvalidExpression, InvalidInput
from peft import PeftConfig
from tests.adapters.peft_oracle import expected_logits, lora_config, prefix_config, save_adapter

TOKENS, TEXT = "token-classification", "text-classification"
ROWS = [{"input_ids": [2, *row, 3]} for row in ([5, 6, 7, 8, 9], [10, 11], [30, 31, 32, 33, 34, 35, 36, 37], [12])]

VARIANTS: Mapping[str, Callable[[str], PeftConfig]] = {
    "lora": lambda task: lora_config(task),
    "rslora": lambda task: lora_config(task, use_rslora=True, r=8),
    "dora": lambda task: lora_config(task, use_dora=True),
    "dora-rslora": lambda task: lora_config(task, use_dora=True, use_rslora=True, r=2),
    "patterns": lambda task: lora_config(task, rank_pattern={"query": 8, "layer.1.*value": 2}, alpha_pattern={"dense": 3}),
    "bias-lora-only": lambda task: lora_config(task, bias="lora_only"),
    "bias-all": lambda task: lora_config(task, bias="all"),
    "bias-all-dora": lambda task: lora_config(task, bias="all", use_dora=True),
    "lora-bias": lambda task: lora_config(task, lora_bias=True),
    "few-targets": lambda task: lora_config(task, target_modules=["query", "value"], r=16),
    "one-layer": lambda task: lora_config(task, target_modules=["query"], layers_to_transform=[1]),
    "with-pooler": lambda task: lora_config(task, target_modules=["query", "dense"]),
    "embedding": lambda task: lora_config(task, target_modules=["query", "word_embeddings"]),
    "modules-to-save": lambda task: lora_config(task, target_modules=["query"], modules_to_save=["intermediate", "LayerNorm"]),
    "prefix": lambda task: prefix_config(task),
    "prefix-projection": lambda task: prefix_config(task, 3, prefix_projection=True, encoder_hidden_size=16),
}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.fixture(scope="module")
def saved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, int]]:
    """Every variant for both tasks, each with its own seed and label count, saved by PEFT."""
    folder = tmp_path_factory.mktemp("adapters")
    result = {}
    for seed, (task, name) in enumerate(itertools.product((TOKENS, TEXT), VARIANTS)):
        labels = 2 + seed % 4
        path = save_adapter(tiny_base, folder / f"{task}-{name}", task, VARIANTS[name](task), labels=labels, seed=seed)
        result[task, name] = (path, labels)
    return result


@pytest.fixture(scope="module", params=[None, "nf4", "int8"])
def adapted(request: pytest.FixtureRequest, tiny_base: Path) -> AdaptedBase:
    return AdaptedBase(load_base(str(tiny_base), quantize=request.param, device="cpu"))


def test_the_tiny_base_runs_flat(adapted: AdaptedBase) -> None:
    assert adapted.layout == "flat"


@pytest.mark.parametrize("task", [TOKENS, TEXT])
@pytest.mark.parametrize("name", VARIANTS)
def test_alone_equals_peft(
    adapted: AdaptedBase, tiny_base: Path, saved: Mapping[tuple[str, str], tuple[Path, int]], task: str, name: str
) -> None:
    path, labels = saved[task, name]
    quantization = adapted.base.quantization
    if quantization and name == "modules-to-save":
        with pytest.raises(RuntimeError, match="floating point"):  # PEFT copies the quantised layer and wants gradients
            expected_logits(tiny_base, path, task, ROWS, labels=labels, quantize=quantization)
        return
    expected = expected_logits(tiny_base, path, task, ROWS, labels=labels, quantize=quantization)
    digest = adapted.attach(Artifact.read(path))
    for row, theirs in zip(ROWS, expected, strict=True):
        close(adapted.logits([row], [((1.0, digest),)])[0], theirs)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_rows_equal_each_row_alone(
    adapted: AdaptedBase, saved: Mapping[tuple[str, str], tuple[Path, int]], seed: int
) -> None:
    digests = [adapted.attach(Artifact.read(path)) for path, _ in saved.values()]
    rows = [*itertools.islice(itertools.cycle(ROWS), len(digests)), *ROWS]
    selections: list[Selection] = [((1.0, digest),) for digest in digests] + [()] * len(ROWS)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    mixed = adapted.logits([rows[i] for i in order], [selections[i] for i in order])
    for place, i in enumerate(order):
        close(mixed[place], adapted.logits([rows[i]], [selections[i]])[0])
