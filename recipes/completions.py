"""A prompt and the text that shall follow it, as a language model trains on them: the prompt is read, the target is learnt.

One row holds both, and only the target's tokens and the end are asked for. A causal base reads them as one text; of an
encoder-decoder the encoder reads the prompt, and the decoder the target. Does not read data, know a task's words, or
generate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import nlargest
from typing import TYPE_CHECKING

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.conversations import Conversation, turn_end
from adapthub.recipes.portions import portions
from adapthub.recipes.recipe import Encoded, Preview, Row
from adapthub.runtime.chat_templates import BASE, token_id
from adapthub.runtime.instructions import all_prompt_ids, all_read_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapthub.recipes.data.dataset import Dataset, Example

_READ_TARGETS, _MEASURED_TARGETS = 10_000, 100
_LEAST_TOKENS = 16
"""Of new tokens that are allowed at least: the longest target seen may be a word."""


def answer_end(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """As settings record it, the token that ends an answer to `prompt_ids`: `turn_end` is what the base's chat template ends
    the assistant's turns with, which need not be the tokenizer's end. Empty where no template tells."""
    if tokenizer.chat_template is None:
        return {}
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        return {"turn_end": turn_end(tokenizer, BASE, Conversation(talk, (), "the base"))}
    except (InvalidData, InvalidSettings):  # its turns have no end of their own
        return {}


def target_ids(tokenizer: PreTrainedTokenizerBase, target: str, end: str | None = None) -> list[int]:
    """The tokens of a target, and `end`, by default the tokenizer's."""
    return _all_target_ids(tokenizer, [target], end)[0]


def longest_target(
    tokenizer: PreTrainedTokenizerBase, train: Dataset, target: Callable[[Example], str]
) -> int:
    """New tokens that an answer may have: half as many again as the longest `target` of `train`. If there are many, of the
    longest in characters of some that are spread over it."""
    spread = train.select(range(0, len(train), math.ceil(len(train) / _READ_TARGETS)))
    texts = nlargest(_MEASURED_TARGETS, map(target, spread), key=len)
    longest = max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return max(_LEAST_TOKENS, longest * 3 // 2)


def encode_completions(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    max_length: int,
    end: str | None = None,
) -> Encoded:
    """Rows for a causal base; `end` as for `target_ids`. What is longer than `max_length` tokens is cut at the end, and
    counted."""
    rows: list[Row] = []
    asked = supervised = truncated = 0
    read = _by_some(partial(all_prompt_ids, tokenizer), prompts)
    written = _by_some(partial(_all_target_ids, tokenizer, end=end), targets)
    for before, after in zip(read, written, strict=True):
        row: Row = {
            "input_ids": (before + after)[:max_length],
            "labels": ([IGNORED] * len(before) + after)[:max_length],
        }
        rows.append(row)
        asked += len(after)
        supervised += sum(label != IGNORED for label in row["labels"])
        truncated += len(before) + len(after) > max_length
    return Encoded(rows, supervised, asked, truncated)


def encode_sequences(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    max_length: int,
    start: int,
) -> Encoded:
    """Rows for an encoder-decoder, whose decoder begins with the token `start`. Prompts and targets of more than
    `max_length` tokens each are cut, and counted: a prompt before its end token, a target with it, as it goes on."""
    rows: list[Row] = []
    asked = supervised = truncated = 0
    read = _by_some(partial(all_read_ids, tokenizer), prompts)
    written = _by_some(partial(_all_written_ids, tokenizer), targets)
    for prompt, before, after in zip(prompts, read, written, strict=True):
        cut = before if len(before) <= max_length else all_read_ids(tokenizer, [prompt], max_length)[0]
        labels = after[:max_length]
        rows.append({"input_ids": cut, "decoder_input_ids": [start, *labels[:-1]], "labels": labels})
        asked += len(after)
        supervised += len(labels)
        truncated += max(len(before), len(after)) > max_length
    return Encoded(rows, supervised, asked, truncated)


def preview_completion(tokenizer: PreTrainedTokenizerBase, source: str, text: str, row: Row) -> Preview:
    """One row a token: its text, and whether it is learnt."""
    ids, labels = row["input_ids"], row["labels"]
    if "decoder_input_ids" in row:
        ids, labels = [*ids, *labels], [*(IGNORED for _ in ids), *labels]
    loss = ("learnt" if label != IGNORED else "" for label in labels)
    return Preview.of_tokens(tokenizer, ids, source, text, loss=loss)


def _by_some(tokens: Callable[[Sequence[str]], list[list[int]]], texts: Sequence[str]) -> Iterator[list[int]]:
    """The `tokens` of each text."""
    for some in portions(texts, len):
        yield from tokens(some)


def _all_target_ids(
    tokenizer: PreTrainedTokenizerBase, targets: Sequence[str], end: str | None
) -> list[list[int]]:
    last = _end(tokenizer) if end is None else token_id(tokenizer, end)
    return [[*ids, last] for ids in tokenizer([*targets], add_special_tokens=False)["input_ids"]]


def _all_written_ids(tokenizer: PreTrainedTokenizerBase, targets: Sequence[str]) -> list[list[int]]:
    """The tokens of targets as the decoder's family has them, and the end."""
    last = _end(tokenizer)
    found = tokenizer(text_target=[*targets])["input_ids"]
    return [ids if ids and ids[-1] == last else [*ids, last] for ids in found]


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InvalidSettings(
            "the base's tokenizer has no end token, so no answer would end",
            hint="Choose a base with one, or set eos_token in its tokenizer_config.json.",
        )
    return end
