"""Layers that go by kernels where these give the same: by Liger's on a GPU, elsewhere by torch's own in their place."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama import modeling_llama

from adapthub.recipes import fused_layers
from adapthub.recipes.fused_layers import Kernels, fused, kernels_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYERS = 2
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
# With how many norms a layer has.
FAMILIES: dict[str, tuple[PreTrainedConfig, int]] = {
    "llama": (LlamaConfig(**SIZES), 2),
    "qwen2": (Qwen2Config(**SIZES), 2),
    "qwen3": (Qwen3Config(**SIZES), 4),
    "gemma2, gated by GELU": (Gemma2Config(**SIZES), 4),
}


class Counted:
    """Kernels, and how often they ran."""

    def __init__(self) -> None:
        self.norms = self.products = self.rotations = 0
        self._kernels = kernels_for(DEVICE) or Kernels(by_torch, lambda gate, up: F.silu(gate) * up, rotated)
        self.kernels = Kernels(self._norm, self._silu_mul, self._rotate)

    def _norm(self, *given: Any) -> torch.Tensor:
        self.norms += 1
        return self._kernels.norm(*given)

    def _silu_mul(self, *given: Any) -> torch.Tensor:
        self.products += 1
        return self._kernels.silu_mul(*given)

    def _rotate(self, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.rotations += 1
        return self._kernels.rotate(*given)


def by_torch(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, rounding: str) -> torch.Tensor:
    normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    if rounding == "llama":
        return (weight + offset) * normed.to(x.dtype)
    return (normed * (weight.float() + offset)).to(x.dtype)


def rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    def turn(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat([-right, left], dim=-1) * sin[:, None]

    return turn(q), turn(k)


def made(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(DEVICE, dtype)
    for name, parameter in model.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) * ("norm" in name)
        parameter.requires_grad_("norm" not in name)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    ids = torch.arange(24, device=DEVICE).view(2, 12) * 5 % 95
    mask = torch.ones_like(ids).index_fill(1, torch.tensor([10, 11], device=DEVICE), 0)
    model(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


needs_liger_on_a_gpu = pytest.mark.skipif(
    DEVICE.type == "cuda" and kernels_for(DEVICE) is None, reason="Liger is not installed"
)


@needs_liger_on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_models_own_layers(family: str, dtype: torch.dtype) -> None:
    config, norms = FAMILIES[family]
    model, counted = made(config, dtype), Counted()
    plain = gradients(model)
    with fused(model, counted.kernels):
        tried = counted.norms, counted.products, counted.rotations
        changed = gradients(model)
    assert counted.norms - tried[0] == LAYERS * norms + 1  # the model's last
    assert counted.products - tried[1] == (0 if "GELU" in family else LAYERS)
    assert counted.rotations - tried[2] == LAYERS
    ran = counted.norms
    again = gradients(model)
    assert counted.norms == ran
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for name, gradient in changed.items():
        assert (gradient - plain[name]).norm() <= tolerance * plain[name].norm() + 1e-9, name
        assert torch.equal(again[name], plain[name]), name


@needs_liger_on_a_gpu
def test_units_that_loras_drop_are_the_runs_own() -> None:
    model = get_peft_model(
        made(LlamaConfig(**SIZES)), LoraConfig(target_modules="all-linear", lora_dropout=0.5)
    ).train()
    counted = Counted()
    states = torch.get_rng_state(), torch.cuda.get_rng_state() if DEVICE.type == "cuda" else torch.empty(0)
    with fused(model, counted.kernels):
        assert torch.equal(torch.get_rng_state(), states[0])
        assert DEVICE.type == "cpu" or torch.equal(torch.cuda.get_rng_state(), states[1])
        tried = counted.products
        gradients(model)
    assert counted.products == tried + LAYERS


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library of that name, which computes nothing."""
    operations: Any = ModuleType("liger_kernel.ops")
    for name in ("LigerRMSNormFunction", "LigerRopeFunction", "LigerSiLUMulFunction"):
        setattr(operations, name, SimpleNamespace(apply=lambda *given: given))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", operations)
    monkeypatch.setattr(fused_layers, "kernels_run", lambda device: True)
    monkeypatch.setattr(fused_layers, "find_spec", lambda name: object())
    monkeypatch.setattr(fused_layers, "version", lambda name: "0.8.5")
    return cast(ModuleType, operations)


def test_kernels_are_launched_on_the_device_of_their_tensors(
    liger: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton takes the thread's current one, and a base may lie on another."""
    devices: list[torch.Tensor] = []

    def device_of(tensor: torch.Tensor) -> nullcontext[None]:
        devices.append(tensor)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    kernels, given = kernels_for(DEVICE), [torch.empty(0) for _ in range(4)]
    assert kernels is not None
    kernels.norm(given[0], given[1], 1e-6, 0.0, "llama")
    kernels.silu_mul(given[1], given[2])
    kernels.rotate(given[2], given[3], given[0], given[0])
    assert [*map(id, devices)] == [*map(id, given[:3])]


@pytest.mark.parametrize("wrong", ["old", "without a version", "broken"])
def test_a_library_that_is_of_no_use_is_left_out(
    wrong: str, liger: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def version(name: str) -> str:
        if wrong == "without a version":
            raise PackageNotFoundError(name)
        return "0.8.4" if wrong == "old" else "0.8.5"

    monkeypatch.setattr(fused_layers, "version", version)
    if wrong == "broken":
        monkeypatch.delattr(liger, "LigerRopeFunction")
    assert kernels_for(DEVICE) is None
    assert "left out" in caplog.text


class Alike(torch.nn.Module):
    """A norm as others, by the name of its class."""

    def __init__(self, **eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(64, device=DEVICE))
        vars(self).update(eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_torch(x, self.weight, 0.3, 0.0, "llama")


Alike.__name__ = "AlikeRMSNorm"


@needs_liger_on_a_gpu
@pytest.mark.parametrize(
    ("eps", "changes"), [({"eps": 0.3}, True), ({"eps": 1e-6}, False), ({"epsilon": 0.3}, False)]
)
def test_a_norm_is_changed_where_its_eps_is_known(eps: dict[str, float], changes: bool) -> None:
    norm, counted = Alike(**eps), Counted()
    with fused(norm, counted.kernels):
        assert ("forward" in vars(norm)) is changes
    assert "forward" not in vars(norm)


@pytest.mark.parametrize("wrong", ["one angle for all", "four results", "raises"])
def test_rotations_that_differ_are_left_alone(wrong: str) -> None:
    def rotate(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if wrong == "raises":
            raise AssertionError("not for this head")
        if wrong == "four results":
            return *rotated(q, k, cos, sin), cos, sin
        return rotated(q, k, cos.mean(1, keepdim=True), sin.mean(1, keepdim=True))

    model, counted = made(LlamaConfig(**SIZES)), Counted()
    own = modeling_llama.apply_rotary_pos_emb
    kernels = Kernels(counted.kernels.norm, counted.kernels.silu_mul, cast(Any, rotate))
    with fused(model, kernels):
        assert modeling_llama.apply_rotary_pos_emb is own
