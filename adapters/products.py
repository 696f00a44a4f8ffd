"""Products of float32 matrices by oneDNN, on the processors where torch's own leave half of the machine unused.

torch multiplies float32 by MKL, which on AMD keeps to AVX2; oneDNN, in the same wheel, uses the AVX-512 that Zen 4 and later
have, for the same sums in another order (benchmarks/products.py). Everywhere else, and wherever a gradient or autocast is
wanted, a product is torch's own. Which one is a matter of processor and shapes alone: results are the same in every process.

Does not change weights, repack them, or choose number formats.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

# What torch.compile makes of a linear layer on CPUs; without a packed weight it reads a plain one.
_ONEDNN = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
# Multiplications from which a call of oneDNN, some 10 microseconds, is worth its price.
_WORTH_CALLING = 1 << 19


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
    if (
        _ONEDNN is not None
        and by_onednn()
        and torch.backends.mkldnn.enabled
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(weight) >= _WORTH_CALLING
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    ):
        # A bias is read as packed, whatever its strides say.
        packed = None if bias is None else bias.contiguous()
        return cast(torch.Tensor, _ONEDNN(x, weight, packed, "none", [], ""))
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """torch's linear layer, multiplied by `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return linear(x, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Let every plain linear layer of `model` multiply by `linear`; names, weights and layers' kinds stay as they are.

    Nothing changes on a machine where `linear` is torch's own.
    """
    if not by_onednn():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
