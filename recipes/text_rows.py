"""Texts as rows of token ids, each cut at a length, and which of them were.

Does not pad and adds no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapthub.recipes.portions import portions
from adapthub.recipes.recipe import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[list[Row], list[bool]]:
    """(a row for each text with what the tokenizer gives but the attention mask; whether the text goes on after it)."""
    rows: list[Row] = []
    cut: list[bool] = []
    for some in portions(texts, len):
        more, of_these = _rows(tokenizer, some, max_length)
        rows += more
        cut += of_these
    return rows, cut


def _rows(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int
) -> tuple[list[Row], list[bool]]:
    batch = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)
    rows: list[Row] = [{name: values[at] for name, values in batch.items()} for at in range(len(texts))]
    if batch.encodings is not None:
        return rows, [bool(encoding.overflowing) for encoding in batch.encodings]
    # A tokenizer in Python keeps nothing of what it cut off.
    room = max_length - tokenizer.num_special_tokens_to_add()
    return rows, [
        len(row["input_ids"]) == max_length and len(tokenizer.tokenize(text)) > room
        for row, text in zip(rows, texts, strict=True)
    ]
