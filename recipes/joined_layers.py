"""PEFT's LoRA layers on a GPU, each with the frozen layer beneath it as one function (`kernels.low_rank_training`).

PEFT's own forward makes the frozen layer's output, copies it, makes the update, scales it and adds both, and autograd scales
its gradient and adds two of the input: by count, six readings or writings of all outputs forward, and backward two of all
outputs and two of all inputs, which the function does without. Layers that read the same input (q, k and v; gate and up)
are one function together. Where a layer does
anything else than add one LoRA (dropout, DoRA, several adapters, a bias that trains, another dtype), PEFT's forward runs.

Does not change parameters, or what a layer computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from torch import nn

from adapthub.adapters.quantized import WeightOnlyNf4
from adapthub.adapters.siblings import Together, groups

if TYPE_CHECKING:
    from adapthub.adapters.kernels.low_rank_training import Frozen, Lora


def join(model: PeftModel) -> None:
    """Let the LoRA layers of a model on a GPU run as the module says. Triton and bitsandbytes are there."""
    joined: dict[str, Any] = {}
    for path, module in model.named_modules():
        if type(module) is Linear:
            module.__class__ = JoinedLinear
        elif type(module) is Linear4bit:
            module.__class__ = JoinedLinear4bit
        else:
            continue
        joined[path] = module
    for group in groups(joined):
        layers = [joined[path] for path in group]
        together = Together(layers, partial(_computed, layers))
        for layer in layers:
            layer.together = together


class _Joined:
    together: Together[Any] | None = None  # with layers that read the same input

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not args and not kwargs:
            y = None if self.together is None else self.together.of(self, x)
            if y is not None:
                return y
            if (alone := _computed([self], x)) is not None:
                return alone[0]
        plain: torch.Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]  # of PEFT's class
        return plain


def _computed(layers: Sequence[Any], x: torch.Tensor) -> list[torch.Tensor] | None:
    """Each layer's output; None where one of them does more than add one LoRA to a frozen layer."""
    from adapthub.adapters.kernels.low_rank_training import linears

    pairs = []
    for layer in layers:
        adapter = _adapter(layer, x)
        frozen = None if adapter is None else _frozen(layer.base_layer, x)
        if adapter is None or frozen is None:
            return None
        pairs.append((frozen, adapter))
    if len({adapter.a.dtype for _, adapter in pairs}) > 1:
        return None
    outputs = linears(x.reshape(-1, x.shape[-1]), pairs)
    return [y.view(*x.shape[:-1], -1) for y in outputs]


class JoinedLinear(_Joined, Linear):
    pass


class JoinedLinear4bit(_Joined, Linear4bit):
    pass


def _adapter(layer: Any, x: torch.Tensor) -> Lora | None:
    """The one LoRA that the layer adds to x, in x's own dtype; None where it does anything else."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant:
        return None
    a, b = layer.lora_A[name], layer.lora_B[name]
    if any(type(each) is not nn.Linear or each.bias is not None for each in (a, b)):
        return None
    if not isinstance(layer.lora_dropout[name], nn.Identity):
        return None
    kind = x.device.type
    computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else a.weight.dtype
    if computed != x.dtype or not x.numel() or not torch.is_grad_enabled():
        return None
    from adapthub.adapters.kernels.low_rank_training import Lora

    return Lora(a.weight, b.weight, layer.scaling[name])


def _frozen(layer: nn.Module, x: torch.Tensor) -> Frozen | None:
    from adapthub.adapters.kernels.low_rank_training import Dense, Nf4

    if any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    if isinstance(layer, WeightOnlyNf4):
        return Nf4(layer.matrix(x)) if layer.differentiates(x) else None
    if type(layer) is not nn.Linear or any(each.dtype != x.dtype for each in layer.parameters()):
        return None
    return Dense(layer.weight, layer.bias)
