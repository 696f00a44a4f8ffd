"""Where and in which numbers a base runs: the caller's words to a device, a dtype and a quantisation.

Does not load anything.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, cast, get_args

import torch
from transformers import PretrainedConfig

from adapthub.adapters.errors import InvalidSettings, MissingDependency

Quantization = Literal["nf4", "int8"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_quantization(quantize: str | None) -> Quantization | None:
    """The same word, known and with its library here. Raises InvalidSettings and MissingDependency."""
    if quantize is None:
        return None
    if quantize not in get_args(Quantization):
        raise InvalidSettings(f"unknown quantisation {quantize!r}", hint="Use 'nf4', 'int8' or None.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependency(
            f"quantize={quantize!r} needs bitsandbytes", hint="Run: pip install bitsandbytes"
        )
    return cast(Quantization, quantize)


def published_quantization(config: PretrainedConfig, ref: str) -> Quantization | None:
    """How the checkpoint itself is quantised. Raises InvalidSettings for any other format than ours."""
    settings: dict[str, Any] | None = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    if settings.get("load_in_8bit"):
        return choose_quantization("int8")
    if settings.get("load_in_4bit") and settings.get("bnb_4bit_quant_type") == "nf4":
        return choose_quantization("nf4")
    raise InvalidSettings(
        f"{ref} is published quantised by {settings.get('quant_method')}, not in nf4 or int8",
        hint="Name the unquantised base.",
    )


def choose_device(device: str) -> torch.device:
    """Device `auto` is CUDA where there is one, else the CPU. Raises InvalidSettings for what does not work."""
    if device in {"auto", "cuda"} and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if device == "auto":
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InvalidSettings(
            f"the device {device!r} does not work here: {first_line(error)}", hint="Use 'cpu' or 'auto'."
        ) from error
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Dtype `auto` is float32 on the CPU, elsewhere bfloat16 or what the card has. Raises InvalidSettings."""
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        # A T4 has bfloat16 by emulation: products of it take several times as long as float16's.
        fast = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    if dtype not in _DTYPES:
        raise InvalidSettings(
            f"unknown dtype {dtype!r}", hint=f"Use 'auto', {', '.join(map(repr, _DTYPES))}."
        )
    return _DTYPES[dtype]


def first_line(error: BaseException) -> str:
    """A library's message without what follows its first line."""
    return str(error).strip().split("\n", 1)[0]
