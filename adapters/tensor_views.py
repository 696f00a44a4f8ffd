"""Tensors over the bytes of a safetensors file that is in memory already: no copy, so reading costs what the disk costs.

The bytes must have passed `check_safetensors`, whose spans these are. Reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from adapthub.adapters.safetensors_header import Span

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def tensor_views(data: bytearray, spans: Iterable[Span]) -> dict[str, torch.Tensor]:
    """Every tensor by name, in the file's dtype and shape; together they keep `data` alive."""
    return {span.name: _view(data, span) for span in spans}


def _view(data: bytearray, span: Span) -> torch.Tensor:
    dtype = _DTYPES[span.dtype]
    if span.begin == span.end:
        return torch.empty(span.shape, dtype=dtype)
    if span.begin % dtype.itemsize:  # the format does not promise alignment; writers keep it
        return torch.frombuffer(data[span.begin : span.end], dtype=dtype).view(span.shape)
    count = (span.end - span.begin) // dtype.itemsize
    return torch.frombuffer(data, dtype=dtype, count=count, offset=span.begin).view(span.shape)
