"""Single-pass tasks: many texts under many adapters by name, in passes of bounded size.

Does not say what an adapter's outputs mean or how text is read (predict does), and does not generate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from adapthub.adapters.answers import LONGEST_ANSWER
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.binder import Binding
from adapthub.adapters.errors import InvalidExpression
from adapthub.adapters.heads import QUESTION_ANSWERING
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.multi_label import MULTI_LABEL, THRESHOLD
from adapthub.adapters.pooling import MEAN, POOLINGS, pooling_of
from adapthub.adapters.selections import Selection
from adapthub.adapters.tasks import Task
from adapthub.runtime.names import Adapter, Names, one_each
from adapthub.runtime.pictures import TOKENS, Picture
from adapthub.runtime.predict import (
    Reading,
    Row,
    Text,
    TokenIds,
    check_texts,
    predict_answers,
    predict_row,
    read_rows,
)
from adapthub.runtime.predictions import AnswerSpan, Prediction

# Tokens of one pass. Bounds memory; more would not be faster.
_PASS_TOKENS = 8192


@dataclass(frozen=True)
class Question:
    """One text or picture, read under its adapters, and its place among the others; `part` numbers the windows of a long
    text."""

    place: int
    part: int
    row: Row
    name: str | None
    selection: Selection
    reading: Reading

    @property
    def tokens(self) -> int:
        """How many it has, special ones included; see pictures.TOKENS for a picture."""
        ids = self.row.features.get("input_ids")
        return TOKENS if ids is None else len(ids)


@dataclass(frozen=True)
class Answer:
    """What one text, or one window of it, came to: the raw head output in float32, unpadded, and what that means."""

    question: Question
    logits: torch.Tensor

    @property
    def prediction(self) -> Prediction:
        asked = self.question
        digests = tuple(digest for _, digest in asked.selection)
        return predict_row(asked.row, self.logits, asked.reading, asked.name, digests)


def by_text(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The answers of each text, whose windows stand in a row."""
    return [list(parts) for _, parts in groupby(answers, key=lambda answer: answer.question.place)]


def prediction_of(parts: Sequence[Answer]) -> Prediction:
    """What all parts of one text mean together."""
    asked, digests = parts[0].question, tuple(digest for _, digest in parts[0].question.selection)
    if asked.reading.task != QUESTION_ANSWERING:
        return parts[0].prediction
    return Prediction(asked.name, digests, asked.reading.task, truncated=False, answers=answers_of(parts))


def answers_of(parts: Sequence[Answer], **options: Any) -> tuple[AnswerSpan, ...]:
    """As `predict_answers`, of all windows of one question."""
    rows, logits = [part.question.row for part in parts], [part.logits for part in parts]
    return predict_answers(rows, logits, parts[0].question.reading, **options)


class Predictor:
    """Answers over one adapted base, under the adapters that `names` knows. Thread-safe."""

    def __init__(self, adapted: AdaptedBase, names: Names) -> None:
        self._adapted = adapted
        self._names = names
        self._pooling = pooling_of(adapted.base.path) or MEAN

    def answer(self, texts: Sequence[Text | Picture], adapters: Adapter | Sequence[Adapter]) -> list[Answer]:
        """One answer a text, in order, or several in a row for one that is read in windows; the adapters that the names
        meant at the beginning stay until the end."""
        check_texts(texts)
        names = one_each(adapters, len(texts), "texts")
        with self._names.taken(dict.fromkeys(names)) as selections:
            digests = sorted({digest for selection in selections.values() for _, digest in selection})
            with self._names.loaded(digests):
                read = {name: self.reader(name, selection) for name, selection in selections.items()}
                questions = [
                    question
                    for place, (text, name) in enumerate(zip(texts, names, strict=True))
                    for question in read[name](text, place)
                ]
                return self.answers(questions)

    def task(self, name: str | None) -> tuple[Task | None, tuple[str, ...]]:
        """What the adapters of an expression are for, and their labels as far as their manifests name them; (None, ()) for
        the base alone. Raises InvalidExpression for adapters of unlike tasks."""
        with self._names.taken([name]) as selections:
            artifacts = [self._names.artifact(digest) for _, digest in selections[name]]
        tasks = {artifact.task for artifact in artifacts}
        if "text-generation" in tasks:
            tasks.discard(None)  # as for generation: a plain PEFT folder need not say its task
        if len(tasks) > 1:
            raise InvalidExpression(
                f"the adapters of {name!r} are for unlike tasks", hint="Sum adapters of one kind."
            )
        return next(iter(tasks), None), next((a.labels for a in artifacts if a.labels), ())

    def reader(
        self, name: str | None, selection: Selection
    ) -> Callable[[Text | TokenIds | Picture, int], list[Question]]:
        """How the adapters of an expression, which are loaded, read a text at a place: in one part or in several.

        Raises InvalidExpression.
        """
        reading = self._reading(name, selection)
        longest = self._adapted.selections.longest(selection)

        def read(text: Text | TokenIds | Picture, place: int) -> list[Question]:
            rows = read_rows(text, reading, self._adapted.base, longest, place)
            return [Question(place, part, row, name, selection, reading) for part, row in enumerate(rows)]

        return read

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """In order, of adapters that are loaded."""
        return [Answer(*pair) for pair in zip(questions, self.compute(questions), strict=True)]

    def compute(self, questions: Sequence[Question]) -> list[torch.Tensor]:
        """Raw outputs in order, of adapters that are loaded; passes of bounded size, rows of one adapter and of like length
        together."""
        order = sorted(range(len(questions)), key=lambda i: (questions[i].selection, questions[i].tokens))
        results: dict[int, torch.Tensor] = {}
        with memory_errors(
            "running a batch", "Send fewer or shorter texts, or load the base with quantize='nf4'."
        ):
            for batch in _batches(order, [question.tokens for question in questions]):
                rows = [questions[i] for i in batch]
                outputs = self._outputs([q.row.features for q in rows], [q.selection for q in rows])
                results |= dict(zip(batch, outputs, strict=True))
        return [results[i] for i in range(len(questions))]

    def _outputs(
        self, features: Sequence[Mapping[str, Any]], selections: Sequence[Selection]
    ) -> list[torch.Tensor]:
        """Of texts, or of pictures: a base reads either."""
        if "pixel_values" in features[0]:
            return self._adapted.image_logits([row["pixel_values"] for row in features], selections)
        return self._adapted.logits(features, selections)

    def _reading(self, name: str | None, selection: Selection) -> Reading:
        """How the adapters of an expression, which are loaded, read text."""
        if not selection:
            return Reading(None, (), "first", None, pooling=self._pooling)
        self._adapted.selections.task_of(selection)
        attached = self._adapted.attached
        readings = [
            _reading(self._names.artifact(digest), attached[digest], self._pooling) for _, digest in selection
        ]
        # These are of an adapter's training, and no two need choose the same ones.
        if len({replace(one, no_answer_threshold=0.0, longest_answer=0) for one in readings}) > 1:
            raise InvalidExpression(
                f"the adapters of {name!r} differ in labels or in how they read text",
                hint="Sum adapters of one kind.",
            )
        return replace(
            readings[0],
            no_answer_threshold=_threshold_of(readings, selection),
            longest_answer=max(one.longest_answer for one in readings),
        )


def _threshold_of(readings: Sequence[Reading], selection: Selection) -> float:
    """The mean of the adapters', by the size of their weights."""
    found = [reading.no_answer_threshold for reading in readings]
    if len({*found}) == 1:
        return found[0]
    weights = [abs(weight) for weight, _ in selection]
    return sum(weight * one for weight, one in zip(weights, found, strict=True)) / sum(weights)


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    tokens = _PASS_TOKENS
    for index in order:
        if tokens + lengths[index] > _PASS_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches


def _reading(artifact: Artifact, binding: Binding, pooling: str) -> Reading:
    """How an adapter reads text: its manifest says; a plain PEFT folder gets numbered labels, first sub-tokens and `pooling`
    of the base."""
    count = 0 if binding.head is None else binding.head.labels
    labels = artifact.labels or tuple(f"LABEL_{index}" for index in range(count))
    recorded = artifact.manifest.hyperparameters if artifact.manifest is not None else {}
    length = recorded.get("max_length")
    threshold = recorded.get("threshold")
    return Reading(
        task=binding.task,
        labels=labels,
        label_token="last" if recorded.get("label_token") == "last" else "first",
        max_length=_count(length),
        stride=_count(recorded.get("stride")),
        longest_answer=_count(recorded.get("longest_answer")) or LONGEST_ANSWER,
        no_answer=recorded.get("no_answer") is True,
        no_answer_threshold=_number(recorded.get("no_answer_threshold"), 0.0),
        pooling=pooling if artifact.manifest is None else _pooling(recorded.get("pooling")),
        prefixes=(_text(recorded.get("query_prefix")), _text(recorded.get("passage_prefix"))),
        threshold=_number(threshold, THRESHOLD) if recorded.get("problem_type") == MULTI_LABEL else None,
    )


def _count(recorded: object) -> int | None:
    return recorded if isinstance(recorded, int) and not isinstance(recorded, bool) else None


def _pooling(recorded: object) -> str:
    return recorded if isinstance(recorded, str) and recorded in POOLINGS else MEAN


def _text(recorded: object) -> str:
    return recorded if isinstance(recorded, str) else ""


def _number(recorded: object, default: float) -> float:
    return float(recorded) if isinstance(recorded, (int, float)) else default
