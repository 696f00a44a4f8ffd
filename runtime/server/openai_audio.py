"""OpenAI's transcriptions: a recording as a form sends it, written down.

Formats are json and text. What this server does not do (timestamps, prompts, streams, other temperatures than 0) is refused,
not ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import FormData, UploadFile

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.server.catalog import NO_USER
from adapthub.runtime.server.dependencies import TheCaller, TheRequestId, TheServing
from adapthub.runtime.server.disconnects import while_connected
from adapthub.runtime.server.transcribing import transcribe
from adapthub.runtime.server.versions import versioned
from adapthub.web.bodies import bound

router = APIRouter(prefix="/v1", tags=["audio"])

_FIELDS = 16  # of one form
_FORM = 64 << 10  # bytes of all that is no recording
_FORMATS = ("json", "text")
# What else clients send, and the one value of it that changes nothing.
_NEUTRAL: Mapping[str, tuple[str, ...]] = {
    "prompt": ("",),
    "temperature": ("0", "0.0"),
    "stream": ("false", "False"),
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string"},
        "language": {"type": "string"},
        "response_format": {"enum": [*_FORMATS], "default": "json"},
        "temperature": {"enum": [0]},
        "stream": {"enum": [False]},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text; as text alone where response_format says so.",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["text"]}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
}


@router.post(
    "/audio/transcriptions",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra={
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _SCHEMA}}}
    },
)
async def transcriptions(
    request: Request, serving: TheServing, caller: TheCaller, id: TheRequestId
) -> Response:
    """Write down a recording."""
    bound(request, serving.limits.audio_bytes + _FORM, seconds=serving.limits.body_seconds)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidInput("the body is no form", hint="Send multipart/form-data with file and model.")
    async with request.form(max_files=1, max_fields=_FIELDS, max_part_size=_FORM) as form:
        fields = _fields(form)
        recording = await _recording(form)
    form_of = fields.pop("response_format", "json")
    if form_of not in _FORMATS:
        raise InvalidInput(
            f"response_format = {form_of!r:.80}", hint=f"This server answers {' or '.join(_FORMATS)}."
        )
    language = fields.pop("language", None) or None
    model, user = fields.pop("model", ""), fields.pop("user", NO_USER)
    _check(fields)
    async with serving.catalog.admitted(model, caller, user) as target:
        work = transcribe(serving, caller, target, recording, language, id=id)
        found = await while_connected(request, work)
    if form_of == "text":
        return versioned(PlainTextResponse(f"{found.text}\n"), target)
    usage = {"type": "duration", "seconds": math.ceil(found.seconds)}
    return versioned(JSONResponse({"text": found.text, "usage": usage}), target)


def _fields(form: FormData) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise InvalidInput(f"a file is sent as {name!r:.80}", hint="Send it as file.")
        elif name in fields:
            raise InvalidInput(f"{name!r:.80} is sent twice")
        else:
            fields[name] = value
    if "model" not in fields:
        raise InvalidInput("model is missing", hint="GET /v1/models says what there is.")
    return fields


async def _recording(form: FormData) -> bytes:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidInput("file is missing", hint="Send the recording as a file.")
    return await file.read()


def _check(fields: Mapping[str, str]) -> None:
    """What is left changes nothing. Raises InvalidInput."""
    for name, value in fields.items():
        if name not in _NEUTRAL:
            raise InvalidInput(f"Unrecognized request argument supplied: {name:.80}")
        if value not in _NEUTRAL[name]:
            raise InvalidInput(f"{name} = {value!r:.80} is not done here", hint="Leave it out.")
