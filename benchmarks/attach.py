"""`attach` of one more adapter with 0 to 100 attached, against reading its file, and against PEFT's `load_adapter`.

    python -m benchmarks.attach [--rounds 15]

MiniLM, LoRA r16 over all linear layers with a token-classification head. "read" is safetensors' `load_file` with every
tensor touched; "attach" is `Artifact.read` (admission, sha256 of every byte) and `AdaptedBase.attach` (checked against
the base, every tensor put to its module). PEFT checks no digest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from benchmarks.common import print_table, write_results

COUNTS = (0, 1, 10, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    base = fetch("minilm")
    with tempfile.TemporaryDirectory() as folder:
        paths = _adapters(base, Path(folder), max(COUNTS) + rounds)
        rows = _measure(base, paths, rounds)
    print_table(rows)
    size = rows[0].pop("bytes")
    for row in rows[1:]:
        del row["bytes"]
    print(write_results("attach", "python -m benchmarks.attach", rows, adapter_bytes=size))


def _adapters(base: Path, folder: Path, count: int) -> list[Path]:
    """Adapters with different weights: the same A and B, told apart by their heads."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=9)
    targets = ["query", "key", "value", "dense"]
    peft_model = get_peft_model(
        model, LoraConfig(task_type="TOKEN_CLS", r=16, target_modules=targets, init_lora_weights=False)
    )
    paths = []
    for index in range(count):
        with torch.no_grad():
            for name, parameter in peft_model.named_parameters():
                if "modules_to_save" in name and name.endswith("bias"):
                    parameter.fill_(index)
        peft_model.save_pretrained(str(folder / str(index)))
        paths.append(folder / str(index))
    return paths


def _measure(base: Path, paths: list[Path], rounds: int) -> list[dict[str, Any]]:
    """Ours at every count, then PEFT's: a hundred PEFT adapters in the same process would slow our Python down."""
    extra = paths[max(COUNTS) :]
    ours = _ours(base, paths, extra[:rounds])
    peft = _peft(base, paths, extra[: max(3, rounds // 5)])
    return [
        {
            "attached": count,
            "bytes": (paths[0] / "adapter_model.safetensors").stat().st_size,
            "read ms": statistics.median(read) * 1000,
            "attach ms": statistics.median(attach) * 1000,
            "peft ms": statistics.median(peft[count]) * 1000,
            "attach/read": statistics.median(a / b for a, b in zip(attach, read, strict=True)),
            "peft/attach": statistics.median(peft[count]) / statistics.median(attach),
        }
        for count, (read, attach) in ours.items()
    ]


def _ours(base: Path, paths: list[Path], extra: list[Path]) -> dict[int, tuple[list[float], list[float]]]:
    """Seconds to read and to attach one more adapter, in turn, by the number attached."""
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    # The first attach of a process imports PEFT and makes the head's template.
    adapted.detach(adapted.attach(Artifact.read(extra[0])))
    results: dict[int, tuple[list[float], list[float]]] = {}
    for count in COUNTS:
        for path in paths[len(adapted.attached) : count]:
            adapted.attach(Artifact.read(path))
        read, attach = [], []
        for path in extra:
            read.append(_seconds(partial(_read, path)))
            attach.append(_seconds(partial(_attach, adapted, path)))
            adapted.detach(Artifact.read(path).digest)
        results[count] = (read, attach)
    return results


def _attach(adapted: AdaptedBase, path: Path) -> None:
    adapted.attach(Artifact.read(path))


def _read(path: Path) -> None:
    for tensor in load_file(path / "adapter_model.safetensors").values():
        tensor.sum()


def _peft(base: Path, paths: list[Path], extra: list[Path]) -> dict[int, list[float]]:
    """Seconds of PEFT's load_adapter by the number loaded (it cannot have none, so 0 stands for 1)."""
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=9)
    peft = PeftModel.from_pretrained(model, str(paths[0]), adapter_name="0")
    results: dict[int, list[float]] = {}
    for count in COUNTS:
        for index in range(len(peft.peft_config), count):
            peft.load_adapter(str(paths[index]), adapter_name=str(index))
        results[count] = []
        for path in extra:
            results[count].append(_seconds(partial(peft.load_adapter, str(path), adapter_name="extra")))
            peft.delete_adapter("extra")
    return results


def _seconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    program()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
