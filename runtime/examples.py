"""Feedback as examples that a recipe trains on: the user's correction, or an answer that was called good.

Gives records as `adapt train --data` reads them. Does not write files, or know recipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapthub.adapters.heads import TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from adapthub.runtime.feedback import Feedback, Logged, Rating

Example = dict[str, Any]


def examples(feedback: Iterable[Feedback], task: str) -> list[Example]:
    """The records of one task, "token-classification" or "text-classification", the last said last.

    What was only called bad says nothing of what would have been good, and is left out.
    """
    convert = {TOKEN_CLASSIFICATION: _entities, TEXT_CLASSIFICATION: _label}[task]
    found = [
        convert(one.request, one.rating)
        for one in feedback
        if one.request is not None and one.request.kind == task
    ]
    return [example for example in found if example is not None]


def preferences(feedback: Iterable[Feedback]) -> list[Example]:
    """Of answers in text: a correction is preferred to what was answered, {"prompt":, "rendered": true, "chosen":,
    "rejected":}; an answer that was only rated is good or bad, {"prompt":, "rendered": true, "completion":, "label":}.

    The prompt is as the base read it (`rendered`). A rating of 0 says nothing; one of several choices does not say of which.
    """
    found = [_preference(one.request, one.rating) for one in feedback if one.request is not None]
    return [example for example in found if example is not None]


def _preference(request: Logged, rating: Rating) -> Example | None:
    texts = request.output if isinstance(request.output, list) else []
    if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0].strip():
        return None
    prompt = {"prompt": request.input, "rendered": True}
    corrected = rating.correction
    if isinstance(corrected, str) and corrected.strip() not in ("", texts[0].strip()):
        return {**prompt, "chosen": corrected, "rejected": texts[0]}
    return {**prompt, "completion": texts[0], "label": rating.rating > 0} if rating.rating else None


def _entities(request: Logged, rating: Rating) -> Example | None:
    """{"text":, "entities": [{"start":, "end":, "label":}]}"""
    if isinstance(rating.correction, list):
        entities = rating.correction
    elif rating.rating > 0 and isinstance(request.output, list):
        entities = [_entity(found) for found in request.output]
    else:
        return None
    return {"text": request.input, "entities": entities}


def _entity(found: Mapping[str, Any]) -> Example:
    label = found.get("entity_group") or found["entity"]
    return {"start": found["start"], "end": found["end"], "label": label}


def _label(request: Logged, rating: Rating) -> Example | None:
    """{"text":, "label":}"""
    if isinstance(rating.correction, str):
        return {"text": request.input, "label": rating.correction}
    if rating.rating > 0 and request.output:
        first = request.output[0]
        scores = first if isinstance(first, list) else request.output
        return {"text": request.input, "label": max(scores, key=lambda one: one["score"])["label"]}
    return None
