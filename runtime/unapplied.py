"""What a base's generation configuration asks for and serving does not do: said when the base is loaded for generation.

What a request decides (sampling, lengths, stops) is the request's, and not looked at.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

_NEVER = (
    "num_beams",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "guidance_scale",
)
# Of encoder-decoders encoder_decoder does these.
_OF_DECODERS = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "min_length",
)
_NOTHING: tuple[Any, ...] = (None, 0, 1, [], {})


def unapplied(told: GenerationConfig | None, *, encoder_decoder: bool) -> list[str]:
    """Its fields that change what `generate` writes, and not what serving does, as "name=value"."""
    fields = _NEVER if encoder_decoder else _NEVER + _OF_DECODERS
    values = {name: getattr(told, name, None) for name in fields}
    return [f"{name}={value}" for name, value in values.items() if value not in _NOTHING]
