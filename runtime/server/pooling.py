"""One vector a text, out of its last hidden states as its base or its adapter pools them (adapters/pooling).

Does not run anything, and knows no API.
"""

from __future__ import annotations

import torch

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.heads import TASKS_WITH_HEADS
from adapthub.adapters.pooling import check_pooling, vector_of
from adapthub.runtime.predictor import Question
from adapthub.runtime.server.predicting import Predicted


def has_features(question: Question, *, whole: bool = True) -> None:
    """Raises InvalidInput for a text under adapters with a head, which give no features, for one whose vector is made in a
    way that is not computed here, and where `whole`, for one that is longer than the model reads."""
    task = question.reading.task
    if task in TASKS_WITH_HEADS:
        raise InvalidInput(
            f"the model has a head for {task} and gives no features",
            hint="Use the base model, or an adapter without a head.",
        )
    check_pooling(question.reading.pooling)
    if whole and question.row.truncated:
        raise InvalidInput(
            f"input {question.place} is longer than the {question.tokens:,} tokens that the model reads",
            hint="Shorten or split it.",
        )


def pooled(predicted: Predicted, *, normalise: bool = True) -> torch.Tensor:
    """A float32 vector [texts, hidden] of every text; of length 1 where `normalise`."""
    vectors = torch.stack(
        [vector_of(answer.logits, answer.question.reading.pooling) for answer in predicted.answers]
    )
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors
