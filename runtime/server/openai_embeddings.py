"""OpenAI's embeddings: the base's or an adapter's last hidden states, pooled as they are trained to be, of length 1.

Texts are read with the base's special tokens, token ids as they are. Does not shorten vectors (`dimensions`): no model here
was trained for it.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.predict import Passage, TokenIds
from adapthub.runtime.server.catalog import NO_USER
from adapthub.runtime.server.dependencies import TheCaller, TheRequestId, TheServing
from adapthub.runtime.server.disconnects import while_connected
from adapthub.runtime.server.pooling import has_features, pooled
from adapthub.runtime.server.predicting import Predicted, predict
from adapthub.runtime.server.versions import versioned

router = APIRouter(prefix="/v1", tags=["embeddings"])

_MOST = 2048  # inputs of one request, as OpenAI


def _form(value: object) -> str:
    """Which of the forms of an input this is meant to be: errors then speak of that form alone."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    return "tokens" if isinstance(first, int) else "token_lists" if isinstance(first, list) else "texts"


_Tokens = Annotated[list[int], Field(min_length=1, fail_fast=True)]
_Input = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=_MOST, fail_fast=True), Tag("texts")]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[list[_Tokens], Field(min_length=1, max_length=_MOST, fail_fast=True), Tag("token_lists")],
    Discriminator(_form),
]


class EmbeddingRequest(BaseModel):
    """What to embed. `user`: whom for; vectors for one user, or for nobody, come from one side of a canary.

    `input_type`, which OpenAI does not have: whether texts ask, or are passages that shall be found; adapters for retrieval
    may read these otherwise.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    input: _Input
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    input_type: Literal["query", "passage"] = "query"


@router.post("/embeddings", response_class=JSONResponse)
async def embeddings(
    body: EmbeddingRequest, request: Request, serving: TheServing, caller: TheCaller, id: TheRequestId
) -> Response:
    """A vector for every text."""
    hidden = serving.runtime.base.model.config.get_text_config().hidden_size
    if body.dimensions not in (None, hidden):
        raise InvalidInput(
            f"dimensions = {body.dimensions}",
            hint=f"This model's vectors have {hidden} and are not shortened.",
        )
    async with serving.catalog.admitted(body.model, caller, body.user or NO_USER) as target:
        predicted = await while_connected(
            request, predict(serving, caller, target, "embedding", _texts(body), id=id, check=has_features)
        )
    return versioned(await asyncio.to_thread(_answer, body, predicted), target)


def _texts(body: EmbeddingRequest) -> list[str | Passage | TokenIds]:
    given = body.input
    if isinstance(given, list) and isinstance(given[0], int):
        return [TokenIds(tuple(given))]
    listed = [given] if isinstance(given, str) else given
    read = Passage if body.input_type == "passage" else str
    return [read(text) if isinstance(text, str) else TokenIds(tuple(text)) for text in listed]


def _answer(body: EmbeddingRequest, predicted: Predicted) -> Response:
    """Written on a thread: many vectors take a while."""
    vectors = pooled(predicted)
    encoded: list[Any]
    if body.encoding_format == "base64":
        encoded = [base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        encoded = vectors.tolist()
    content = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(encoded)
        ],
        "model": body.model,
        "usage": {"prompt_tokens": predicted.tokens, "total_tokens": predicted.tokens},
    }
    return JSONResponse(content)
