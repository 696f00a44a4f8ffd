"""Hugging Face's Inference API: the addresses that `huggingface_hub.InferenceClient` builds, for models of this server.

    InferenceClient(model="http://host/models/acme/ner").token_classification("Ada was born in London.")

A path may name the task (`/models/acme/ner/pipeline/feature-extraction`); else the body's shape tells it, else it is what
the model is for. Errors have the shape that this client reads. Does not compute any task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from adapthub.adapters.errors import AdaptHubError, AdmissionError, InvalidInput, Overloaded
from adapthub.adapters.heads import QUESTION_ANSWERING, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from adapthub.adapters.strict_json import parse_json_object
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH
from adapthub.runtime.server.catalog import NO_USER, Target
from adapthub.runtime.server.dependencies import TheCaller, TheRequestId, TheServing, request_id_of
from adapthub.runtime.server.disconnects import while_connected
from adapthub.runtime.server.errors import ERRORS, headers_of, status_of
from adapthub.runtime.server.inference_tasks import (
    FEATURES,
    SIMILARITY,
    SINGLE_PASS,
    ZERO_SHOT,
    Asked,
    entailment,
)
from adapthub.runtime.server.openai_chat import CHAT_ANSWERS, chat_completions
from adapthub.runtime.server.openai_requests import ChatRequest
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.text_generation import TASK as TEXT_GENERATION
from adapthub.runtime.server.text_generation import text_generation
from adapthub.runtime.server.text_to_text import TASKS as TEXT_TO_TEXT
from adapthub.runtime.server.text_to_text import summarization, translation
from adapthub.runtime.server.versions import versioned
from adapthub.runtime.tenants.caller import Caller
from adapthub.web.bodies import pieces, read_body

_LOG = logging.getLogger(__name__)
_LARGE = 64 << 10  # bytes of a body that is parsed on a thread: others would wait for it
_ANSWERS = {
    **SINGLE_PASS,
    TEXT_GENERATION: text_generation,
    "translation": translation,
    "summarization": summarization,
}
# Other names of tasks, and what tells a task that the path does not name: a key of the inputs, the parameters or the body.
_ALIASES = {"ner": TOKEN_CLASSIFICATION, "sentiment-analysis": TEXT_CLASSIFICATION}
_BY_INPUTS = {"question": QUESTION_ANSWERING, "source_sentence": SIMILARITY}
_BY_PARAMETERS = {"candidate_labels": ZERO_SHOT, "src_lang": "translation", "tgt_lang": "translation"}
_BY_BODY = dict.fromkeys(("normalize", "truncate", "truncation_direction", "prompt_name"), FEATURES) | {
    "stream": TEXT_GENERATION
}


class _Route(APIRoute):
    """Answers errors as this API does: {"error": text, "error_type": TGI's word for it}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors answered."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except AdaptHubError as error:
                if status_of(error) == 500:
                    _LOG.error("a request failed", exc_info=error)
                return _refusal(str(error), _kind(error), status_of(error), headers_of(error))
            except HTTPException as error:
                return _refusal(str(error.detail), "validation", error.status_code, error.headers)

        return handler


_REFUSAL = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {
        "error": {"type": "string"},
        "error_type": {"enum": ["validation", "overloaded", "generation"]},
    },
}


def _told(openai: Mapping[str, Any]) -> dict[str, Any]:
    """How an error is documented: as above, or as OpenAI's where no route is found, as for a name with a line break."""
    theirs = openai["content"]["application/json"]["schema"]
    return {**openai, "content": {"application/json": {"schema": {"anyOf": [_REFUSAL, theirs]}}}}


router = APIRouter(
    tags=["inference"],
    route_class=_Route,
    responses={status: _told(openai) for status, openai in ERRORS.items()},
)
_POST: dict[str, Any] = {
    "responses": {
        200: {
            "description": "What the task answers; a text as events where `stream` is true.",
            "content": {
                "application/json": {"schema": {}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        }
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object", "required": ["inputs"]}}},
        }
    },
}


@router.get("/models/{model:path}/health")
async def model_health(model: str, serving: TheServing, caller: TheCaller) -> dict[str, str]:
    """The model is there."""
    await serving.catalog.check(model, caller)
    return {"status": "ok"}


@router.get("/models/{model:path}/info")
async def model_info(model: str, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """What the model is, in TGI's words."""
    async with serving.catalog.admitted(model, caller) as target:
        tasks = await asyncio.to_thread(_tasks, serving, target)
    base = serving.runtime.base
    return {
        "model_id": target.label or target.model,
        "model_dtype": str(base.dtype),
        "model_device_type": base.device.type,
        "model_pipeline_tag": tasks[0],
        "tasks": tasks,
        "base_model": serving.catalog.base_name,
    }


@router.post("/models/{model:path}/v1/chat/completions", response_class=Response, responses=CHAT_ANSWERS)
async def chat_of_model(
    model: str,
    body: ChatRequest,
    request: Request,
    serving: TheServing,
    caller: TheCaller,
    id: TheRequestId,
) -> Response:
    """A conversation, as OpenAI's chat completions; the address names the model, whatever the body says."""
    return await chat_completions(body.model_copy(update={"model": model}), request, serving, caller, id)


@router.post("/models/{model:path}/pipeline/{task}", response_class=Response, **_POST)
@router.post("/hf-inference/models/{model:path}/pipeline/{task}", response_class=Response, **_POST)
@router.post("/pipeline/{task}/{model:path}", response_class=Response, **_POST)
async def task_of_model(
    model: str, task: str, request: Request, serving: TheServing, caller: TheCaller
) -> Response:
    """One task of a model."""
    return await _answer(model, task, request, serving, caller)


@router.post("/models/{model:path}", response_class=Response, **_POST)
@router.post("/hf-inference/models/{model:path}", response_class=Response, **_POST)
async def own_task(model: str, request: Request, serving: TheServing, caller: TheCaller) -> Response:
    """The task that the body shows, or that the model is for."""
    return await _answer(model, None, request, serving, caller)


@router.post("/", response_class=Response, **_POST)
async def base_task(request: Request, serving: TheServing, caller: TheCaller) -> Response:
    """The same for the base, as a TGI server has it at its address; `parameters.adapter_id` names an adapter."""
    return await _answer(serving.catalog.base_name, None, request, serving, caller)


async def _answer(
    model: str, task: str | None, request: Request, serving: Serving, caller: Caller
) -> Response:
    await serving.catalog.check(model, caller)
    largest = _largest_content(serving)
    sent, type = await _read(request, serving, largest), request.headers.get("content-type")
    body = await asyncio.to_thread(_json, sent, type) if len(sent) > _LARGE else _json(sent, type)
    named = _part(body, "parameters").get("adapter_id")
    if serving.catalog.is_base(model) and isinstance(named, str):
        model = named
    elif named is not None:
        raise InvalidInput(f"adapter_id = {named!r:.80}", hint="The address names the adapter already.")
    async with serving.catalog.admitted(model, caller, NO_USER) as target:
        tasks = await asyncio.to_thread(_tasks, serving, target)
        if body is None and largest is None:
            named_type = type or "such a body"
            raise InvalidInput(
                f"{target.model} takes no {named_type:.80}; it has {', '.join(tasks)}", hint="Send JSON."
            )
        wanted = _ALIASES.get(task, task) if task is not None else _shown(body or {}) or tasks[0]
        if wanted not in tasks:
            raise InvalidInput(
                f"{target.model} does not have the task {wanted:.80}", hint=f"It has {', '.join(tasks)}."
            )
        content = sent if body is None else None
        asked = Asked(await request_id_of(request), serving, caller, target, body or {}, content)
        return versioned(await while_connected(request, _ANSWERS[wanted](asked)), target)


def _tasks(serving: Serving, target: Target) -> list[str]:
    """What a model can be asked for, first what it is for."""
    task, labels = serving.runtime.task(target.adapter)
    if serving.runtime.transcribes:
        return [SPEECH]
    if serving.runtime.reads_pictures:
        return [IMAGE_CLASSIFICATION]
    if task in (TOKEN_CLASSIFICATION, QUESTION_ANSWERING):
        return [task]
    if task == TEXT_CLASSIFICATION:
        return [task] if entailment(labels) is None else [task, ZERO_SHOT]
    if task != FEATURES and serving.runtime.generates:
        instruction = serving.runtime.instruction(target.adapter)
        own = TEXT_TO_TEXT.get(instruction.recipe) if instruction is not None else None
        return [*([own] if own else []), TEXT_GENERATION, FEATURES, SIMILARITY]
    return [FEATURES, SIMILARITY]


def _largest_content(serving: Serving) -> int | None:
    """Bytes of a recording or a picture, where the base takes such; None where it reads text."""
    if serving.runtime.transcribes:
        return serving.limits.audio_bytes
    return serving.limits.picture_bytes if serving.runtime.reads_pictures else None


async def _read(request: Request, serving: Serving, largest: int | None) -> bytes:
    """The body; it may be as large as the recording or picture that the base takes, or that in JSON. Raises
    HTTPException."""
    if largest is None:
        return await request.body()
    limits = serving.limits
    if _is_json(request.headers.get("content-type")):
        return await read_body(request, largest * 4 // 3 + limits.body_bytes)
    sent = [piece async for piece in pieces(request, largest, seconds=limits.body_seconds)]
    return b"".join(sent)


def _is_json(type: str | None) -> bool:
    return type is not None and type.partition(";")[0].strip() == "application/json"


def _shown(body: Mapping[str, Any]) -> str | None:
    """The task that a body is made for, where its shape tells."""
    for told, keys in (
        (_BY_INPUTS, _part(body, "inputs")),
        (_BY_PARAMETERS, _part(body, "parameters")),
        (_BY_BODY, body),
    ):
        if task := next((task for key, task in told.items() if key in keys), None):
            return task
    return None


def _part(body: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    part = (body or {}).get(key)
    return part if isinstance(part, dict) else {}


def _json(body: bytes, type: str | None) -> dict[str, object] | None:
    """The object that a body is; None for one of another type, as images and sounds come. Raises InvalidInput."""
    if type is not None and not _is_json(type):
        return None
    try:
        return parse_json_object(body, "the body")
    except AdmissionError as error:
        if type is None:  # the client says none for bytes that it was given
            return None
        raise InvalidInput(error.message, hint="Send a JSON object.") from None


def _kind(error: AdaptHubError) -> str:
    if isinstance(error, Overloaded):
        return "overloaded"
    return "generation" if status_of(error) == 500 else "validation"


def _refusal(text: str, kind: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    text = text.encode(errors="replace").decode()  # it may quote the client
    return JSONResponse({"error": text, "error_type": kind}, status, dict(headers or {}))
