"""What every benchmark shares: timing in turn, the machine and versions, results as JSON.

Does not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

RESULTS = Path(__file__).parent / "results"
BASES = ["none", "nf4"] if find_spec("bitsandbytes") else ["none"]
"""In which a base is measured where nothing else is said: quantised by bitsandbytes, which a GPU's image may lack."""
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "accelerate", "adapthub")


def in_turn(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each program, `rounds` times: all once in turn, then all again, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for counted in [False] + [True] * rounds:
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of one program's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def comparable(model: nn.Module) -> None:
    """Let a peer's quantised layers compute what ours do, or no outputs could be compared.

    4-bit layers do not repack themselves for AVX512-BF16, which rounds activations, and multiply by bitsandbytes. int8
    layers do not round activations either: they become ours (`adapters.quantized`), products included.
    """
    if getattr(model, "quantization_method", None) is None:
        return  # and bitsandbytes need not be there
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    from adapthub.adapters.quantized import steady

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            steady(module)


def in_dtype(peft: nn.Module, dtype: torch.dtype) -> None:
    """Let PEFT's adapters be of the base's dtype, as ours are: it keeps them in float32, and casts for each product."""
    for name, parameter in peft.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = parameter.data.to(dtype)


def milliseconds(seconds: list[float]) -> float:
    """The median in milliseconds."""
    return round(statistics.median(seconds) * 1000, 3)


def machine() -> dict[str, Any]:
    """Processor or GPU, threads and library versions: what a figure depends on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_results(name: str, command: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """`results/NAME.json`, with the machine and the command that made it; on a GPU the name ends in its name."""
    place = machine()
    if place["gpu"]:
        name = f"{name}-{place['gpu'].lower().replace(' ', '-')}"
    path = RESULTS / f"{name}.json"
    document = {"command": command, "machine": place, **more, "rows": rows}
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys as aligned columns."""
    columns = list(rows[0])
    cells = [columns] + [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    names = [
        line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
