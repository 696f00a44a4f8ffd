"""Files of a repository: text to read, what weights are made of, images of cards, and bytes for who is signed in.

What programs download is at the protocol's `resolve`, which takes no cookie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from fastapi import APIRouter, Request, Response

from adapthub.adapters.errors import ArtifactError
from adapthub.adapters.names import PEFT_PREFIX
from adapthub.adapters.safetensors_header import Span
from adapthub.hub.inspection import spans_of
from adapthub.hub.server import resolve_api
from adapthub.hub.server.dependencies import FilePath, Revision, Target, TheServing
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.blobs import BlobLost
from adapthub.hub.trees import Blob

router = APIRouter(include_in_schema=False)

MOST_TEXT_BYTES = 256 * 1024
MOST_TENSORS = 2000
_IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Module:
    """The tensors of one module: (name within it, dtype, shape) each."""

    name: str
    tensors: Sequence[tuple[str, str, str]]
    size: int


@router.api_route("/{namespace}/{name}/blob/{revision}/{path:path}", methods=["GET", "HEAD"])
def show(
    request: Request,
    target: Target,
    revision: Revision,
    path: FilePath,
    serving: TheServing,
    visitor: TheVisitor,
) -> Response:
    """A file as a page."""
    blob, commit = resolve_api.find(serving, visitor, target, revision, path)
    modules, left_out, wrong = _modules(serving, blob, path)
    return page(
        request,
        "file.html",
        visitor,
        name=target.full_name,
        revision=revision,
        commit=commit,
        path=path,
        blob=blob,
        text=None if path.endswith(".safetensors") else _text(serving, blob),
        image=_image_type(path),
        modules=modules,
        left_out=left_out,
        wrong=wrong,
        most=MOST_TEXT_BYTES,
    )


@router.api_route("/{namespace}/{name}/raw/{revision}/{path:path}", methods=["GET", "HEAD"])
async def raw(
    target: Target,
    revision: Revision,
    path: FilePath,
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
) -> Response:
    """The bytes: an image to show, anything else to keep."""
    answer = await resolve_api.resolve(target, revision, path, request, serving, visitor)
    kind = _image_type(path)
    if kind is not None:
        answer.headers["Content-Type"] = kind
        answer.headers["Content-Disposition"] = "inline"
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.headers["Vary"] = "Cookie"
    return answer


def _text(serving: Serving, blob: Blob) -> str | None:
    """The beginning of a file of text; None for any other."""
    data = serving.store.read(blob, 0, min(blob.size, MOST_TEXT_BYTES))
    if b"\0" in data:
        return None
    # The cut may lie within a character.
    text = data.decode("utf-8", errors="replace" if blob.size > len(data) else "surrogateescape")
    return None if any("\udc80" <= char <= "\udcff" for char in text) else text


def _modules(serving: Serving, blob: Blob, path: str) -> tuple[list[Module], int, str | None]:
    """The tensors of weights by module, how many were left out, and what is wrong with them."""
    if not path.endswith(".safetensors"):
        return [], 0, None
    try:
        spans = spans_of(blob, serving.store.read, path)
    except BlobLost:  # that is no fault of the adapter's
        raise
    except ArtifactError as error:
        return [], 0, str(error)
    ordered = sorted(spans, key=lambda span: _split(span.name))
    grouped = groupby(ordered[:MOST_TENSORS], lambda span: _split(span.name)[0])
    return [_module(name, [*group]) for name, group in grouped], max(0, len(ordered) - MOST_TENSORS), None


def _module(name: str, spans: Sequence[Span]) -> Module:
    tensors = [
        (_split(span.name)[1], span.dtype, " × ".join(map(str, span.shape)) or "scalar") for span in spans
    ]
    return Module(name, tensors, sum(span.end - span.begin for span in spans))


def _split(tensor: str) -> tuple[str, str]:
    """The module of a tensor, and its name there: `lora_A.weight` is one."""
    name = tensor.removeprefix(PEFT_PREFIX)
    module, dot, part = name.rpartition(".")
    if dot and part in ("weight", "bias"):
        module, _, before = module.rpartition(".")
        part = f"{before}.{part}"
    return module, part


def _image_type(path: str) -> str | None:
    return _IMAGES.get(f".{path.rpartition('.')[2].lower()}")
