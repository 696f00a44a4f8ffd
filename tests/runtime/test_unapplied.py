"""What of a base's generation configuration serving does not do is said, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from adapthub.runtime.unapplied import unapplied


@pytest.mark.parametrize(
    ("told", "of_decoders", "of_both"),
    [
        ({}, [], []),
        ({"num_beams": 1, "repetition_penalty": 1.0, "min_length": 0}, [], []),
        (
            {"num_beams": 4, "no_repeat_ngram_size": 3},
            ["num_beams=4", "no_repeat_ngram_size=3"],
            ["num_beams=4"],
        ),
        ({"repetition_penalty": 1.1, "temperature": 0.6, "do_sample": True}, ["repetition_penalty=1.1"], []),
        (
            {"forced_bos_token_id": 0, "forced_eos_token_id": 1},
            ["forced_bos_token_id=0", "forced_eos_token_id=1"],
            [],
        ),
        ({"suppress_tokens": [3]}, ["suppress_tokens=[3]"], []),
        (
            {"encoder_repetition_penalty": 1.5},
            ["encoder_repetition_penalty=1.5"],
            ["encoder_repetition_penalty=1.5"],
        ),
    ],
)
def test_what_is_said(told: dict[str, Any], of_decoders: list[str], of_both: list[str]) -> None:
    config = GenerationConfig(**told)
    assert unapplied(config, encoder_decoder=False) == of_decoders
    assert unapplied(config, encoder_decoder=True) == of_both


def test_without_a_configuration_nothing_is() -> None:
    assert unapplied(None, encoder_decoder=False) == []
