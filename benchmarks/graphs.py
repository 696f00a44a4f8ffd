"""Generation on a GPU with passes as CUDA graphs and without: 32 requests of 32 tokens, on the base and on 32 LoRA adapters.

    python -m benchmarks.graphs [--model qwen2.5-0.5b llama-3.1-8b] [--quantize none nf4] [--rounds 5]

Four ways in turn, by one engine each: the base and the adapters (r16, all linear layers, one a request), by graphs and
eagerly. `first ms` is the first call, in which passes are captured and kernels compiled; `replay ms` a decode pass of 32
rows alone on the GPU, by events. Compares with no peer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adapthub.runtime import Runtime
from benchmarks.common import in_turn, print_table, write_results
from benchmarks.generate.common import NEW, REQUESTS, Setting, chosen_adapters, ours
from benchmarks.generate.files import SHAPES, random_adapters, random_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--quantize", nargs="*", default=["none", "nf4"], choices=["none", "nf4", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    command = " ".join(["python -m benchmarks.graphs", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        path = random_base(options.model, Path(folder) / "base", "cuda")
        adapters = random_adapters(path, Path(folder), REQUESTS)
        for name in options.quantize:
            quantize = None if name == "none" else name
            setting = Setting(path, adapters, quantize, "cuda", [], [], options.rounds, Path(folder))
            rows += _measure(setting)
            print_table(rows)
            print(write_results(f"graphs-{options.model}", command, rows, base=f"{options.model}, random"))


def _measure(setting: Setting) -> list[dict[str, Any]]:
    with setting.runtime() as captured, setting.runtime() as eager:
        eager.generation.engine.forward.graphs = None
        programs: dict[str, Callable[[], Any]] = {}
        first: dict[str, float] = {}
        mixed = [setting.adapters[i] for i in chosen_adapters(REQUESTS, "uniform")]
        for kind, adapters in (("base", [None] * REQUESTS), ("32 adapters", mixed)):
            for way, runtime in (("graphs", captured), ("eager", eager)):
                name = f"{kind}, {way}"
                programs[name] = partial(ours, runtime, setting.prompts(), adapters)
                start = time.perf_counter()
                programs[name]()
                first[name] = time.perf_counter() - start
        seconds = in_turn(programs, setting.rounds)
        return [
            {
                "quantize": setting.loaded,
                "way": name,
                "first ms": first[name] * 1000,
                "ms": statistics.median(times) * 1000,
                "tokens/s": REQUESTS * NEW / statistics.median(times),
                "replay ms": _replay(captured, name == "32 adapters, graphs") if "graphs" in name else "",
            }
            for name, times in seconds.items()
        ]


def _replay(runtime: Runtime, adapted: bool) -> float:
    """Milliseconds of the GPU for a captured pass of REQUESTS tokens."""
    graphs = runtime.generation.engine.forward.graphs
    assert graphs is not None
    run = next(
        graph.run
        for (tokens, terms, _), graph in graphs._graphs.items()
        if tokens == REQUESTS and bool(terms) == adapted
    )
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    start.record()
    for _ in range(20):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 20


if __name__ == "__main__":
    main()
