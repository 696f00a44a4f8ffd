"""What rows come to: entities, answers, scores of labels, vectors. Predicts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.pooling import MEAN, vector_of


@dataclass(frozen=True)
class Entity:
    """A named entity: `text[start:end]` of the row, its label (type), and the mean probability of its words' labels."""

    text: str
    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class AnswerSpan:
    """An answer, `context[start:end]`, and its probability; an empty text with start and end 0: there is no answer."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """What one row came to. `adapter` is as the caller named it, `digests` what it meant; both empty for the base alone.

    Token classification fills `entities`; classification of texts and pictures `scores` (a probability a label), `labels`
    (those that hold) and, where exactly one holds by training, `label` and `score`; question answering `answers`, the
    likeliest first. Adapters without a head and the base alone fill `features`, the last hidden state: [T, hidden], or
    [channels, height, width] of a picture, and `pooling`: how the states of a text become its `vector`. `truncated`: the
    text was not read to its end.
    """

    adapter: str | None
    digests: tuple[str, ...]
    task: str | None
    truncated: bool
    entities: tuple[Entity, ...] = ()
    label: str | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    answers: tuple[AnswerSpan, ...] = ()
    features: torch.Tensor | None = field(default=None, repr=False, compare=False)
    pooling: str = MEAN

    @property
    def vector(self) -> torch.Tensor:
        """Of a text that has `features` its vector of length 1, float32 [hidden]: what `/v1/embeddings` answers. Raises
        InvalidInput where it has none, or the base makes it in a way that is not computed here."""
        if self.features is None:
            raise InvalidInput("the adapter has a head, and gives no vector", hint="Use one without a head.")
        return torch.nn.functional.normalize(vector_of(self.features, self.pooling), dim=0)
