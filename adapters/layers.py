"""A base model's single layers, read without changing them: sizes, full weights, full-precision twins.

Knows torch's layers, transformers' Conv1D, a linear layer, and bitsandbytes' quantised ones. Does not know adapters.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter

if TYPE_CHECKING:
    from adapthub.adapters.base import Base


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def has_channels_first(module: nn.Module) -> bool:
    """Whether the layer's tensors are [n, channels, ...], with n the rows of a batch, instead of features last."""
    return (
        isinstance(module, (Convolution, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm))
        or getattr(module, "data_format", None) == "channels_first"  # transformers' layer norms of ConvNeXt
        or type(module).__name__ == "LayerNorm2d"  # timm's
    )


def takes_lora(module: nn.Module) -> bool:
    """Whether LoRA under this kind of layer is computed here."""
    return isinstance(module, (nn.Linear, nn.Embedding, Conv1D, Convolution))


def sizes(module: nn.Module, path: str) -> tuple[int, int]:
    """(in, out) features; of an embedding, (vocabulary, hidden). Raises UnsupportedAdapter for any other layer."""
    if isinstance(module, nn.Linear):  # bitsandbytes' layers are nn.Linear too
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    raise UnsupportedAdapter(
        f"an adapter of this method under {type(module).__name__} ({path!r}) is not computed here"
    )


def full_weight(module: nn.Module) -> torch.Tensor:
    """A linear layer's weight [out, in], dequantised as bitsandbytes computes with it, its state untouched."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if type(weight).__name__ == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, cast(Any, weight).quant_state)
    if type(weight).__name__ == "Int8Params":
        settled: torch.Tensor | None = cast(Any, module).state.SCB
        scales = cast(torch.Tensor, cast(Any, weight).SCB if settled is None else settled)
        return weight.data * scales[:, None] / 127  # LLM.int8(), by row (Dettmers et al. 2022, sec. 2.1)
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()


def bare(module: nn.Module) -> nn.Module:
    """The layer itself, quantised or not, sharing its weight, without its bias and without hooks."""
    layer = _own_parameters(module)
    if isinstance(module.bias, torch.Tensor):
        # Conv1D cannot do without one.
        layer._parameters["bias"] = (
            nn.Parameter(torch.zeros_like(module.bias), requires_grad=False)
            if isinstance(module, Conv1D)
            else None
        )
    return layer


def twin(module: nn.Module, state: Mapping[str, torch.Tensor], path: str, base: Base) -> nn.Module:
    """A full-precision module of the same kind with the adapter's own weights."""
    if any(True for _ in module.children()):
        raise TensorMismatch(
            f"modules_to_save gives parameters {sorted(state)} to {path!r}, which has only children"
        )
    if isinstance(module, nn.Linear):
        fresh: nn.Module = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta"
        )
    else:
        fresh = _own_parameters(module)  # those that it still shares are replaced below
    expected = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != got:
        raise TensorMismatch(f"modules_to_save brings {got} for {path!r}; it needs {expected}")
    moved = {
        name: tensor.to(device=base.device, dtype=base.dtype if tensor.is_floating_point() else None)
        for name, tensor in state.items()
    }
    fresh.load_state_dict(moved, assign=True)
    return fresh.eval().requires_grad_(False)


def _own_parameters(module: nn.Module) -> nn.Module:
    """A copy of a layer whose parameters and buffers can be set apart, without the hooks."""
    layer = copy.copy(module)
    layer._parameters = dict(module._parameters)
    layer._buffers = dict(module._buffers)
    layer._forward_hooks = OrderedDict()
    return layer
