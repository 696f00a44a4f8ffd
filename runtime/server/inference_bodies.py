"""Hugging Face's Inference API, tasks of a single pass: what clients send for each, as `huggingface_hub.InferenceClient`
does. Does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.server.predicting import MOST_TEXTS

MOST_ANSWERS = 100

Body = TypeVar("Body", bound=BaseModel)


class Strict(BaseModel):
    """No field that is not named, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Several = Annotated[list[str], Field(max_length=MOST_TEXTS, fail_fast=True)]
Texts = Annotated[
    Annotated[str, Tag("text")] | Annotated[_Several, Tag("texts")],
    Discriminator(lambda value: "texts" if isinstance(value, list) else "text"),
]


class _TokenParameters(Strict):
    aggregation_strategy: Literal["none", "simple", "first"] = "simple"
    ignore_labels: list[str] = ["O"]


class TokenBody(Strict):
    inputs: Texts
    parameters: _TokenParameters = _TokenParameters()


class TextParameters(Strict):
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None


class TextBody(Strict):
    inputs: Texts
    parameters: TextParameters = TextParameters()


class PictureBody(Strict):
    inputs: str  # base64
    parameters: TextParameters = TextParameters()


class _ZeroShotParameters(Strict):
    candidate_labels: Annotated[_Several, Field(min_length=1)]
    hypothesis_template: Annotated[str, Field(max_length=1024)] = "This example is {}."
    multi_label: bool = False


class ZeroShotBody(Strict):
    inputs: str
    parameters: _ZeroShotParameters


class _Asked(Strict):
    question: str
    context: str


class _QuestionParameters(Strict):
    top_k: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    max_answer_len: Annotated[int, Field(ge=1)] | None = None
    handle_impossible_answer: bool | None = None


class QuestionBody(Strict):
    inputs: _Asked
    parameters: _QuestionParameters = _QuestionParameters()


class FeaturesBody(Strict):
    inputs: Texts
    prompt_name: Literal["query", "passage"] = "query"
    normalize: bool = True
    truncate: bool = False
    truncation_direction: Literal["right"] = "right"
    dimensions: int | None = None
    encoding_format: Literal["float"] = "float"


class _Sentences(Strict):
    source_sentence: str
    sentences: Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS - 1, fail_fast=True)]


class _SpeechParameters(Strict):
    language: str | None = None
    return_timestamps: Literal[False] = False


class SpeechBody(Strict):
    inputs: str
    parameters: _SpeechParameters = _SpeechParameters()


class SimilarityBody(Strict):
    inputs: _Sentences
    parameters: Annotated[dict[str, Any], Field(max_length=0)] = {}


def parsed(model: type[Body], body: Mapping[str, Any]) -> Body:
    """`body` as `model` has it. Raises InvalidInput, naming the field that is unknown, missing or of the wrong kind."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InvalidInput(f"{where!r} is not taken here", hint="Leave it out.") from None
        raise InvalidInput(f"{where}: {first['msg']}") from None
