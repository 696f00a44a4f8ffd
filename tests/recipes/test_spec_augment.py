"""Masks of recordings in training: none that would leave nothing to hear, else those that transformers draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ForCTC

from adapthub.recipes.spec_augment import spares_the_short
from adapthub.recipes.training import train
from tests.adapters.speech_bases import RATE, tone, write_small_wav2vec2

SECOND = 50  # positions


@pytest.fixture
def masking(tmp_path: Path) -> Path:
    """A base that masks as published ones do: at least two spans of ten positions."""
    folder = write_small_wav2vec2(tmp_path / "base")
    model: Any = Wav2Vec2ForCTC.from_pretrained(folder)
    model.config.update({"mask_time_prob": 0.05, "mask_time_length": 10, "mask_time_min_masks": 2})
    model.save_pretrained(folder)
    return folder


def test_the_short_are_heard_whole_and_the_long_are_masked_as_ever(masking: Path) -> None:
    model: Any = Wav2Vec2ForCTC.from_pretrained(masking)
    inner, hidden = model.wav2vec2.train(), torch.randn(3, SECOND, 32)
    mask = torch.zeros(3, SECOND, dtype=torch.long)
    for row, length in enumerate((9, 20, SECOND)):
        mask[row, :length] = 1
    np.random.seed(0)
    plain = inner._mask_hidden_states(hidden.clone(), attention_mask=mask)
    with spares_the_short(model):
        np.random.seed(0)
        found = inner._mask_hidden_states(hidden.clone(), attention_mask=mask)
        brief = inner._mask_hidden_states(hidden[:, :8].clone())
    assert torch.equal(found[:2], hidden[:2])
    assert not torch.equal(plain[1], hidden[1])  # which had little left
    assert torch.equal(found[2], plain[2])
    assert not torch.equal(found[2], hidden[2])
    assert torch.equal(brief, hidden[:, :8])
    with pytest.raises(ValueError, match="mask_length"):
        inner._mask_hidden_states(hidden[:, :8].clone())


def test_a_span_that_need_not_be_there_needs_room_all_the_same(masking: Path) -> None:
    model: Any = Wav2Vec2ForCTC.from_pretrained(masking)
    model.config.mask_time_min_masks = 0
    hidden = torch.randn(2, 8, 32)
    with spares_the_short(model):
        found = model.wav2vec2.train()._mask_hidden_states(hidden.clone())
    assert torch.equal(found, hidden)


def test_clips_of_less_than_a_fifth_of_a_second_are_learnt(masking: Path, tmp_path: Path) -> None:
    rows = [{"audio": (tone(0.15, seed=at), RATE), "text": "ab"} for at in range(4)]
    result = train(
        "speech", rows, base=str(masking), validation=False, max_steps=2, batch_size=2, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert result.run.state == "finished"
