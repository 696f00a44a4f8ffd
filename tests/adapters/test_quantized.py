"""Quantised layers: rows do not see each other, evaluation and training agree, gradients pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from torch import nn

from adapthub.adapters import load_base
from adapthub.adapters.base import Base
from adapthub.adapters.quantized import WeightOnlyNf4, steady

both = pytest.mark.parametrize("quantize", ["nf4", "int8"])


@pytest.fixture
def base(tiny_base: Path, quantize: str) -> Base:
    return load_base(str(tiny_base), quantize)


def layer_of(base: Base) -> nn.Linear:
    return cast(nn.Linear, base.backbone.get_submodule("encoder.layer.0.intermediate.dense"))


def dequantised(layer: Any) -> torch.Tensor:
    """The naive oracle: the stored weights as plain numbers."""
    if isinstance(layer, Linear4bit):
        return dequantize_4bit(layer.weight.data, cast(Any, layer.weight).quant_state).float()
    weights: torch.Tensor = layer.state.CB.float() * layer.state.SCB[:, None] / 127
    return weights


@both
def test_a_layer_is_its_dequantised_weights(base: Base) -> None:
    layer = layer_of(base)
    x = torch.randn(2, 5, layer.in_features)
    with torch.inference_mode():
        output = layer(x)
        expected = nn.functional.linear(x, dequantised(layer), layer.bias)
    assert torch.allclose(output, expected, rtol=1e-5, atol=1e-5)


@both
def test_a_row_does_not_depend_on_its_neighbours(base: Base) -> None:
    layer = layer_of(base)
    row = torch.randn(1, layer.in_features)
    crowd = torch.cat([row, 100 * torch.randn(31, layer.in_features)])
    with torch.inference_mode():
        assert torch.allclose(layer(crowd)[:1], layer(row), rtol=1e-5, atol=1e-5)


@both
def test_evaluation_and_training_agree_and_gradients_pass_in_either_order(base: Base) -> None:
    layer = layer_of(base)
    x = torch.randn(4, layer.in_features)
    with torch.no_grad():
        evaluated = layer.eval()(x)
    tracked = x.clone().requires_grad_()
    trained = layer.train()(tracked)
    assert torch.allclose(trained, evaluated, rtol=1e-5, atol=1e-5)
    trained.sum().backward()
    expected = dequantised(layer).sum(0).expand_as(x)
    assert tracked.grad is not None
    assert torch.allclose(tracked.grad, expected, rtol=1e-4, atol=1e-5)


@both
def test_evaluation_and_training_agree_under_autocast(base: Base) -> None:
    layer = layer_of(base)
    x = torch.randn(4, layer.in_features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            evaluated = layer(x)
        trained = layer(x)
    assert torch.equal(evaluated, trained)


@pytest.mark.parametrize("quantize", ["nf4"])  # an int8 checkpoint names no such format
def test_the_format_that_a_checkpoint_computes_in_holds_in_training_and_evaluation(base: Base) -> None:
    layer = cast(Linear4bit, layer_of(base))
    layer.compute_dtype, layer.compute_type_is_set = torch.bfloat16, True
    x = torch.randn(4, layer.in_features)
    with torch.no_grad():
        evaluated = layer(x)
    assert torch.equal(evaluated, layer(x))
    exact = nn.functional.linear(x, dequantised(layer), cast(nn.Linear, layer).bias.float())
    assert not torch.allclose(evaluated, exact, rtol=1e-5, atol=1e-5)


made: Any = Linear4bit  # it has no types


def test_what_our_kernels_are_told_is_the_weights_bytes_however_they_are_kept() -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    told = []
    for kept in (torch.uint8, torch.bfloat16):
        parent = nn.ModuleDict(
            {"a": made(64, 16, bias=False, quant_type="nf4", quant_storage=kept, compute_dtype=torch.float32)}
        )
        cast(Any, parent["a"]).weight.data = weight.clone()
        layer: Any = parent.to("cpu")["a"]
        assert layer.weight.dtype == kept
        steady(parent)
        told.append(layer.matrix(torch.ones(1, 64)).packed)
    assert told[0].dtype == told[1].dtype == torch.uint8
    assert torch.equal(told[0].flatten(), told[1].flatten())


def test_a_layer_whose_bias_trains_is_bitsandbytes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapthub.adapters.quantized._few", lambda *_: True)
    parent = nn.ModuleDict({"a": made(64, 16, quant_type="nf4", compute_dtype=torch.float32)}).to("cpu")
    steady(parent)
    layer, x = cast(WeightOnlyNf4, parent["a"]), torch.ones(2, 64)
    layer.bias.requires_grad_(False)
    assert layer.differentiates(x)
    layer.bias.requires_grad_(True)
    assert not layer.differentiates(x)


def test_weights_that_come_together_of_parts_are_told_with_their_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As FSDP leaves them: a plain parameter, the state beside it; who joins a layer with a LoRA calls no forward."""
    pytest.importorskip("triton")
    monkeypatch.setattr("adapthub.adapters.quantized._few", lambda *_: True)
    kept = {"quant_type": "nf4", "compute_dtype": torch.float32}
    parent = nn.ModuleDict({"a": made(64, 16, bias=False, **kept)}).to("cpu")
    steady(parent)
    layer, x = cast(Any, parent["a"]), torch.ones(2, 64)
    packed = layer.matrix(x).packed
    layer.quant_state = layer.weight.quant_state
    layer.weight = nn.Parameter(layer.weight.data, requires_grad=False)
    assert layer.differentiates(x)
    assert torch.equal(layer.matrix(x).packed, packed)
