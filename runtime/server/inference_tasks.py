"""Hugging Face's Inference API, tasks of a single pass: what each answers.

The shapes are those that `huggingface_hub.InferenceClient` reads. Does not route, find models, read bodies
(inference_bodies), or generate.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from fastapi import Response
from fastapi.responses import JSONResponse

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.heads import QUESTION_ANSWERING, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH
from adapthub.runtime.feedback import Logged
from adapthub.runtime.pictures import Picture
from adapthub.runtime.predict import Pair, Passage, Text, word_labels
from adapthub.runtime.predictor import Answer, Question, answers_of
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.inference_bodies import (
    FeaturesBody,
    PictureBody,
    QuestionBody,
    SimilarityBody,
    SpeechBody,
    TextBody,
    TextParameters,
    TokenBody,
    ZeroShotBody,
    parsed,
)
from adapthub.runtime.server.pooling import has_features, pooled
from adapthub.runtime.server.predicting import Predicted, predict
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.transcribing import transcribe
from adapthub.runtime.tenants.caller import Caller

ZERO_SHOT = "zero-shot-classification"
FEATURES = "feature-extraction"
SIMILARITY = "sentence-similarity"


@dataclass(frozen=True)
class Asked:
    """One request: who asks what of which model; `body` is the whole JSON object, `content` the body where it is a recording
    or a picture and no JSON; `id` names the request."""

    id: str
    serving: Serving
    caller: Caller
    target: Target
    body: Mapping[str, Any]
    content: bytes | None = None


Made = TypeVar("Made")


async def token_classification(asked: Asked) -> Response:
    """Entities, or with "none" every word's label: `word`, `start`, `end` (in characters) and `score`.

    "simple" and "first" are one here: a word's label is that of one of its sub-tokens, the one it was trained on.
    """
    body = parsed(TokenBody, asked.body)
    predicted = await _predict(asked, TOKEN_CLASSIFICATION, _listed(body.inputs))
    grouped = body.parameters.aggregation_strategy != "none"
    ignored = body.parameters.ignore_labels
    entities = _groups if grouped else _words
    several = isinstance(body.inputs, list)

    def made() -> list[Any]:
        found = [entities(answer, ignored) for answer in predicted.answers]
        return found if several else found[0]

    found, response = await _written(predicted, made)
    if grouped and isinstance(body.inputs, str):
        labels = predicted.answers[0].question.reading.labels
        kinds = [label.partition("-")[2] for label in labels]  # of entities, as they are answered
        _log(asked, TOKEN_CLASSIFICATION, body.inputs, found, (*labels, *filter(None, kinds)))
    return response


async def text_classification(asked: Asked) -> Response:
    """Labels with scores, the highest first; a list for each text."""
    body = parsed(TextBody, asked.body)
    predicted = await _predict(asked, TEXT_CLASSIFICATION, _listed(body.inputs))
    found, response = await _written(
        predicted, lambda: [_scores(answer, body.parameters) for answer in predicted.answers]
    )
    reading = predicted.answers[0].question.reading
    # What is logged becomes examples of one label a text: of several at once they would say what nobody said.
    if isinstance(body.inputs, str) and reading.threshold is None:
        _log(asked, TEXT_CLASSIFICATION, body.inputs, found[0], reading.labels)
    return response


async def image_classification(asked: Asked) -> Response:
    """Labels with scores, the highest first, of a picture: the body itself, or base64 in a JSON object's `inputs`."""
    picture, parameters = asked.content, TextParameters()
    if picture is None:
        body = parsed(PictureBody, asked.body)
        parameters = body.parameters
        try:
            picture = await asyncio.to_thread(base64.b64decode, body.inputs, validate=True)
        except ValueError:
            raise InvalidInput("inputs is not base64", hint="Send a picture's bytes in base64.") from None
    predicted = await _predict(asked, IMAGE_CLASSIFICATION, [Picture(picture)])
    _, response = await _written(predicted, lambda: _scores(predicted.answers[0], parameters))
    return response


async def zero_shot_classification(asked: Asked) -> Response:
    """Labels that the adapter was not trained on: how far the text entails a sentence with each."""
    body = parsed(ZeroShotBody, asked.body)
    labels, template = body.parameters.candidate_labels, body.parameters.hypothesis_template
    if template.count("{}") != 1:
        raise InvalidInput(
            f"hypothesis_template is {template!r}", hint="Write {} once, where the label goes."
        )
    pairs = [Pair(body.inputs, template.replace("{}", label)) for label in labels]
    predicted = await _predict(asked, ZERO_SHOT, pairs)
    entails = entailment(predicted.answers[0].question.reading.labels)
    assert entails is not None, "the adapter has the task"

    def made() -> list[dict[str, Any]]:
        logits = torch.stack([answer.logits for answer in predicted.answers])
        if body.parameters.multi_label or len(labels) == 1:
            # As in transformers' pipeline: against contradiction alone, which is the first label or the last.
            scores = logits[:, [-1 if entails == 0 else 0, entails]].softmax(-1)[:, 1]
        else:
            scores = logits[:, entails].softmax(0)
        return _sorted(labels, scores)

    _, response = await _written(predicted, made)
    return response


async def question_answering(asked: Asked) -> Response:
    """The likeliest answer, or with `top_k` above 1 a list, in characters of the context; an empty one where there is none,
    if the adapter was trained on such questions or `handle_impossible_answer` asks for it."""
    body = parsed(QuestionBody, asked.body)
    predicted = await _predict(asked, QUESTION_ANSWERING, [Pair(body.inputs.question, body.inputs.context)])
    top = body.parameters.top_k or 1

    def made() -> Any:
        found = answers_of(
            predicted.answers,
            top=top,
            longest=body.parameters.max_answer_len,
            no_answer=body.parameters.handle_impossible_answer,
        )
        spans = [
            {"answer": span.text, "start": span.start, "end": span.end, "score": span.score} for span in found
        ]
        return spans if top > 1 else spans[0]

    _, response = await _written(predicted, made)
    return response


async def automatic_speech_recognition(asked: Asked) -> Response:
    """The text of a recording: the body's bytes, or in JSON by base64."""
    recording, language = asked.content, None
    if recording is None:
        body = parsed(SpeechBody, asked.body)
        try:
            recording = await asyncio.to_thread(base64.b64decode, body.inputs, validate=True)
        except ValueError:
            raise InvalidInput("inputs is not base64", hint="Send the recording's bytes.") from None
        language = body.parameters.language
    found = await transcribe(asked.serving, asked.caller, asked.target, recording, language, id=asked.id)
    return JSONResponse({"text": found.text})


async def feature_extraction(asked: Asked) -> Response:
    """A vector for one text, or one for each of a list, out of its last hidden states. `prompt_name` says of an adapter
    for retrieval whether the texts ask, or are passages that shall be found."""
    body = parsed(FeaturesBody, asked.body)
    hidden = asked.serving.runtime.base.model.config.get_text_config().hidden_size
    if body.dimensions not in (None, hidden):
        raise InvalidInput(
            f"dimensions = {body.dimensions}",
            hint=f"This model's vectors have {hidden} and are not shortened.",
        )
    listed = _listed(body.inputs)
    texts = [Passage(text) for text in listed] if body.prompt_name == "passage" else listed
    predicted = await _predict(asked, FEATURES, texts, whole=not body.truncate)
    several = isinstance(body.inputs, list)

    def made() -> list[Any]:
        vectors = pooled(predicted, normalise=body.normalize)
        return (vectors if several else vectors[0]).tolist()

    _, response = await _written(predicted, made)
    return response


async def sentence_similarity(asked: Asked) -> Response:
    """The cosine of each sentence's vector with the source's."""
    sentences = parsed(SimilarityBody, asked.body).inputs
    predicted = await _predict(asked, SIMILARITY, [sentences.source_sentence, *sentences.sentences])

    def made() -> list[float]:
        vectors = pooled(predicted)
        return cast("list[float]", (vectors[1:] @ vectors[0]).tolist())

    _, response = await _written(predicted, made)
    return response


# By name: what answers a task in one pass.
SINGLE_PASS: Mapping[str, Callable[[Asked], Coroutine[Any, Any, Response]]] = {
    TOKEN_CLASSIFICATION: token_classification,
    TEXT_CLASSIFICATION: text_classification,
    QUESTION_ANSWERING: question_answering,
    IMAGE_CLASSIFICATION: image_classification,
    ZERO_SHOT: zero_shot_classification,
    SPEECH: automatic_speech_recognition,
    FEATURES: feature_extraction,
    SIMILARITY: sentence_similarity,
}


def entailment(labels: Sequence[str]) -> int | None:
    """The label that says that a premise entails a hypothesis, where there is one."""
    return next((i for i, label in enumerate(labels) if label.lower().startswith("entail")), None)


async def _predict(
    asked: Asked, task: str, texts: Sequence[Text | Picture], *, whole: bool = True
) -> Predicted:
    check: Callable[[Question], None] = lambda _: None  # noqa: E731
    if task in (FEATURES, SIMILARITY):
        check = partial(has_features, whole=whole)
    if task == IMAGE_CLASSIFICATION:
        check = _has_classes
    return await predict(asked.serving, asked.caller, asked.target, task, texts, id=asked.id, check=check)


def _has_classes(question: Question) -> None:
    """Raises InvalidInput for a picture under no adapter with a head."""
    if not question.reading.labels:
        raise InvalidInput("the base alone has no classes", hint="Name an adapter for image-classification.")


def _log(asked: Asked, task: str, text: str, output: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
    """Write down what was asked and answered, where the server does: of one text, which feedback can be of."""
    target, tenant = asked.target, asked.caller.tenant
    asked.serving.feedback.log(Logged(asked.id, tenant, task, target.label, text, output, labels))


def _listed(inputs: str | list[str]) -> list[str]:
    return [inputs] if isinstance(inputs, str) else inputs


def _groups(answer: Answer, ignored: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "entity_group": entity.label,
            "score": entity.score,
            "word": entity.text,
            "start": entity.start,
            "end": entity.end,
        }
        for entity in answer.prediction.entities
        if entity.label not in ignored
    ]


def _words(answer: Answer, ignored: Sequence[str]) -> list[dict[str, Any]]:
    asked = answer.question
    return [
        {
            "entity": word.label,
            "score": word.score,
            "index": word.index,
            "word": asked.row.text[word.start : word.end],
            "start": word.start,
            "end": word.end,
        }
        for word in word_labels(asked.row, answer.logits, asked.reading.labels)
        if word.label not in ignored
    ]


def _scores(answer: Answer, parameters: TextParameters) -> list[dict[str, Any]]:
    reading = answer.question.reading
    labels = reading.labels
    # As transformers' pipeline.
    one_by_one = len(labels) == 1 or reading.threshold is not None
    function = parameters.function_to_apply or ("sigmoid" if one_by_one else "softmax")
    if function == "softmax":
        scores = answer.logits.softmax(-1)
    else:
        scores = answer.logits.sigmoid() if function == "sigmoid" else answer.logits
    return _sorted(labels, scores)[: parameters.top_k]


def _sorted(labels: Sequence[str], scores: torch.Tensor) -> list[dict[str, Any]]:
    found = [{"label": label, "score": score} for label, score in zip(labels, scores.tolist(), strict=True)]
    return sorted(found, key=lambda one: -one["score"])


async def _written(predicted: Predicted, made: Callable[[], Made]) -> tuple[Made, Response]:
    """What is `made` of the answers, and that as JSON; on a thread: many texts take a while. `X-Truncated`: how many texts
    were not read to their end."""

    def written() -> tuple[Made, Response]:
        content = made()
        headers = {"x-truncated": str(predicted.truncated)} if predicted.truncated else None
        return content, JSONResponse(content, headers=headers)

    return await asyncio.to_thread(written)
