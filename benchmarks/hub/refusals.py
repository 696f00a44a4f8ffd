"""How long what strangers make to hurt a hub takes to be refused, or to be read where it is just small enough.

In this process, from files in memory: what a hub does of it before it writes anything. The issue's bound is 100 ms.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapthub.adapters.admission import CARD, CONFIG, WEIGHTS
from adapthub.adapters.errors import AdaptHubError
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.inspection import (
    MAX_HEADER_BYTES,
    MAX_OTHER_HEADER_BYTES,
    MAX_TENSORS,
    inspect_tree,
)
from adapthub.hub.trees import Blob

_CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}


def measure(_: Path, rounds: int) -> list[dict[str, Any]]:
    return [_measure(name, files, rounds) for name, files in _hostile().items()]


def _measure(name: str, files: Mapping[str, bytes], rounds: int) -> dict[str, Any]:
    blobs = {sha256_bytes(data): data for data in files.values()}
    tree = {path: Blob(sha256_bytes(data), len(data)) for path, data in files.items()}

    def read(blob: Blob, offset: int, length: int) -> bytes:
        return blobs[blob.sha256][offset : offset + length]

    seconds, said = [], "taken"
    for _ in range(rounds):
        began = time.perf_counter()
        try:
            inspect_tree(tree, read, where="bench/hostile")
        except AdaptHubError as error:
            said = type(error).__name__
        seconds.append(time.perf_counter() - began)
    return {
        "what": name,
        "bytes": sum(map(len, files.values())),
        "answer": said,
        "first ms": round(seconds[0] * 1000, 1),
        "median ms": round(statistics.median(seconds) * 1000, 1),
    }


def _hostile() -> dict[str, dict[str, bytes]]:
    fit = MAX_TENSORS - 1
    twice = ",".join([*map(_entry, range(fit - 1)), _entry(0)])
    other = ",".join([*map(_entry, range(MAX_OTHER_HEADER_BYTES // len(_entry(99_999)) - 1)), _entry(0)])
    loose = ", ".join([*map(_expert, range(37_247)), _expert(0)])
    return {
        "a header of 700,000 tensors": {WEIGHTS: _weights(",".join(map(_entry, range(700_000))))},
        "the most tensors, all good": {"a.safetensors": _weights(",".join(map(_entry, range(fit))))},
        "the most tensors, one of them twice": {WEIGHTS: _weights(twice)},
        "a LoRA of 37,248 tensors, cut off": {
            CONFIG: json.dumps(_CONFIG).encode(),
            WEIGHTS: _weights(",".join(map(_expert, range(37_248)))) + bytes(2 * 37_247),
        },
        "a LoRA of 37,248 tensors, the last without its other half": {
            CONFIG: json.dumps({**_CONFIG, "r": 1}).encode(),
            WEIGHTS: _weights(",".join(map(_expert, range(37_247)))) + bytes(2 * 37_247),
        },
        "as large, and not as safetensors writes it": {WEIGHTS: _weights(loose)},
        "the most that a JSON parser reads, one tensor twice": {WEIGHTS: _weights(f"{other} ")},
        "as many kinds of tensors as tensors": {WEIGHTS: _weights(",".join(map(_kind, range(fit))))},
        "the largest header, of brackets": {WEIGHTS: _weights('"a":' + "[" * (MAX_HEADER_BYTES - 10))},
        "a hundred files of the most tensors": {
            f"{n}.safetensors": _weights(",".join(_entry(n * fit + at) for at in range(fit)))
            for n in range(100)
        },
        "a rank of a thousand millions": {CONFIG: json.dumps({**_CONFIG, "r": 10**9}).encode()},
        "a regular expression that runs for years": {
            CONFIG: json.dumps({**_CONFIG, "target_modules": "(a+)+$"}).encode()
        },
        "a card of aliases": {CARD: _card("a: &a [x,x,x,x]\n" + "b: [*a,*a,*a]\n" * 10_000)},
        "a card of brackets": {CARD: _card("a: " + "[" * 200_000)},
        "a card of numbers to the base of sixty": {CARD: _card("a: 1" + ":1" * 120_000)},
        "a card of as much as a card may have": {CARD: _card("a: [" + "1," * 9_990 + "]")},
    }


def _entry(number: int) -> str:
    return f'"{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'


def _expert(number: int) -> str:
    """A tensor of two bytes, named as one of a LoRA on the experts of a model."""
    layer, rest = divmod(number, 776)
    expert, half = divmod(rest, 2)
    name = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.down_proj.lora_{'AB'[half]}.weight"
    return f'"{name}":{{"dtype":"BF16","shape":[1,1],"data_offsets":[{2 * number},{2 * number + 2}]}}'


def _kind(number: int) -> str:
    return f'"{number}":{{"dtype":"F32","shape":[0,{number}],"data_offsets":[0,0]}}'


def _weights(entries: str) -> bytes:
    header = f"{{{entries}}}".encode()
    return len(header).to_bytes(8, "little") + header


def _card(front: str) -> bytes:
    return f"---\n{front}\n---\n".encode()
