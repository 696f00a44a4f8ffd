"""The command: which parts, on which bases, loaded how; prints each part's table and writes its results.

Does not measure: each part does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import generate
from benchmarks.common import print_table, write_results
from benchmarks.generate import misses, mixes, pages, registered, slots
from benchmarks.generate.common import REQUESTS, Setting
from benchmarks.generate.files import SHAPES, random_adapters, random_base

PARTS: Mapping[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "mixes": mixes.measure,
    "slots": slots.measure,
    "registered": registered.measure,
    "misses": misses.measure,
    "pages": pages.measure,
}


def main() -> None:
    summary = (generate.__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=summary)
    parser.add_argument("--model", nargs="*", default=["smollm2"], choices=["smollm2", *SHAPES])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quantize", nargs="*", default=["none"], choices=["none", "nf4", "int8"])
    parser.add_argument("--adapters", nargs="*", type=int, default=[REQUESTS])
    parser.add_argument("--spread", nargs="*", default=["uniform", "zipf"], choices=["uniform", "zipf"])
    parser.add_argument("--part", nargs="*", default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder:
            path = _base(model, Path(folder) / f"{model}-random", options.device)
            adapters = random_adapters(path, Path(folder), max(options.adapters))
            for part in options.part:
                rows = []
                for name in options.quantize:
                    quantize = None if name == "none" else name
                    rows += PARTS[part](
                        Setting(
                            path,
                            adapters,
                            quantize,
                            options.device,
                            options.adapters,
                            options.spread,
                            options.rounds,
                            Path(folder),
                        )
                    )
                print_table(rows)
                quantized = [name for name in options.quantize if name != "none"]
                counts = [] if options.adapters == [REQUESTS] else map(str, options.adapters)
                unusual = [*([] if model == "smollm2" else [model]), *quantized, *counts]
                results = "-".join(["generate", part, *unusual])
                command = " ".join(["python -m benchmarks.generate", *sys.argv[1:]])
                print(write_results(results, command, rows, base=path.name))


def _base(model: str, folder: Path, device: str) -> Path:
    if model != "smollm2":
        return random_base(model, folder, device)
    from adapthub.adapters.samples import fetch

    return fetch("smollm2-135m")


if __name__ == "__main__":
    main()
