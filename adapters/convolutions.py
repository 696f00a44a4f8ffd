"""LoRA and DoRA under convolutions, as PEFT 0.21 computes them: a convolution to `rank` channels like the base's own, then
one over single pixels.

Both are made by the base layer's own class, as PEFT makes them, so that what a subclass does beside (timm pads as
TensorFlow does) is done here too. Where that class would make something else than the two, as of a depthwise layer with a
constructor of its own, PEFT fails as well, and the layer is refused by name. Does not read artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from adapthub.adapters.delta import Update
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.layers import Convolution

Move = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ConvLowRank:
    """scale * B(A(x)), with x [n, in, ...] and B(A(x)) [n, out, ...], both channels first; B's bias is scaled too."""

    a: Convolution
    b: Convolution
    scale: float

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        update: torch.Tensor = self.b(self.a(x.to(self.a.weight.dtype))) * self.scale
        return update


@dataclass(frozen=True)
class ConvDora:
    """(gain - 1) * (y - base bias) + gain * scale * B(A(x)); gain and base_bias [out, 1, ...] (Liu et al. 2024, eq. 5)."""

    low_rank: ConvLowRank
    gain: torch.Tensor
    base_bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weighted = y if self.base_bias is None else y - self.base_bias
        return (self.gain - 1) * weighted + self.gain * self.low_rank(x, y)


@dataclass(frozen=True)
class ChannelShift:
    """A constant a channel: the adapter's own bias less the base's; value [out]."""

    value: torch.Tensor

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.value.view(-1, *(1,) * (y.dim() - 2)).expand_as(y)


def update_under(
    module: Convolution,
    name: str,
    parts: Mapping[str, torch.Tensor],
    rank: int,
    scale: float,
    move: Move,
) -> Update:
    """The update of one layer from its tensors, by PEFT's names of its parts. `move` puts a tensor to the base's device.

    Raises TensorMismatch for a tensor of another shape, UnsupportedAdapter for a layer that PEFT's LoRA cannot go under.
    """
    ones = (1,) * len(module.kernel_size)
    shapes: dict[str, tuple[int, ...]] = {
        "lora_A": (rank, module.in_channels, *module.kernel_size),
        "lora_B": (module.out_channels, rank // module.groups, *ones),
        "lora_B.bias": (module.out_channels,),
        "lora_magnitude_vector": (1, module.out_channels, *ones),
    }
    a, b = _layers(module, name, rank, bias="lora_B.bias" in parts)
    if (tuple(a.weight.shape), tuple(b.weight.shape)) != (shapes["lora_A"], shapes["lora_B"]):
        raise _refused(module, name, "its class makes layers of another shape")
    for part, tensor in parts.items():
        if tuple(tensor.shape) != shapes[part]:
            raise TensorMismatch(
                f"{part} of {name!r} is {list(tensor.shape)}; here it is {list(shapes[part])}"
            )
    _fill(a, weight=move(parts["lora_A"]))
    _fill(
        b,
        weight=move(parts["lora_B"]),
        **({"bias": move(parts["lora_B.bias"])} if b.bias is not None else {}),
    )
    low_rank = ConvLowRank(a, b, scale)
    if "lora_magnitude_vector" not in parts:
        return low_rank
    if module.groups > 1:
        raise _refused(module, name, "it has groups, for which DoRA's norm is not defined in PEFT")
    return _dora(low_rank, move(parts["lora_magnitude_vector"]), module)


def _layers(module: Convolution, name: str, rank: int, *, bias: bool) -> tuple[Convolution, Convolution]:
    """A and B without values, made as PEFT makes them."""
    if rank % module.groups:
        raise _refused(module, name, f"its {module.groups} groups do not divide the rank {rank}")
    if any(step != 1 for step in module.dilation) and not isinstance(module.padding, str):
        raise _refused(
            module, name, "it is dilated, and PEFT's A is not, so that their outputs differ in size"
        )
    make = cast(Callable[..., Convolution], type(module))
    ones = (1,) * len(module.kernel_size)
    try:
        with torch.device("meta"):
            a = make(module.in_channels, rank, module.kernel_size, module.stride, module.padding, bias=False)
            b = make(rank, module.out_channels, ones, ones, groups=module.groups, bias=bias)
    except TypeError as error:
        raise _refused(module, name, "its class takes other arguments than torch's") from error
    return a.eval(), b.eval()


def _refused(module: nn.Module, name: str, reason: str) -> UnsupportedAdapter:
    return UnsupportedAdapter(
        f"LoRA under {type(module).__name__} ({name!r}) is not computed: {reason}",
        hint="Leave this layer out of target_modules.",
    )


def _fill(layer: Convolution, **values: torch.Tensor) -> None:
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value, requires_grad=False))


def _dora(low_rank: ConvLowRank, magnitude: torch.Tensor, module: Convolution) -> ConvDora:
    weight = module.weight.detach().to(magnitude.dtype)
    a, b = low_rank.a.weight, low_rank.b.weight
    whole = weight + low_rank.scale * (b.flatten(1) @ a.flatten(1)).view_as(weight)
    norm = torch.linalg.vector_norm(whole.flatten(1), dim=1)
    ones = (1,) * len(module.kernel_size)
    bias = None if module.bias is None else module.bias.detach().to(magnitude.dtype).view(-1, *ones)
    return ConvDora(low_rank, (magnitude.flatten() / norm).view(-1, *ones), bias)
