"""What a tree of stored files is: an adapter, whole and admitted, or a part of one, or something that is refused.

Everything is decided from the small files and the headers of weights, of which bounded parts are read. Whole is a tree that
has a configuration and weights: then the policy on folders (adapters.admission) holds for all of it. Stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapthub.adapters.admission import (
    CARD,
    CONFIG,
    IGNORED,
    MANIFEST,
    MAX_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_FILES,
    WEIGHTS,
    check_name,
)
from adapthub.adapters.configuration_policy import read_config
from adapthub.adapters.description import Description, FileRecord, describe
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.safetensors_header import Span, check_header, header_length
from adapthub.hub.cards import card_metadata
from adapthub.hub.completeness import check_complete
from adapthub.hub.registry import UNKNOWN, Fit
from adapthub.hub.trees import Blob, Tree, folders_of

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 100_000
MAX_PATHS = 10_000
_CARD_BYTES = 2**20

Read = Callable[[Blob, int, int], bytes]
"""Reads so many bytes of a blob from an offset."""


@dataclass(frozen=True)
class Inspected:
    """What a tree says: `adapter` if it is a whole one, the text of its card and the metadata in it. `fit`: whether the
    adapter fits its base, which needs more than the tree to be known (fitting)."""

    adapter: Description | None
    card: str
    metadata: Mapping[str, Any]
    fit: Fit = UNKNOWN


def inspect_tree(tree: Tree, read: Read, *, where: str) -> Inspected:
    """Look at `tree`, of the repository `where`. Raises AdmissionError, UnsupportedAdapter, TensorMismatch or IntegrityError
    with the file and the reason, for what a hub refuses."""
    if len(tree) > MAX_PATHS:
        raise AdmissionError(f"{where} would have {len(tree)} files; at most {MAX_PATHS} are kept")
    for path in folders_of(tree) & tree.keys():
        raise AdmissionError(f"{path} would be a file and a folder", hint="Delete the one or the other.")
    for path, blob in tree.items():
        _check_size(path, blob)
    card = card_of(tree, read)
    metadata = card_metadata(card)
    return Inspected(adapter_in(tree, read, where=where), card, metadata)


def adapter_in(tree: Tree, read: Read, *, where: str) -> Description | None:
    """The adapter that `tree` is, whatever its card says; None where it is no whole one. Raises as `inspect_tree` does."""
    own = {path: blob for path, blob in tree.items() if path.partition("/")[0] not in IGNORED}
    if CONFIG in own and WEIGHTS in own:
        _check_folder(own, where)
    contents = {name: read(own[name], 0, own[name].size) for name in (CONFIG, MANIFEST) if name in own}
    if CONFIG in own and WEIGHTS not in own:
        read_config(contents[CONFIG], f"{where}/{CONFIG}")
    spans: tuple[Span, ...] = ()
    for path, blob in own.items():
        if path.endswith(".safetensors"):
            found = spans_of(blob, read, f"{where}/{path}")
            spans = found if path == WEIGHTS else spans
    if CONFIG not in own or WEIGHTS not in own:
        return None
    files = {path: FileRecord(blob.sha256, blob.size) for path, blob in own.items()}
    adapter = describe(files, contents, spans, where)
    check_complete(adapter)
    return adapter


def _check_folder(own: Tree, where: str) -> None:
    if len(own) > MAX_FILES:
        raise AdmissionError(f"{where} would have {len(own)} files; an adapter has at most {MAX_FILES}")
    for path in own:
        check_name(path)
    if len({path.casefold() for path in own}) != len(own):
        raise AdmissionError(f"{where} would have file names that differ only in case")


def _check_size(path: str, blob: Blob) -> None:
    weights = path.endswith(".safetensors")
    limit = MAX_BYTES.get(path, MAX_BYTES[WEIGHTS] if weights else MAX_DOCUMENT_BYTES)
    if blob.size > limit:
        raise AdmissionError(f"{path} has {blob.size} bytes; at most {limit} are kept")


def spans_of(blob: Blob, read: Read, where: str) -> tuple[Span, ...]:
    """The tensors of a safetensors file, from its header. Raises AdmissionError where it is none that a hub keeps."""
    length = header_length(read(blob, 0, min(8, blob.size)), blob.size, where, most=MAX_HEADER_BYTES)
    header = read(blob, 8, length)
    if header.count(b"data_offsets") > MAX_TENSORS:
        raise AdmissionError(f"{where} has more than {MAX_TENSORS} tensors")
    return check_header(header, blob.size, where)


def card_of(tree: Tree, read: Read) -> str:
    """The text of README.md, of a very long one its beginning; empty where there is none."""
    blob = tree.get(CARD)
    if blob is None:
        return ""
    return read(blob, 0, min(blob.size, _CARD_BYTES)).decode("utf-8", errors="replace")
