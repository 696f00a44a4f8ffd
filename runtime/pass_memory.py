"""What passes take beside weights, keys and values, and adapters: activations, weights dequantised aside, workspace, graphs.

Activations are those of a pass of the model without memory behind it: what its tensors would take while they are alive. Does
not count what an allocator rounds up, kernels' code, or what a CUDA graph's nodes take of the driver (`benchmarks.graphs`
measures that).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from adapthub.adapters.token_runs import tile_for
from adapthub.runtime.graphs import INPUT_BYTES, buckets_of

# What torch gives cuBLAS on a GPU of capability 9.0, for each stream that multiplies: the passes' own, and that of captures.
_WORKSPACE = 2 * (32 << 20)
_COUNTED = 4096
_ENTRY = 6 * 8 + 2 * 4  # bytes that kernels are told of a row's adapter under one module (adapters.entries)


def peak_bytes(run: Callable[[], object], there: Iterable[torch.Tensor] = ()) -> int:
    """The most bytes that tensors made by `run` take at once, `there` not among them; also on a device without memory."""
    alive = _Alive(there)
    with alive:
        run()
    return alive.peak


def pass_bytes(model: PreTrainedModel, tokens: int, rows: int) -> int:
    """What a pass of a model on the meta device over [1, tokens] takes, with logits of `rows` of them, also in float32.

    Beyond `_COUNTED` tokens as much more as they are more: activations are by token.
    """
    if tokens <= _COUNTED:
        return _pass_bytes(model, tokens, rows)
    return _pass_bytes(model, _COUNTED, rows * _COUNTED // tokens) * tokens // _COUNTED


def _pass_bytes(model: PreTrainedModel, tokens: int, rows: int) -> int:
    device = torch.device("meta")
    model.set_attn_implementation("sdpa")
    ids = torch.ones(1, tokens, dtype=torch.long, device=device)
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=device)
    kept = torch.zeros(min(rows, tokens), dtype=torch.long, device=device)

    def run() -> torch.Tensor:
        logits: torch.Tensor = model(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept
        ).logits
        return logits.float()

    with torch.inference_mode():
        return peak_bytes(run, [ids, mask, kept, *model.parameters(), *model.buffers()])


def aside_bytes(model: PreTrainedModel, quantized: bool, device: torch.device, dtype: torch.dtype) -> int:
    """What products take aside: the largest weight of a quantised base, in `dtype`, and a GPU's workspace."""
    inside = [
        module.weight.numel() for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)
    ]
    dense = max(inside, default=0) * dtype.itemsize if quantized else 0
    return dense + (_WORKSPACE if device.type == "cuda" else 0)


def graph_bytes(modules: int, vocabulary: int, context: int, rows: int, tokens: int) -> int:
    """What passes of up to so many tokens and rows keep once all of them are captured, for adapters under `modules`, one a
    row: each one's inputs and entries; for all, the logits and where rows' keys are, and the largest pass's tokens' entries.
    """
    sizes = buckets_of(max(rows, tokens))
    own = sum(size * INPUT_BYTES + min(size, rows) * modules * _ENTRY for size in sizes)
    apart = max(size for size in sizes if not tile_for(size))
    shared = rows * vocabulary * 4 + (rows + 1) * context * 4
    return own + shared + (apart + min(rows, sizes[-1])) * modules * _ENTRY


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operations within make, until they go."""

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self._seen = WeakIdKeyDictionary({tensor.untyped_storage(): True for tensor in there})
        self._now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, result)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = True
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self._now -= size
