"""Texts as rows of token ids, each cut at a length, and which of them were.

Does not pad and adds no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapthub.recipes.recipe import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[list[Row], list[bool]]:
    """(a row for each text with what the tokenizer gives but the attention mask; whether the text goes on after it)."""
    batch = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)
    rows: list[Row] = [{name: values[at] for name, values in batch.items()} for at in range(len(texts))]
    if batch.encodings is not None:
        return rows, [bool(encoding.overflowing) for encoding in batch.encodings]
    # A tokenizer in Python keeps nothing of what it cut off.
    room = max_length - tokenizer.num_special_tokens_to_add()
    return rows, [
        len(row["input_ids"]) == max_length and len(tokenizer.tokenize(text)) > room
        for row, text in zip(rows, texts, strict=True)
    ]
