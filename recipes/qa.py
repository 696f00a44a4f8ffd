"""Extractive question answering: SQuAD's JSON, CSV, JSONL or Parquet in; the words of a context that answer, or none out.

Contexts that are too long are read in windows that overlap (adapters/answers): each is a row of training, and the best span
of all of them is the answer. Does not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.answers import (
    LONGEST_ANSWER,
    NULL,
    Window,
    best_answers,
    encode_windows,
    find_tokens,
    read_part,
)
from adapthub.adapters.errors import InvalidData, InvalidInput
from adapthub.recipes.batches import check_length, text_collator
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.questions import read_questions
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.portions import portions
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview, Rows
from adapthub.recipes.squad import answer_statistics, best_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_REASONS = {
    "learning_rate": "as in classify; F1 0.849 on entity-questions (MiniLM, 300 steps), others were not tried",
    "head_learning_rate": "a head starts from nothing, and learns faster than the adapter does",
    "max_length": "as in BERT's script for SQuAD: longer contexts are read in windows that overlap",
}
_TOO_LONG = 0.01  # of the answers, whose lengths need not be said
_STRIDE_SHARE = 3  # windows share a third: 128 of 384 tokens, as in BERT's script for SQuAD


@dataclass(frozen=True)
class EncodedWindows(Encoded):
    """Rows that are windows: `windows` holds those of each example, and the rows follow in their order."""

    windows: Sequence[Sequence[Window]] = field(default=(), repr=False)

    def select(self, places: Sequence[int]) -> EncodedWindows:
        """See Encoded.select."""
        starts = [0, *accumulate(map(len, self.windows))]
        rows = [row for at in places for row in range(starts[at], starts[at + 1])]
        return replace(self, rows=Rows(self.rows, rows), windows=[self.windows[at] for at in places])


@dataclass(frozen=True)
class QuestionAnswering:
    """The recipe `qa`. Examples hold `question`, `context` and `answers`, a list of {"text": str, "start": int}."""

    name: str = "qa"
    task: str = "question-answering"
    description: str = "the words of a text that answer a question, or that it has no answer"
    formats: tuple[str, ...] = ("SQuAD JSON", "CSV", "TSV", "JSONL", "Parquet")
    metrics: tuple[str, ...] = ("f1", "exact", "no_answer_accuracy")
    group: str = "context"

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "question_column": "the column of questions (default: question or query)",
            "context_column": "the column of contexts (default: context, passage, paragraph or text)",
            "answer_column": "the column of answers (default: answers, answer or answer_text)",
            "group_column": f"{GROUP_COLUMN}; in SQuAD's JSON title (default: contexts)",
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        """LoRA's rates are classify's: on validation data of entity-questions (MiniLM, 300 steps of 32) they reach F1 0.849;
        others were not tried, nor prefix tuning. 384 tokens: as in BERT's script for SQuAD.
        """
        if method == "prefix":
            return Defaults(1e-2, 1e-2, epochs=5, batch_size=32, max_length=384)
        return Defaults(1e-3, 5e-3, epochs=3, batch_size=32, max_length=384, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        question_column: str | None = None,
        context_column: str | None = None,
        answer_column: str | None = None,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read."""
        return read_questions(
            source,
            question=question_column,
            context=context_column,
            answers=answer_column,
            group=group_column,
            encoding=encoding,
            delimiter=delimiter,
        )

    def labels_of(self, example: Example) -> frozenset[str]:
        """Whether the question has an answer: no split loses one of the two kinds."""
        return frozenset(("answered" if example.fields["answers"] else "unanswered",))

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """None: the head says where an answer starts and where it ends."""
        if not any(example.fields["answers"] for example in train):
            raise InvalidData(
                f"{train.source}: no question has an answer", hint="Check answer_column, or give answers."
            )
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Nothing: every answer was checked against its context when it was read."""

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length and stride of windows; no_answer: whether "no answer" is one; longest_answer, in tokens."""
        length = check_length(tokenizer, max_length)
        unanswered = any(not example.fields["answers"] for example in train)
        return {
            "max_length": length,
            "stride": length // _STRIDE_SHARE,
            "no_answer": unanswered,
            "longest_answer": _longest(tokenizer, train),
        }

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> EncodedWindows:
        """A row a window, whose `labels` are the first and last token of the answer, or NULL twice where it has none.

        Of several gold answers the first is learnt. Counted as truncated: answers that no window holds whole.
        """
        every: list[list[Window]] = []
        try:
            for some in portions(dataset, _characters):
                every += encode_windows(
                    tokenizer,
                    [example.fields["question"] for example in some],
                    [example.fields["context"] for example in some],
                    [example.source for example in some],
                    max_length=settings["max_length"],
                    stride=settings["stride"],
                )
        except InvalidInput as error:
            raise InvalidData(error.message, hint="Raise max_length, or shorten the question.") from error
        rows, seen = [], 0
        for example, windows in zip(dataset, every, strict=True):
            targets = _targets(windows, example)
            seen += not example.fields["answers"] or any(target != [NULL, NULL] for target in targets)
            rows += [
                {**window.features, "labels": target} for window, target in zip(windows, targets, strict=True)
            ]
        total = len(dataset)
        return EncodedWindows(
            rows,
            supervised=seen,
            targets=total,
            truncated=total - seen,
            windows=every,
            settings=settings,
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return text_collator(tokenizer)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The mean cross-entropy of start and end, transformers' own. outputs: [B, L, 2]."""
        from transformers.loss.loss_utils import ForQuestionAnsweringLoss

        starts, ends = batch["labels"].unbind(-1)
        loss: Tensor = ForQuestionAnsweringLoss(outputs[..., 0], outputs[..., 1], starts, ends)
        return loss

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Statistics:
        """outputs[r]: [tokens, 2]. SQuAD's f1 and exact; of questions with and without an answer, where some have none."""
        best = _best(outputs, dataset, encoded)
        return answer_statistics(_gold(dataset), [text if none_by <= 0 else "" for text, none_by in best])

    def chosen(
        self, outputs: Sequence[NDArray[Any]], dataset: Dataset, encoded: Encoded
    ) -> tuple[dict[str, Any], str]:
        """no_answer_threshold: by how much "no answer" must beat the best span to be said; 0 where the validation split has
        questions of one kind alone."""
        gold = _gold(dataset)
        if not encoded.settings["no_answer"] or len(set(map(bool, gold))) < 2:
            return {}, ""
        best = _best(outputs, dataset, encoded, threshold=0.0)
        threshold = best_threshold(gold, [text for text, _ in best], [none_by for _, none_by in best])
        values = [
            answer_statistics(gold, [text if none_by <= least else "" for text, none_by in best]).values()
            for least in (0.0, threshold)
        ]
        without, with_it = (f"F1 {one['f1']:.3f}" for one in values)
        return (
            {"no_answer_threshold": threshold},
            f'no_answer_threshold: {threshold:.4g}; "no answer" is said where its score is more than that above the best'
            f" answer's, which is best on the validation split: {with_it}, and {without} at 0",
        )

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """The example's first window that holds its answer: a row for each sub-token, the answer's marked."""
        assert isinstance(encoded, EncodedWindows)
        example = dataset[index]
        first = sum(map(len, encoded.windows[:index]))
        rows = [encoded.rows[first + number] for number in range(len(encoded.windows[index]))]
        row = next((row for row in rows if row["labels"] != [NULL, NULL]), rows[0])
        start, end = row["labels"]
        ids = row["input_ids"]
        label = ("answer" if NULL < start <= at <= end else "" for at in range(len(ids)))
        return Preview.of_tokens(tokenizer, ids, example.source, example.fields["question"], label=label)


def _characters(example: Example) -> int:
    return len(example.fields["question"]) + len(example.fields["context"])


def _longest(tokenizer: PreTrainedTokenizerBase, train: Dataset) -> int:
    """Tokens that an answer may have: LONGEST_ANSWER, or what all but a hundredth of those of `train` have, if more."""
    texts = [example.fields["answers"][0]["text"] for example in train if example.fields["answers"]]
    lengths = list(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return max(LONGEST_ANSWER, int(np.quantile(lengths, 1 - _TOO_LONG, method="higher")))


def _gold(dataset: Dataset) -> list[list[str]]:
    return [[answer["text"] for answer in example.fields["answers"]] for example in dataset]


def _best(
    outputs: Sequence[NDArray[Any]], dataset: Dataset, encoded: Encoded, threshold: float | None = None
) -> list[tuple[str, float]]:
    """Each question's best span, and Answers.none_by. `threshold`: that of the encoded settings if None."""
    assert isinstance(encoded, EncodedWindows)
    settings, logits = encoded.settings, iter(outputs)
    best = []
    for example, windows in zip(dataset, encoded.windows, strict=True):
        found = best_answers(
            windows,
            [next(logits) for _ in windows],
            longest=settings.get("longest_answer", LONGEST_ANSWER),
            answerable=not settings["no_answer"],
            threshold=settings.get("no_answer_threshold", 0.0) if threshold is None else threshold,
        )
        context = example.fields["context"]
        text = context[found.spans[0].start : found.spans[0].end] if found.spans else ""
        best.append((text, found.none_by))
    return best


def _targets(windows: Sequence[Window], example: Example) -> list[list[int]]:
    """Of each window the first and last token of the answer, or NULL twice where it does not hold all of it."""
    none = [[NULL, NULL] for _ in windows]
    if not example.fields["answers"]:
        return none
    answer = example.fields["answers"][0]
    part = read_part(windows, answer["start"], answer["start"] + len(answer["text"]))
    if part is None:
        return none
    found = [find_tokens(window, *part) for window in windows]
    return [[NULL, NULL] if tokens is None else list(tokens) for tokens in found]
