"""One flattened pass of a causal base through `AdaptedBase.applying`, as the engine runs it, without its pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.delta import Segment
from adapthub.adapters.flat import flat_batch, positions
from adapthub.adapters.selections import Selection
from tests.conftest import write_tokenizer

CAUSAL = "text-generation"
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


def write_causal_base(folder: Path, config: Any | None = None, **options: Any) -> Path:
    """A random language model, by default a 2-layer Llama with grouped heads, and a tokenizer."""
    torch.manual_seed(3)
    chosen = LlamaConfig(**SIZES | options) if config is None else config
    AutoModelForCausalLM.from_config(chosen).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def causal_logits(
    adapted: AdaptedBase, rows: Sequence[Sequence[int]], selections: Sequence[Selection], last: bool = False
) -> list[torch.Tensor]:
    """Every row's logits [T, vocabulary], or [1, vocabulary] of its `last` token, from one pass for all."""
    prefixes = [adapted.selections.prefix_of(selection) for selection in selections]
    lengths = [len(row) for row in rows]
    segments = _segments(lengths, selections)
    kept = _segments([1] * len(rows), selections) if last else segments
    chosen = [segment.stop - 1 for segment in segments] if last else list(range(sum(lengths)))
    with torch.inference_mode(), adapted.applying(segments, kept), flat_batch(lengths, prefixes):
        logits = adapted.base.model(
            input_ids=torch.tensor([[token for row in rows for token in row]]),
            position_ids=positions(lengths, prefixes, 0),
            use_cache=False,
            logits_to_keep=torch.tensor(chosen),
        ).logits[0]
    return list(logits.split([1] * len(rows) if last else lengths))


def _segments(lengths: Sequence[int], selections: Sequence[Selection]) -> list[Segment]:
    segments, at = [], 0
    for length, selection in zip(lengths, selections, strict=True):
        segments.append(Segment(at, at + length, selection))
        at += length
    return segments
