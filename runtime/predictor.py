"""Single-pass tasks: many texts under many adapters by name, in passes of bounded size.

Does not say what an adapter's outputs mean or how text is read (predict does), and does not generate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.errors import InvalidExpression
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.runtime.names import Adapter, Names, one_each
from adapthub.runtime.predict import Prediction, Reading, Row, Text, check_texts, predict_row, read_text

# Tokens of one pass. Bounds memory; more would not be faster.
_PASS_TOKENS = 8192
_BASE_READING = Reading(None, (), "first", None)


@dataclass(frozen=True)
class Question:
    """One text, read under its adapters, and its place among the others."""

    place: int
    row: Row
    name: str | None
    selection: Selection
    reading: Reading


@dataclass(frozen=True)
class Answer:
    """What one text came to: the raw head output in float32, unpadded, and what that means."""

    question: Question
    logits: torch.Tensor

    @property
    def prediction(self) -> Prediction:
        asked = self.question
        digests = tuple(digest for _, digest in asked.selection)
        return predict_row(asked.row, self.logits, asked.reading, asked.name, digests)


class Predictor:
    """Answers over one adapted base, under the adapters that `names` knows. Thread-safe."""

    def __init__(self, adapted: AdaptedBase, names: Names) -> None:
        self._adapted = adapted
        self._names = names

    def answer(self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter]) -> list[Answer]:
        """One answer a text, in order; the adapters that the names meant at the beginning stay until the end."""
        check_texts(texts)
        names = one_each(adapters, len(texts), "texts")
        with self._taken(dict.fromkeys(names)) as selections:
            digests = sorted({digest for selection in selections.values() for _, digest in selection})
            with self._names.loaded(digests):
                readings = {name: self._reading(name, selection) for name, selection in selections.items()}
                questions = []
                for place, (text, name) in enumerate(zip(texts, names, strict=True)):
                    selection, reading = selections[name], readings[name]
                    longest = self._adapted.selections.longest(selection)
                    row = read_text(text, reading, self._adapted.base, longest, place)
                    questions.append(Question(place, row, name, selection, reading))
                return [Answer(*pair) for pair in zip(questions, self._run(questions), strict=True)]

    @contextmanager
    def _taken(self, names: Iterable[str | None]) -> Iterator[dict[str | None, Selection]]:
        """Within: what each name meant when this began."""
        selections: dict[str | None, Selection] = {}
        try:
            for name in names:
                selections[name] = self._names.take(name)
            yield selections
        finally:
            self._names.give_back([digest for selection in selections.values() for _, digest in selection])

    def _reading(self, name: str | None, selection: Selection) -> Reading:
        """How the adapters of an expression, which are loaded, read text."""
        if not selection:
            return _BASE_READING
        self._adapted.selections.task_of(selection)
        attached = self._adapted.attached
        readings = {_reading(self._names.artifact(digest), attached[digest].head) for _, digest in selection}
        if len(readings) > 1:
            raise InvalidExpression(
                f"the adapters of {name!r} differ in labels or in how they read text",
                hint="Sum adapters of one kind.",
            )
        return next(iter(readings))

    def _run(self, questions: Sequence[Question]) -> list[torch.Tensor]:
        """Logits in order; passes of bounded size, rows of one adapter and of like length together."""
        order = sorted(
            questions, key=lambda question: (question.selection, len(question.row.features["input_ids"]))
        )
        results: dict[int, torch.Tensor] = {}
        with memory_errors(
            "running a batch", "Send fewer or shorter texts, or load the base with quantize='nf4'."
        ):
            for batch in _batches(order):
                outputs = self._adapted.logits([q.row.features for q in batch], [q.selection for q in batch])
                results |= {question.place: output for question, output in zip(batch, outputs, strict=True)}
        return [results[place] for place in range(len(questions))]


def _batches(questions: Sequence[Question]) -> list[list[Question]]:
    batches: list[list[Question]] = []
    tokens = _PASS_TOKENS
    for question in questions:
        length = len(question.row.features["input_ids"])
        if tokens + length > _PASS_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(question)
        tokens += length
    return batches


def _reading(artifact: Artifact, head: object) -> Reading:
    """How an adapter reads text: its manifest says; a plain PEFT folder gets numbered labels and first sub-tokens."""
    count = getattr(head, "labels", 0)
    labels = artifact.labels or tuple(f"LABEL_{index}" for index in range(count))
    recorded = artifact.manifest.hyperparameters if artifact.manifest is not None else {}
    length = recorded.get("max_length")
    return Reading(
        task=artifact.task,
        labels=labels,
        label_token="last" if recorded.get("label_token") == "last" else "first",
        max_length=length if isinstance(length, int) else None,
    )
