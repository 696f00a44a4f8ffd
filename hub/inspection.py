"""What a tree of stored files is: an adapter, whole and admitted, or a part of one, or something that is refused.

Everything is decided from the small files and the headers of weights, of which bounded parts are read. Whole is a tree that
has a configuration and weights: then the policy on folders (adapters.admission) holds for all of it. What was found good is
remembered by its digest. Stores nothing.
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
from adapthub.adapters.description import Description, FileRecord, describe, digest_of
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.safetensors_header import Span, check_header, header_length
from adapthub.hub.cards import card_metadata
from adapthub.hub.completeness import check_complete
from adapthub.hub.headers import Recent
from adapthub.hub.registry import UNKNOWN, Fit
from adapthub.hub.trees import Blob, Tree, folders_of

# A LoRA on each of 128 experts in 48 layers has 37,248 tensors in 5.4 MB of header, one on every linear layer of a model of
# 126 layers 1,764 in 240 KB. So much is checked in a tenth of a second, also over all files of a tree.
MAX_HEADER_BYTES = 6 * 2**20
MAX_TENSORS = 40_000
MAX_OTHER_HEADER_BYTES = 2**19
"""Of headers that are not as safetensors writes them, which takes a JSON parser that long."""
MAX_PATHS = 10_000
_APART = "Keep adapters in repositories of their own."
_CARD_BYTES = 2**20
_REMEMBERED_BYTES = 32 * 2**20  # each of two

Read = Callable[[Blob, int, int], bytes]
"""Reads so many bytes of a blob from an offset."""


def _size_of_spans(spans: tuple[Span, ...]) -> int:
    return 256 + 512 * len(spans)  # about: a name, and its shape


def _size_of_adapter(adapter: Description) -> int:
    documents = (adapter.files[name].size for name in (CONFIG, MANIFEST) if name in adapter.files)
    return _size_of_spans(adapter.spans) + 8 * sum(documents)


_headers = Recent(_REMEMBERED_BYTES, _size_of_spans)
_adapters = Recent(_REMEMBERED_BYTES, _size_of_adapter)


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
    digest = digest_of({path: blob.sha256 for path, blob in own.items()})
    known = _adapters.get(digest)
    if known is not None:
        return known
    if CONFIG in own and WEIGHTS in own:
        _check_folder(own, where)
    contents = {name: read(own[name], 0, own[name].size) for name in (CONFIG, MANIFEST) if name in own}
    if CONFIG in own and WEIGHTS not in own:
        read_config(contents[CONFIG], f"{where}/{CONFIG}")
    spans = _weights(own, read, where).get(WEIGHTS)
    if CONFIG not in own or spans is None:
        return None
    files = {path: FileRecord(blob.sha256, blob.size) for path, blob in own.items()}
    adapter = describe(files, contents, spans, where)
    check_complete(adapter)
    _adapters.put(digest, adapter)
    return adapter


def _weights(own: Tree, read: Read, where: str) -> dict[str, tuple[Span, ...]]:
    """The tensors of every safetensors file."""
    parsed = _Parsed()
    return {
        path: _spans_of(blob, read, f"{where}/{path}", parsed)
        for path, blob in own.items()
        if path.endswith(".safetensors")
    }


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
    return _spans_of(blob, read, where, _Parsed())


class _Parsed:
    """How much of headers was read of one tree. What is remembered counts too, so that it does not hang on that whether a
    tree is admitted."""

    def __init__(self) -> None:
        self.bytes = 0
        self.tensors = 0

    def add(self, where: str, *, size: int = 0, tensors: int = 0) -> None:
        """Raises AdmissionError where that is too much."""
        self.bytes += size
        self.tensors += tensors
        if self.tensors > MAX_TENSORS:
            raise AdmissionError(
                f"{where} would be the end of more than {MAX_TENSORS:,} tensors", hint=_APART
            )
        if self.bytes > MAX_HEADER_BYTES:
            raise AdmissionError(
                f"{where} would be the end of more than {MAX_HEADER_BYTES:,} bytes of headers of weights",
                hint=_APART,
            )


def _spans_of(blob: Blob, read: Read, where: str, parsed: _Parsed) -> tuple[Span, ...]:
    known = _headers.get(blob.sha256)
    if known is not None:
        parsed.add(where, size=(known[0].begin if known else blob.size) - 8, tensors=len(known))
        return known
    most_other = max(0, MAX_OTHER_HEADER_BYTES - parsed.bytes)
    length = header_length(read(blob, 0, min(8, blob.size)), blob.size, where, most=MAX_HEADER_BYTES)
    parsed.add(where, size=length)
    header = read(blob, 8, length)
    parsed.add(where, tensors=header.count(b"data_offsets"))
    spans = check_header(header, blob.size, where, most_other=most_other)
    _headers.put(blob.sha256, spans)
    return spans


def card_of(tree: Tree, read: Read) -> str:
    """The text of README.md, of a very long one its beginning; empty where there is none."""
    blob = tree.get(CARD)
    if blob is None:
        return ""
    return read(blob, 0, min(blob.size, _CARD_BYTES)).decode("utf-8", errors="replace")
