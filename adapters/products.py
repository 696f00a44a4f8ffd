"""Products of float32 matrices by oneDNN, on the processors where torch's own leave half of the machine unused.

torch multiplies float32 by MKL, which on AMD keeps to AVX2; oneDNN, in the same wheel, uses the AVX-512 that Zen 4 and later
have, for the same sums in another order (benchmarks/products.py). Everywhere else, and wherever a gradient or autocast is
wanted, a product is torch's own. Which one is a matter of processor, shapes and whether weights are packed, never of values.

oneDNN reads a weight fastest in an order of its own: `pack` gives layers a second copy in it, with which products of up to
some 32 rows take half to four fifths of the time.

What oneDNN prepares for a number of rows that is new, up to a megabyte for one shape of layer, it keeps, in part for as long
as the process lives. So the numbers are rounded up (`rounded`): there are some fifty of them up to 512.

Does not change weights or choose number formats.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

_Layer = TypeVar("_Layer", bound=nn.Linear)
# What torch.compile makes of a linear layer on CPUs; without a packed weight it reads a plain one.
_ONEDNN = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
# Multiplications from which a call of oneDNN, some 10 microseconds, is worth its price.
_WORTH_CALLING = 1 << 19
# Significant bits of the numbers of rows that oneDNN sees: each one up to 16, then eight to every power of two.
_BITS = 4
# Weights of a layer from which a packed product of one row is faster than torch's own.
_WORTH_PACKING = 1 << 16


@cache
def by_onednn() -> bool:
    """Whether large float32 products go to oneDNN on this machine."""
    capabilities = torch.cpu.get_capabilities()
    return bool(
        capabilities.get("avx512_f")
        and str(capabilities.get("cpu_name", "")).startswith("AMD")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and _ONEDNN is not None
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear`: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    if _suits(x) and weight.dtype == torch.float32 and x.numel() * len(weight) >= _WORTH_CALLING:
        return _by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _suits(x: torch.Tensor) -> bool:
    return bool(
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and by_onednn()
        and torch.backends.mkldnn.enabled
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def rounded(rows: int) -> int:
    """As many rows or a few more, at most an eighth, with which oneDNN multiplies `rows` of them."""
    step = 1 << max(0, (rows - 1).bit_length() - _BITS)
    return -(-rows // step) * step


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # A bias is read as if it lay in one piece, whatever its strides say.
    whole = None if bias is None else bias.contiguous()
    rows = x.shape[:-1].numel()
    more = rounded(rows) - rows
    given = F.pad(x.reshape(rows, -1), (0, 0, 0, more)) if more else x
    made = cast(torch.Tensor, _ONEDNN(given, weight, whole, "none", [], ""))  # type: ignore[misc]
    return made[:rows].unflatten(0, x.shape[:-1]) if more else made


class _Packed(NamedTuple):
    """A copy of `weight` as it was at `version`, in oneDNN's order."""

    copy: torch.Tensor
    weight: torch.Tensor
    version: int


class Linear(nn.Linear):
    """torch's linear layer, multiplied by `linear`, or with the copy that `pack` made of its weight.

    The copy is left alone once the weight was replaced or changed in place. A change through `weight.data`, as PEFT's
    merging makes it, is not noticed: `unpack` first. Copies of the layer, pickled ones too, are not packed.
    """

    packed: _Packed | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        weight, packed = self.weight, self.packed
        if packed and packed.weight is weight and packed.version == weight._version and _suits(x):
            return _by_onednn(x, packed.copy, self.bias)
        return linear(x, weight, self.bias)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}


def quicken(model: nn.Module) -> None:
    """Let every plain linear layer of `model` multiply by `linear`; names, weights and layers' kinds stay as they are.

    Nothing changes on a machine where `linear` is torch's own.
    """
    if not by_onednn():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def pack(model: nn.Module, room: int) -> None:
    """Pack the weights of the layers that `quicken` changed, where that pays; none if they would take over `room` bytes."""
    layers = _worth_packing(module for module in model.modules() if type(module) is Linear)
    if packed_bytes(layers) > room:
        return
    for layer in layers:
        weight = layer.weight
        with torch.inference_mode():
            copy = torch.ops.mkldnn._reorder_linear_weight(weight)
        layer.packed = _Packed(copy, weight, weight._version)


def unpack(model: nn.Module) -> None:
    """Give the memory of packed weights back."""
    for module in model.modules():
        if type(module) is Linear:
            module.packed = None


def packed_bytes(layers: Iterable[nn.Linear]) -> int:
    """What `pack` takes for `layers` on this machine, in float32."""
    return sum(4 * layer.weight.numel() for layer in _worth_packing(layers))


def _worth_packing(layers: Iterable[_Layer]) -> list[_Layer]:
    if not by_onednn():
        return []
    return [
        layer
        for layer in layers
        if layer.weight.dtype == torch.float32
        and layer.weight.device.type in ("cpu", "meta")
        and layer.weight.numel() >= _WORTH_PACKING
    ]
