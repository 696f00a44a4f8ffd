"""A base's safetensors files, read by their headers: which files, which tensors, how many bytes once loaded.

Does not read tensor data. Only safetensors: a checkpoint of pickles is refused, because loading one runs its
code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapthub.adapters.errors import BaseNotFound

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# Bytes of one weight with its share of the quantisation constants.
_QUANTISED_BYTES = {"nf4": 0.52, "int8": 1.01}
# These are loaded in the dtype that was asked for; any other (packed 4-bit values, indices) as it is stored.
_NUMBERS = ("F64", "F32", "F16", "BF16")
_STORED_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint: its dtype as safetensors names it ("F32", "BF16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that transformers would load, in name order. Raises BaseNotFound where there are none."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if (folder / _INDEX).is_file():
        return tuple(folder / name for name in sorted(_shards(folder / _INDEX)))
    pickles = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)
    )
    if pickles:
        raise BaseNotFound(
            f"{folder} has its weights only as {pickles[0]}, and loading a pickle runs its code",
            hint="Save the model again with save_pretrained, which writes safetensors.",
        )
    raise BaseNotFound(f"{folder} has no {_SINGLE}", hint="Name a folder that save_pretrained wrote.")


def read_headers(folder: Path) -> Mapping[str, TensorInfo]:
    """Every tensor of the checkpoint by name. Raises BaseNotFound for a damaged or missing file."""
    tensors: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - a handle, not a mapping
                    view = stored.get_slice(name)
                    tensors[name] = TensorInfo(view.get_dtype(), tuple(view.get_shape()))
        except (OSError, SafetensorError) as error:
            raise BaseNotFound(f"{path} cannot be read as safetensors: {error}") from error
    return tensors


def loaded_bytes(tensors: Mapping[str, TensorInfo], element_size: int, quantization: str | None) -> int:
    """At least how many bytes the model takes in memory: matrices quantised, embeddings and vectors not."""
    total = 0.0
    for name, tensor in tensors.items():
        each: float = element_size if tensor.dtype in _NUMBERS else _STORED_BYTES.get(tensor.dtype, 1)
        if quantization is not None and len(tensor.shape) == 2 and "embed" not in name:
            each = _QUANTISED_BYTES[quantization]
        total += prod(tensor.shape) * each
    return int(total)


def _shards(index: Path) -> set[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BaseNotFound(f"{index} is not a safetensors index: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise BaseNotFound(f"{index} names a file outside its folder: {name!r}")
    return names
