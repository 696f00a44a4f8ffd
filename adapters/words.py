"""Text as words, and words as sub-tokens: one alignment for training, evaluation and serving of token labels.

A word is labelled through one of its sub-tokens, the first or the last (`label_token`, chosen from the
training data and recorded with the adapter). Does not know labels, does not run models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import regex

from adapthub.adapters.errors import InvalidSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LabelToken = Literal["first", "last"]

# One word: a Chinese, Japanese or Korean character; a run of letters and digits; or one other visible sign.
# Marks belong to letters: Python's own \w would cut Hindi and decomposed accents apart.
_CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_WORD = regex.compile(rf"{_CJK}|[[\p{{L}}\p{{M}}\p{{N}}_]--{_CJK}]+|[^\s\x1c-\x1f]", regex.V1)
_MARKERS = "\u2581\u0120 "  # SentencePiece's and byte-level BPE's mark of a space before a word
_SAMPLED_ROWS = 1000
_BARE_SHARE = 0.1


@dataclass(frozen=True)
class EncodedWords:
    """One row of words as the model sees it.

    `features`: the tokenizer's output without attention_mask ({"input_ids": [...], ...}), special tokens
    included.
    `positions[i]`: index of the sub-token that carries word i, or -1 if the word was cut off or has no
    sub-token.
    `truncated`: the row was cut at max_length.
    """

    features: dict[str, list[int]]
    positions: list[int]
    truncated: bool


def split_words(text: str) -> list[tuple[int, int]]:
    """Words of a raw text as character spans [start, end); served texts and span annotations share it."""
    return [match.span() for match in _WORD.finditer(text)]


def encode_words(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[str]],
    *,
    label_token: LabelToken,
    max_length: int | None = None,
) -> list[EncodedWords]:
    """Tokenise rows of words. Raises InvalidSettings for a tokenizer that does not track words."""
    _require_fast(tokenizer)
    if not rows:
        return []
    if _glues_words(tokenizer):
        rows = [[*words[:1], *(f" {word}" for word in words[1:])] for words in rows]
    batch = tokenizer(
        [list(words) for words in rows],
        is_split_into_words=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
    )
    encoded = []
    for index, words in enumerate(rows):
        positions = [-1] * len(words)
        for position, word in enumerate(batch.word_ids(index)):
            if word is not None and (label_token == "last" or positions[word] < 0):
                positions[word] = position
        features = {name: values[index] for name, values in batch.items()}
        encoded.append(EncodedWords(features, positions, bool(batch.encodings[index].overflowing)))
    return encoded


def choose_label_token(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[str]]) -> LabelToken:
    """The first, unless the tokenizer starts more than a tenth of these words with a bare space marker.

    SentencePiece vocabularies turn a pre-split Chinese word into a lone marker and the word; a label on the
    marker trains poorly. Looks at the first 1,000 rows. Raises InvalidSettings as encode_words does.
    """
    _require_fast(tokenizer)
    sample = list(islice(rows, _SAMPLED_ROWS))
    words = bare = 0
    for encoded, row in zip(encode_words(tokenizer, sample, label_token="first"), sample, strict=True):
        surfaces = tokenizer.convert_ids_to_tokens(
            [encoded.features["input_ids"][p] for p in encoded.positions if p >= 0]
        )
        words += len(row)
        bare += sum(not surface.strip(_MARKERS) for surface in surfaces)
    return "last" if bare > _BARE_SHARE * words else "first"


def _require_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise InvalidSettings(
            f"{type(tokenizer).__name__} cannot tell which word a sub-token belongs to",
            hint="Token labels need a base whose tokenizer has a tokenizer.json (a fast tokenizer).",
        )


def _glues_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether pre-split words are read as one unbroken string (byte-level BPE without add_prefix_space)."""
    ids = tokenizer(["a", "b"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    return "".join(tokenizer.convert_ids_to_tokens(ids)) == "ab"
