"""Metrics of transcripts, as sums of counts an utterance: word and character error rates by jiwer, and the loss.

WER and CER are edits over the reference's words and characters (jiwer, by rapidfuzz), so a resample of utterances is one
addition. Both are of the texts as they are written, and again ("/normalised") after Whisper's normaliser for any language
(Radford et al. 2022, appendix C): lower case, without punctuation, symbols and what stands in brackets. Lower is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.recipes.metrics import Statistics
from adapthub.recipes.text_metrics import at_places, loss_counts, mean_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_RATES = ("wer", "cer", "wer/normalised", "cer/normalised")


def speech_statistics(
    texts: Sequence[str],
    references: Sequence[str],
    losses: Sequence[NDArray[Any]],
    answered: Sequence[int] | None = None,
) -> Statistics:
    """wer, cer, wer/normalised and cer/normalised as shares, which may exceed 1, of the texts at the places `answered`, all
    of them if None, and not there where they are none; and loss in nats a target."""
    places = range(len(texts)) if answered is None else answered
    if not places:
        return Statistics(loss_counts(losses), lambda sums: {"loss": mean_loss(sums)})
    normalise = _normaliser()
    rows = []
    for at in places:
        said, text = references[at], texts[at]
        rows.append([1, *_edits(said, text), *_edits(normalise(said), normalise(text))])
    counts = [loss_counts(losses), at_places(places, np.array(rows, dtype=np.float64), len(texts))]
    edge = counts[0].shape[1]

    def summarise(sums: Floats) -> dict[str, Floats]:
        loss, written, edits = sums[..., :edge], sums[..., edge], sums[..., edge + 1 :]
        rates = {
            name: np.where(written > 0, edits[..., 2 * at] / np.maximum(edits[..., 2 * at + 1], 1), np.nan)
            for at, name in enumerate(_RATES)
        }
        return {**rates, "loss": mean_loss(loss)}

    return Statistics(np.concatenate(counts, axis=1), summarise, dict.fromkeys(_RATES, len(places)))


def _edits(said: str, text: str) -> tuple[int, int, int, int]:
    """Edits and length in words, then in characters."""
    import jiwer

    if not said.split():  # jiwer refuses an empty reference: whatever was written is too much
        return len(text.split()), 0, len(text), 0
    words, characters = jiwer.process_words(said, text), jiwer.process_characters(said, text)
    return (
        words.substitutions + words.deletions + words.insertions,
        words.substitutions + words.deletions + words.hits,
        characters.substitutions + characters.deletions + characters.insertions,
        characters.substitutions + characters.deletions + characters.hits,
    )


def _normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalise: Any = BasicTextNormalizer
    made = normalise()
    return lambda text: str(made(text)).strip()
