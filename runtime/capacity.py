"""What serving a base will take, before it is loaded: weights, keys and values, adapters in slots.

The shapes of keys and values, and what activations take, are learnt from passes of the model without memory behind it. Loads
no weights and measures nothing: the allocator's slack is not counted, nor what CUDA graphs take of the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.attach import STACK_BYTES
from adapthub.adapters.base import ResolvedBase, resolve_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.kernel_trial import kernels_run
from adapthub.adapters.memory import free_memory
from adapthub.adapters.placement import (
    choose_device,
    choose_dtype,
    choose_quantization,
    published_quantization,
)
from adapthub.adapters.products import packed_bytes
from adapthub.adapters.weights import loaded_bytes, read_headers
from adapthub.runtime.attention import look
from adapthub.runtime.generation import Limits, kv_tokens
from adapthub.runtime.kv import page_bytes
from adapthub.runtime.pass_memory import aside_bytes, graph_bytes, pass_bytes
from adapthub.runtime.runtime import PACKED_SHARE


@dataclass(frozen=True)
class Capacity:
    """Sizes in bytes. `packed_bytes`: second copies of weights in the order in which this processor multiplies fastest.
    `kv_tokens`: tokens whose keys and values fit, `kv_token_bytes` each; `context`: the longest request,
    prefix included; `adapter_bytes`: one LoRA of `rank` under all linear layers of the backbone; `slots`: how many such fit
    into what is left, or were asked for; `stack_bytes`: at most so much for second copies of LoRAs that decode together;
    `pass_bytes`: activations of the largest pass, which captured ones share, and what products take aside; `graph_bytes`:
    what captured passes keep on a GPU, for adapters under all those layers, one a row;
    `left`: free memory less all that, negative where it does not fit."""

    base: str
    quantize: str | None
    device: str
    dtype: str
    free: int
    base_bytes: int
    packed_bytes: int
    kv_tokens: int
    kv_token_bytes: int
    kv_bytes: int
    context: int
    max_rows: int
    rank: int
    adapter_bytes: int
    slots: int
    slot_bytes: int
    stack_bytes: int
    pass_bytes: int
    graph_bytes: int
    left: int


def capacity(
    base: str,
    quantize: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    limits: Limits | None = None,
    slots: int | None = None,
    rank: int = 16,
) -> Capacity:
    """What `Runtime(base, quantize, device, dtype, slots=slots, limits=limits)` will take for generation.

    Raises InvalidSettings for a base that cannot generate, OutOfMemory where `limits.kv_tokens` does not fit, and what
    resolving a base raises.
    """
    if rank < 1:
        raise InvalidSettings(f"rank = {rank}", hint="Give a whole number from 1.")
    limits = limits or Limits()
    where = choose_device(device)
    number = choose_dtype(dtype, where)
    resolved = resolve_base(base)
    weights = loaded_bytes(read_headers(resolved.path), number.itemsize, choose_quantization(quantize))
    model = _without_memory(resolved, number)
    serving = look(model)
    free = free_memory(where)
    quantized = quantize or published_quantization(resolved.config, base)
    packed = _packed_bytes(model, where, quantized) if number == torch.float32 else 0
    if packed > PACKED_SHARE * (free - weights):
        packed = 0
    passes = pass_bytes(model, max(limits.step_tokens, limits.max_rows), limits.max_rows)
    passes += aside_bytes(model, quantized is not None, where, number)
    tokens = kv_tokens(serving, free - weights - packed, limits)
    kv = tokens * page_bytes(serving.shapes, 1, serving.dtype)
    adapter = _adapter_bytes(model, rank, number)
    context = min(serving.context or tokens, tokens)
    graphs = _graph_bytes(model, where, context, limits)
    room = free - weights - packed - kv - passes - graphs
    # Second copies take no more than the adapters in slots do.
    count = max(0, max(room - STACK_BYTES, room // 2) // adapter) if slots is None else slots
    stacks = min(STACK_BYTES, count * adapter)
    return Capacity(
        base=base,
        quantize=quantize,
        device=str(where),
        dtype=str(number).removeprefix("torch."),
        free=free,
        base_bytes=weights,
        packed_bytes=packed,
        kv_tokens=tokens,
        kv_token_bytes=page_bytes(serving.shapes, 1, serving.dtype),
        kv_bytes=kv,
        context=context,
        max_rows=limits.max_rows,
        rank=rank,
        adapter_bytes=adapter,
        slots=count,
        slot_bytes=count * adapter,
        stack_bytes=stacks,
        pass_bytes=passes,
        graph_bytes=graphs,
        left=room - count * adapter - stacks,
    )


def _without_memory(base: ResolvedBase, dtype: torch.dtype) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(base.config, dtype=dtype)
    except ValueError as error:
        raise InvalidSettings(f"{base.ref} is no language model that can generate") from error
    return cast(PreTrainedModel, model.eval())


def _packed_bytes(model: PreTrainedModel, device: torch.device, quantize: str | None) -> int:
    """What `Runtime` packs: of a quantised base only the output embeddings."""
    output = model.get_output_embeddings()
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and (quantize is None or module is output)
    ]
    return packed_bytes(layers) if device.type == "cpu" else 0


def _adapter_bytes(model: PreTrainedModel, rank: int, dtype: torch.dtype) -> int:
    return sum(map(sum, _sides(model))) * rank * dtype.itemsize


def _graph_bytes(model: PreTrainedModel, device: torch.device, context: int, limits: Limits) -> int:
    """0 where passes are not captured."""
    if not kernels_run(device):
        return 0
    vocabulary = model.config.get_text_config().vocab_size
    return graph_bytes(len(_sides(model)), vocabulary, context, limits.max_rows, limits.step_tokens)


def _sides(model: PreTrainedModel) -> list[tuple[int, int]]:
    """(in, out) of every linear layer of the backbone."""
    return [
        (module.in_features, module.out_features)
        if isinstance(module, torch.nn.Linear)
        else (module.nx, module.nf)
        for module in model.base_model.modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
    ]
