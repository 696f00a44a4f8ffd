"""Feedback over HTTP: a tenant rates an answer that it was given.

Does not keep anything (feedback_log).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.feedback import Logged, Rating
from adapthub.runtime.server.dependencies import TheCaller, TheServing

router = APIRouter(prefix="/v1", tags=["feedback"])
_WORDS = {"up": 1.0, "down": -1.0}


class Entity(BaseModel):
    """Characters from `start` to before `end`, from 0."""

    model_config = ConfigDict(extra="forbid")

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    label: Annotated[str, Field(min_length=1, max_length=200)]


class Said(BaseModel):
    """`rating`: "up", "down", or a number from -1 to 1. `correction`: what the answer should have been: a text, a label, or
    all entities of the text."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    rating: Literal["up", "down"] | Annotated[float, Field(ge=-1, le=1, strict=True)]
    correction: (
        Annotated[str, Field(max_length=100_000)] | Annotated[list[Entity], Field(max_length=10_000)] | None
    ) = None
    comment: Annotated[str, Field(max_length=10_000)] | None = None


@router.post("/feedback", responses={404: {"description": "No request of this caller's, or too long ago."}})
async def feedback(said: Said, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Rate an answer by its id. `kept` says what was kept: without the log of requests the rating alone."""
    request_id = said.request_id.rpartition("-")[2]  # "chatcmpl-" and the like are for clients
    correction: Any = said.correction
    if isinstance(correction, list):
        correction = [entity.model_dump() for entity in correction]
    rating = _WORDS[said.rating] if isinstance(said.rating, str) else said.rating
    given = Rating(request_id, caller.tenant, rating, correction, said.comment)
    request = await serving.feedback.rate(given, _check)
    return {
        "object": "feedback",
        "request_id": said.request_id,
        "rating": rating,
        "kept": "everything" if request is not None and serving.feedback.logging else "rating",
    }


def _check(request: Logged, rating: Rating) -> None:
    """Raises InvalidInput for entities that are outside the text that they are of."""
    if not isinstance(rating.correction, list):
        return
    for entity in rating.correction:
        if not entity["start"] < entity["end"] <= len(request.input):
            raise InvalidInput(
                f"correction: {entity['start']} to {entity['end']} is nothing in a text of {len(request.input)} characters",
                hint="Entities count characters from 0, end exclusive.",
            )
