"""What a base's generation configuration asks for and serving does not do: said when the base is loaded for generation.

What a request decides (sampling, lengths, stops) is the request's, and not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
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
# What says nothing: of most fields, None or an empty value.
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "guidance_scale": (1,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
}


def unapplied(told: GenerationConfig | None, *, encoder_decoder: bool) -> list[str]:
    """Its fields that change what `generate` writes, and not what serving does, as "name=value"."""
    fields = _NEVER if encoder_decoder else _NEVER + _OF_DECODERS
    values = {name: getattr(told, name, None) for name in fields}
    return [
        f"{name}={value}"
        for name, value in values.items()
        if value not in (None, [], {}) and value not in _NOTHING.get(name, ())
    ]
