"""Judged answers as a language model reads them: a prompt with one answer, and the same prompt with another.

Written by a chat template as `chat` learns and serves conversations, or without one; only answers are asked for, with what
ends them. Does not read data or know objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.batches import IGNORED, completion_collator
from adapthub.recipes.completions import target_ids
from adapthub.recipes.conversations import Conversation, encode_conversations
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.preferences import is_pair
from adapthub.recipes.recipe import Collator, Encoded, Row
from adapthub.runtime.chat_templates import CHATML
from adapthub.runtime.instructions import plain_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sequences = tuple[Row, Row]


class AnswerRows(list[Row]):
    """Rows of two sequences each: `input_ids` and `labels` of the first, `other_input_ids` and `other_labels`.

    A pair's are the chosen and the rejected answer. Of a judged answer the other is one to another prompt, by which KTO
    estimates what answers gain whatever they say; `good` is its judgement, bool.
    """

    @property
    def lengths(self) -> list[int]:
        """Tokens of both sequences."""
        return [len(row["input_ids"]) + len(row["other_input_ids"]) for row in self]


def sequences(row: Row) -> Sequences:
    """Both sequences of a row, each as {"input_ids": ..., "labels": ...}."""
    first, other = (
        {name: row[prefix + name] for name in ("input_ids", "labels")} for prefix in ("", "other_")
    )
    return first, other


def asked(sequence: Row) -> int:
    """How many tokens of a sequence count."""
    return sum(label != IGNORED for label in sequence["labels"])


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, dataset: Dataset, settings: Mapping[str, Any]
) -> Encoded:
    """Rows of at most max_length tokens. Of longer ones an answer is cut at its end, but to no less than half of them, and a
    prompt at its beginning: no row is without an answer. They are counted."""
    longest = settings["max_length"]
    names = ("chosen", "rejected") if is_pair(dataset[0]) else ("answer",)
    asked_for = [(example, name) for example in dataset for name in names]
    written = list(_written(tokenizer, asked_for, settings))
    prompts = [prompt for prompt, _ in written[:: len(names)]]
    if is_pair(dataset[0]):
        answers = [(one[1], other[1]) for one, other in zip(written[::2], written[1::2], strict=True)]
    else:
        single = [answer for _, answer in written]
        answers = [(single[at], single[other]) for at, other in enumerate(_mismatched(prompts, single))]
    rows = AnswerRows()
    targets = supervised = truncated = 0
    for example, prompt, pair in zip(dataset, prompts, answers, strict=True):
        kept = prompt[-max(longest - max(map(len, pair)), longest - longest // 2) :]
        first, other = (_sequence(kept, answer, longest) for answer in pair)
        row = {**first, **{f"other_{name}": ids for name, ids in other.items()}}
        judged = () if is_pair(example) else (("good", example.fields["good"]),)
        rows.append({**row, **dict(judged)})
        count = 1 if judged else 2  # the answer to another prompt is no target of its own
        targets += sum(map(len, pair[:count]))
        supervised += sum(map(asked, (first, other)[:count]))
        truncated += max(len(prompt) + len(answer) for answer in pair[:count]) > longest
    return Encoded(rows, supervised, targets, truncated, settings=settings)


def answer_collator(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Batches [2 * rows, longest]: the first sequence of every row, then the other of every row."""
    collate = completion_collator(tokenizer)
    return lambda rows: collate([sequences(row)[part] for part in (0, 1) for row in rows])


def _written(
    tokenizer: PreTrainedTokenizerBase,
    asked_for: Sequence[tuple[Example, str]],
    settings: Mapping[str, Any],
) -> Iterator[tuple[list[int], list[int]]]:
    """The tokens of the prompt and of the answer of each example and name of an answer in it."""
    template, end = settings.get("template"), settings.get("turn_end")
    if template is None or end is None:
        for example, name in asked_for:
            yield _plain_prompt(tokenizer, example), target_ids(tokenizer, example.fields[name])
        return
    talks = [
        Conversation([*map(_unlearnt, example.fields["prompt"]), _answer(example, name)], (), example.source)
        for example, name in asked_for
        if not _is_rendered(example)
    ]
    turns = encode_conversations(tokenizer, template, end, talks)
    for example, name in asked_for:
        if _is_rendered(example):
            yield _plain_prompt(tokenizer, example), target_ids(tokenizer, example.fields[name], end)
        else:
            found = next(turns)
            first, stop = found.learnt[-1]
            yield found.ids[:first], found.ids[first:stop]


def _answer(example: Example, name: str) -> dict[str, Any]:
    return {"role": "assistant", "content": example.fields[name]}


def _unlearnt(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "train": False} if message["role"] == "assistant" else dict(message)


def _is_rendered(example: Example) -> bool:
    return bool(example.fields.get("rendered"))


def _plain_prompt(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[int]:
    """A prompt without a template. Raises InvalidSettings for a conversation, which the base cannot be told."""
    messages = example.fields["prompt"]
    if _is_rendered(example):
        return list(tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"])
    if len(messages) > 1:
        raise InvalidSettings(
            f"{example.source}: the prompt is a conversation, and the base has no chat template to write it by",
            hint=f"Set template={CHATML}, or choose a base with a template.",
        )
    return plain_ids(tokenizer, messages[0]["content"])


def _sequence(prompt: list[int], answer: list[int], longest: int) -> Row:
    return {
        "input_ids": (prompt + answer)[:longest],
        "labels": ([IGNORED] * len(prompt) + answer)[:longest],
    }


def _mismatched(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[int]:
    """For each answer the place of the next longer one to another prompt: of a batch of similar lengths these are about
    the same answers as its own, as KTO's estimate wants it."""
    order = sorted(range(len(answers)), key=lambda at: len(prompts[at]) + len(answers[at]))
    found = [0] * len(order)
    for place, at in enumerate(order):
        later = (*order[place + 1 :], *order[: place + 1])
        found[at] = next((other for other in later if prompts[other] != prompts[at]), later[0])
    return found
