"""Rows of token ids into padded batches, and the length that a tokenizer can serve.

Does not tokenise and does not order rows.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.recipe import Collator, Row

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label that losses skip: torch's default ignore_index."""


def check_length(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """`max_length` in sub-tokens, or what the tokenizer allows if that is less.

    Raises InvalidSettings where special tokens alone would fill it.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise InvalidSettings(
            f"max_length={max_length} leaves no room for text: the tokenizer adds {special} special tokens",
            hint=f"Set max_length above {special}, for example 128.",
        )
    return min(max_length, int(tokenizer.model_max_length))


def token_collator(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Batches with labels [rows, longest], padded with -100."""
    from transformers import DataCollatorForTokenClassification

    return cast(Collator, DataCollatorForTokenClassification(_padding(tokenizer), label_pad_token_id=IGNORED))


def text_collator(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Batches with labels [rows], or [rows, k] where every row has as many."""
    from transformers import DataCollatorWithPadding

    return cast(Collator, DataCollatorWithPadding(_padding(tokenizer)))


def contrastive_collator(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Batches of rows with `texts`: all first texts, then all second ones, then the third of rows that have one; `labels`
    [rows] count the rows."""
    import torch

    pad = text_collator(tokenizer)

    def collate(rows: list[Row]) -> dict[str, Tensor]:
        most = max(len(row["texts"]) for row in rows)
        texts = [row["texts"][at] for at in range(most) for row in rows if at < len(row["texts"])]
        return {**pad(texts), "labels": torch.arange(len(rows))}

    return collate


def completion_collator(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Batches of rows whose labels may be of another length than their tokens, and what the decoder reads beside them;
    for tokenizers without padding too."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # masked: any token will do

    def collate(rows: list[Row]) -> dict[str, Tensor]:
        tokens = [torch.tensor(row["input_ids"]) for row in rows]
        lengths = torch.tensor([len(row) for row in tokens])
        ids = pad_sequence(tokens, batch_first=True, padding_value=padding)
        labels = [torch.tensor(row["labels"]) for row in rows]
        decoded = [torch.tensor(row["decoder_input_ids"]) for row in rows if "decoder_input_ids" in row]
        read = (
            {"decoder_input_ids": pad_sequence(decoded, batch_first=True, padding_value=padding)}
            if decoded
            else {}
        )
        return {
            **read,
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }

    return collate


def _padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same, padding behind the text: labels name places of tokens, and serving has no padding before them."""
    if tokenizer.pad_token is None:
        raise InvalidSettings(
            "the base's tokenizer has no padding token, so rows of unequal length make no batch",
            hint="Choose a base with one, or set pad_token in its tokenizer_config.json.",
        )
    right = copy.copy(tokenizer)
    right.padding_side = "right"
    return right
