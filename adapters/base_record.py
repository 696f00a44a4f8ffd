"""A base as others may know it without its weights: names and shapes of its modules, and its fingerprint. One JSON document.

Made where the base lies (`adapt base record`), from its configuration and its files' headers; a hub that has the record can
say of an adapter whether it fits (`fit`), and needs neither the base nor torch to do so. Holds no weights, and judges no
adapter.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.manifest import FingerprintField, Record, first_error
from adapthub.adapters.strict_json import parse_json_object

if TYPE_CHECKING:
    from adapthub.adapters.base import ResolvedBase

MAX_BYTES = 32 * 2**20
MAX_NAMES = 200_000

Size = Annotated[int, Field(ge=0, le=2**48)]
Kind = Literal["linear", "conv1d", "embedding", "convolution"]


class KnownBase(Record):
    """What is recorded of a base. `id` and `revision` are how it was named where the record was made.

    `prefix` is what its family calls the backbone inside a task model, `backbone` where that lies in the base (empty: it is
    the base), `output` the language-model head. `kinds` has the modules that adapters go under; `parameters` every
    parameter's shape, as torch has it: [out, in] of a linear layer, [in, out] of transformers' Conv1D, which is one too, and
    [out, in / groups, ...] of a convolution. The sizes are of the language model's part, None where it has no such thing.
    """

    schema_version: Literal[1] = 1
    id: Annotated[str, Field(max_length=500)]
    revision: Annotated[str, Field(max_length=200)] | None
    fingerprint: FingerprintField
    model_type: Annotated[str, Field(max_length=200)]
    prefix: str
    backbone: str
    output: str | None
    hidden_size: Size | None
    layers: Size | None
    key_value_heads: Size | None
    head_size: Size | None
    kinds: Annotated[dict[str, Kind], Field(max_length=MAX_NAMES)]
    parameters: Annotated[
        dict[str, Annotated[tuple[Size, ...], Field(max_length=8)]], Field(max_length=MAX_NAMES)
    ]

    def to_json(self) -> bytes:
        """The document: UTF-8, sorted keys, a newline at the end. Equal records give equal bytes."""
        document = self.model_dump(mode="json")
        return (
            json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
        ).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> KnownBase:
        """Parse `data`; AdmissionError names the field that is unknown, missing, wrong or too large."""
        if len(data) > MAX_BYTES:
            raise AdmissionError(f"{where} has more than {MAX_BYTES} bytes")
        parse_json_object(data, where)
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise AdmissionError(f"{where}: {first_error(error, 'the record of a base')}") from error


def record_base(found: ResolvedBase) -> KnownBase:
    """The record of a base on this disk. Builds its modules without weights; reads the weights only for the fingerprint."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from adapthub.adapters.base import skeleton_of
    from adapthub.adapters.layers import Convolution

    kinds: dict[Any, Kind] = {
        nn.Linear: "linear",
        Conv1D: "conv1d",
        nn.Embedding: "embedding",
        Convolution: "convolution",
    }
    model = skeleton_of(found.config)
    text = found.config.get_text_config()
    heads, hidden, layers = (
        size if isinstance(size := getattr(text, name, None), int) else None  # Swin has a list of heads
        for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    output = model.get_output_embeddings()
    return KnownBase(
        id=found.ref,
        revision=found.revision,
        fingerprint=found.fingerprint,
        model_type=found.config.model_type,
        prefix=model.base_model_prefix,
        backbone="" if model.base_model is model else model.base_model_prefix,
        output=next((name for name, module in model.named_modules() if module is output), None),
        hidden_size=hidden,
        layers=layers,
        key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or (hidden // heads if hidden and heads else None),
        kinds={
            name: kind
            for name, module in model.named_modules()
            for layer, kind in kinds.items()
            if isinstance(module, layer)
        },
        parameters={
            name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)
        },
    )
