"""What backward keeps of a batch of texts, by the sizes that a base's configuration tells. Runs no pass.

Counted layer by layer for transformers whose linear layers have adapters, and measured against passes on a CPU
(tests/recipes/test_activations): within a tenth for BERT's and Llama's kin. Not counted: embeddings, logits, what adapters
keep of their own rank, experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_FLOAT, _HALF = 4, 2  # bytes
# Hidden states a layer, for each token. In float32: what the attention's and the feed-forward layers read, queries, keys,
# values and what comes of them, and what both norms read. In half precision each adapter has a copy of what it reads, and
# norms compute in float32.
_HIDDEN = 8
_HIDDEN_HALF, _NORMS = 10, 2
# States of the feed-forward layer's inner size: before and after an activation; with a gate also this and the product; of an
# activation that is written out in Python its steps.
_INNER, _INNER_GATED, _INNER_STEPS = 2, 4, 5
_IN_STEPS = ("gelu_new", "gelu_fast", "gelu_python")
# Rows of attention a head, where they are kept, in float32: probabilities, which of them are dropped, what is left.
_ATTENTION = 3
_MASKS = (
    2  # hidden states of ones and zeros, by which a CPU drops; a GPU's are of single bytes, and are left out
)
_DROPPED_HIDDEN = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop", "dropout")
_DROPPED_ATTENTION = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def activation_bytes(
    model: nn.Module,
    *,
    tokens: int,
    longest: int,
    precision: str,
    device: torch.device,
    recomputed: bool,
) -> int:
    """Bytes that backward keeps of `tokens` in rows of up to `longest`, computed in `precision` ("fp32", "bf16", "fp16") on
    `device`: all of it, or where `recomputed` each layer's input and all of one layer; 0 for a configuration that does not
    say its sizes. `model` is a transformers' or PEFT's, over meta or real weights."""
    config: Any = model.config
    text = config.get_text_config()
    layers: int = getattr(text, "num_hidden_layers", 0)
    hidden: int = getattr(text, "hidden_size", 0)
    if config.is_encoder_decoder:
        layers += int(getattr(text, "num_decoder_layers", None) or getattr(text, "decoder_layers", None) or 0)
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    number = _FLOAT if precision == "fp32" else _HALF
    dropped = _MASKS if device.type == "cpu" and _any(text, _DROPPED_HIDDEN) else 0
    if number == _FLOAT:
        states = (_HIDDEN + dropped) * hidden * _FLOAT
    else:
        states = (_HIDDEN_HALF + dropped) * hidden * _HALF + _NORMS * hidden * _FLOAT
    states += _inner_states(model, text, inner) * inner * number
    if _keeps_attention(text, device):
        states += _ATTENTION * getattr(text, "num_attention_heads", 0) * longest * _FLOAT
    if recomputed:
        return int(tokens * (layers * hidden * number + states))
    return int(tokens * layers * states)


def cast_bytes(model: nn.Module) -> int:
    """Bytes of the weights that a float32 base's linear layers have in half precision as well until backward has read them,
    where it is computed in that."""
    return sum(
        module.weight.numel() * _HALF
        for module in model.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and not module.weight.requires_grad
    )


def _any(config: Any, names: tuple[str, ...]) -> bool:
    return any(getattr(config, name, 0) for name in names)


def _keeps_attention(config: Any, device: torch.device) -> bool:
    """Whether the rows of attention are there at all: where no fused kernel computes it, as on a CPU that drops some."""
    return config._attn_implementation == "eager" or (
        device.type == "cpu" and _any(config, _DROPPED_ATTENTION)
    )


def _inner_states(model: nn.Module, config: Any, inner: int) -> int:
    if any(getattr(config, name, None) in _IN_STEPS for name in ("hidden_act", "activation_function")):
        return _INNER_STEPS
    layers = (module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D)))
    # An adapter's own matrices are no layers of the base, though one may be as wide.
    widths = [layer.weight.shape for layer in layers if not layer.weight.requires_grad]
    up = sum(inner == width[0] != width[1] for width in widths)
    down = sum(inner == width[1] != width[0] for width in widths)
    in_one = any(width[0] == 2 * inner for width in widths)
    return _INNER_GATED if in_one or up > down else _INNER
