"""bitsandbytes layers that compute the same in training as in evaluation, and for a row in any batch.

As loaded by transformers they do not:

- an int8 layer rounds its activations by the largest of a row (and, by default, splits off columns where any row of the
  batch is large), so that a neighbour changes a result; and on CPU in training it does not round them at all;
- a 4-bit layer on a CPU with AVX512-BF16 repacks itself at the first evaluation: from then on activations are rounded to
  bfloat16, gradients no longer pass it, and layers whose sides are not multiples of 32 and 64 raise.

`steady` makes both multiply by the weights as stored, dequantised to the activations' dtype: on the CPU by
`products.linear`; on a GPU, few rows without gradients by `kernels.nf4`, `kernels.nf4_pairs` and `kernels.int8`, which read
the weights once, and 4-bit layers with gradients by `kernels.nf4_training`. Layers that read the same input are computed by
the first of them (`siblings`) where one launch for all was measured to be faster.
Does not quantise.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import torch
from bitsandbytes.autograd._functions import MatMul8bitFp
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt, fix_4bit_weight_quant_state_from_module
from torch import nn

from adapthub.adapters.kernel_trial import kernels_run
from adapthub.adapters.products import linear
from adapthub.adapters.siblings import Together, family, groups

if TYPE_CHECKING:
    from adapthub.adapters.kernels.nf4_pairs import Matrix

# glibc's mallopt: keep freed blocks of up to 1 GiB instead of returning them to the system.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# Up to which our kernels were measured faster than bitsandbytes, which multiplies more by weights that it dequantises aside.
_NF4_ROWS = 128
_INT8_ROWS = 256


class WeightOnlyInt8(Linear8bitLt):
    """int8 weights with one scale a row; activations stay as they come. [..., in] to [..., out]."""

    def settle(self) -> None:
        """Put weights and scales where they are used, as bitsandbytes does only on first use.

        PEFT's DoRA reads the scales before that, and takes them away.
        """
        layer: Any = self
        if layer.weight.CB is not None:
            layer.init_8bit_state()
            layer.weight.data = layer.state.CB

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            stored, scales = cast(torch.Tensor, self.state.CB), cast(torch.Tensor, self.state.SCB)
            return linear(x, stored.to(x.dtype).mul_(scales[:, None].mul(1 / 127)), bias)
        if _few(x, _INT8_ROWS) and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cuda"):
            from adapthub.adapters.kernels import int8

            stored, scales = cast(torch.Tensor, self.state.CB), cast(torch.Tensor, self.state.SCB)
            return int8.multiply(x.reshape(-1, x.shape[-1]), stored, scales, bias).view(*x.shape[:-1], -1)
        multiply = cast(Callable[..., torch.Tensor], MatMul8bitFp.apply)
        return multiply(x, self.weight, None, bias, self.state)


class WeightOnlyNf4(Linear4bit):
    """4-bit weights; activations stay as they come, or are in the format that a checkpoint asks to compute in.

    [..., in] to [..., out].
    """

    together: Together[WeightOnlyNf4] | None = None  # with layers that read the same input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fix_4bit_weight_quant_state_from_module(self)  # a weight that lies in parts comes together without it
        kind = x.device.type
        ours = kind in ("cpu", "cuda") and self.compute_dtype in (None, x.dtype)
        if ours and not torch.is_grad_enabled() and not torch.is_autocast_enabled(kind):
            if kind == "cpu":
                weight = dequantize_4bit(self.weight.data, cast(Any, self.weight).quant_state)
                return linear(x, weight.to(x.dtype), self._bias(x))
            if _few(x, _NF4_ROWS) and self._blocked():
                y = None if self.together is None else self.together.of(self, x)
                return _by_kernel([self], x)[0] if y is None else y
        if torch.is_grad_enabled() and self.differentiates(x):
            from adapthub.adapters.kernels import nf4_training

            y = nf4_training.linear(x.reshape(-1, x.shape[-1]), self.matrix(x))
            return y.view(*x.shape[:-1], self.out_features)
        return cast(torch.Tensor, super().forward(x))

    def differentiates(self, x: torch.Tensor) -> bool:
        """Whether our kernels multiply x so that gradients reach it, as bitsandbytes does: in x's own format."""
        fix_4bit_weight_quant_state_from_module(self)  # others than `forward` ask too
        return (
            (self.bias is None or not self.bias.requires_grad)
            and self.compute_dtype in (None, x.dtype)
            and _few(x, sys.maxsize)
            and not (torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") != x.dtype)
            and self._blocked()
        )

    def _bias(self, x: torch.Tensor) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.to(x.dtype)

    def _blocked(self) -> bool:
        """Whether weights and scales come in the blocks that our kernel reads."""
        state = cast(Any, self.weight).quant_state
        return (
            state is not None
            and state.quant_type == "nf4"
            and state.blocksize == 64
            and (not state.nested or state.state2.blocksize == 256)
            and tuple(state.shape) == (self.out_features, self.in_features)
        )

    def matrix(self, x: torch.Tensor) -> Matrix:
        """As our kernels are told of it, for activations like x."""
        from adapthub.adapters.kernels.nf4 import Scales
        from adapthub.adapters.kernels.nf4_pairs import Matrix

        state = cast(Any, self.weight).quant_state
        inner = (state.state2.absmax, state.state2.code, state.offset) if state.nested else (None,) * 3
        # Some checkpoints keep the bytes as numbers of another dtype.
        packed = self.weight.data.view(torch.uint8)
        return Matrix(packed, Scales(state.absmax, *inner), self.out_features, self._bias(x))


def _by_kernel(layers: Sequence[WeightOnlyNf4], x: torch.Tensor) -> list[torch.Tensor]:
    """Each layer's product with x, which our kernels serve."""
    from adapthub.adapters.kernels.nf4_choice import products

    rows = x.reshape(-1, x.shape[-1])
    found = products(rows, [layer.matrix(x) for layer in layers])
    return [y.view(*x.shape[:-1], -1) for y in found]


def _together(layers: Sequence[WeightOnlyNf4], x: torch.Tensor) -> list[torch.Tensor] | None:
    """The same in one launch; None where that is not known to be faster."""
    if not all(layer._blocked() and layer.in_features == x.shape[-1] for layer in layers):
        return None
    from adapthub.adapters.kernels.nf4_choice import together

    matrices = [layer.matrix(x) for layer in layers]
    return None if together(x.reshape(-1, x.shape[-1]), matrices) is None else _by_kernel(layers, x)


def _few(x: torch.Tensor, most: int) -> bool:
    """Whether our kernels serve such rows, and are the faster ones: up to `most`."""
    return (
        x.device.type == "cuda"
        and 0 < x.numel() <= most * x.shape[-1]
        and x.shape[-1] % 64 == 0
        and x.dtype in (torch.bfloat16, torch.float16)
        and _kernels(x.device)
    )


@cache
def _kernels(device: torch.device) -> bool:
    """Whether kernels run there, and the device has the instructions that these use."""
    return torch.cuda.get_device_capability(device) >= (8, 0) and kernels_run(device)


def steady(model: nn.Module) -> None:
    """Change every bitsandbytes layer of `model` in place, as the module says; weights stay as they are."""
    for module in model.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = WeightOnlyInt8
            cast(WeightOnlyInt8, module).settle()
        elif type(module) is Linear4bit:
            module.support_avx512bf16_for_cpu = False
            module.__class__ = WeightOnlyNf4
    named = {path: module for path, module in model.named_modules() if isinstance(module, WeightOnlyNf4)}
    for group in groups(named):
        if group != family(group[0]):
            continue
        layers = [named[path] for path in group]
        together = Together(layers, partial(_together, layers))
        for layer in layers:
            layer.together = together


def keep_freed_memory() -> None:
    """Let this process reuse the large temporaries of dequantisation instead of mapping them on each call.

    Several times faster for layers over 32 MB in fp32, on the CPU with glibc; elsewhere nothing happens.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
