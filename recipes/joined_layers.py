"""PEFT's LoRA layers on a GPU, each with the frozen layer beneath it as one function (`kernels.low_rank_training`).

PEFT's own forward makes the frozen layer's output, copies it, makes the update, scales it and adds both, and autograd scales
its gradient and adds two of the input: by count, six readings or writings of all outputs forward, and backward two of all
outputs and two of all inputs, which the function does without. Where a layer does
anything else than add one LoRA (dropout, DoRA, several adapters, a bias that trains, another dtype), PEFT's forward runs.

Does not change parameters, or what a layer computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from torch import nn

from adapthub.adapters.quantized import WeightOnlyNf4

if TYPE_CHECKING:
    from adapthub.adapters.kernels.low_rank_training import Frozen, Lora


def join(model: PeftModel) -> None:
    """Let the LoRA layers of a model on a GPU run as the module says. Triton and bitsandbytes are there."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = JoinedLinear
        elif type(module) is Linear4bit:
            module.__class__ = JoinedLinear4bit


class _Joined:
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer: Any = self
        adapter = None if args or kwargs else _adapter(layer, x)
        frozen = None if adapter is None else _frozen(layer.base_layer, x)
        if adapter is None or frozen is None:
            plain: torch.Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]  # of PEFT's class
            return plain
        from adapthub.adapters.kernels import low_rank_training

        y = low_rank_training.linear(x.reshape(-1, x.shape[-1]), frozen, [adapter])
        return y.view(*x.shape[:-1], -1)


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
