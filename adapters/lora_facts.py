"""What a LoRA's keys and configuration say of a module: which tensors are its parts, their rank, the scale of their product.

As PEFT 0.21 reads them, without PEFT, whose import takes seconds. Reads no tensors. The patterns must have been admitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

LORA_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<parameter>weight|bias))?"
)
"""A part of LoRA, by its key without PEFT's prefix: the module, the part, weight or bias."""

TOKENS = ".token_adapter.trainable_tokens_delta"
"""The end of the key of an embedding's trained rows, after its module."""

PEFT_RANK = 8
PEFT_ALPHA = 8
"""What PEFT takes where a configuration has no r or lora_alpha."""


def configured_rank(module: str, config: Mapping[str, Any]) -> int:
    """The rank of the task model's module `module`."""
    return int(_by_pattern(module, config.get("rank_pattern"), config.get("r", PEFT_RANK)))


def configured_scale(module: str, config: Mapping[str, Any]) -> float:
    """What B A is multiplied with: alpha / r, or alpha / sqrt(r) under rsLoRA."""
    rank = configured_rank(module, config)
    alpha = float(_by_pattern(module, config.get("alpha_pattern"), config.get("lora_alpha", PEFT_ALPHA)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def trained_tokens(module: str, config: Mapping[str, Any]) -> list[int]:
    """Which tokens' rows the adapter brings for the embedding `module`, in their order; none if it names none."""
    named = config.get("trainable_token_indices") or []
    if isinstance(named, list):
        return named
    return next((ids for name, ids in named.items() if module == name or module.endswith(f".{name}")), [])


def _by_pattern(module: str, pattern: Mapping[str, float] | None, otherwise: float) -> float:
    found = (value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, otherwise)
