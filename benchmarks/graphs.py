"""Generation on a GPU with passes as CUDA graphs and without: 32 requests of 32 tokens, on the base and on LoRA adapters.

    python -m benchmarks.graphs [--model qwen2.5-0.5b llama-3.1-8b] [--quantize none nf4] [--rounds 3] [--only graphs]

In turn, by one engine each: the base, 8 adapters and 32 (r16, all linear layers, spread over the requests), by graphs and
eagerly. `load ms` is what attaching the adapters takes, before all else; `first ms` the first call, in which passes are
captured (`captures` of them) and kernels compiled, which takes `torch MB` and `driver MB` of memory; `replay ms` a decode
pass of 32 rows alone on the GPU, by events, and `GPU ms` all passes of a call likewise, one graph's replays back to back.
What a step takes beyond that, `rest ms/step`, is the host's: scheduling, launching, waiting for tokens, text; and the GPU's
sampling. Compares with no peer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from adapthub.runtime import Runtime
from adapthub.runtime.rows import Part
from benchmarks.common import BASES, in_turn, print_table, write_results
from benchmarks.generate.common import NEW, REQUESTS, Setting, chosen_adapters, ours
from benchmarks.generate.files import SHAPES, random_adapters, random_base

COUNTS = (8, 32)
_REPLAYS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--quantize", nargs="*", default=BASES, choices=["none", "nf4", "int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["graphs", "eager"], help="half of the memory for bases")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    command = " ".join(["python -m benchmarks.graphs", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        path = random_base(options.model, Path(folder) / "base", "cuda")
        adapters = random_adapters(path, Path(folder), REQUESTS, "cuda")
        for name in options.quantize:
            quantize = None if name == "none" else name
            setting = Setting(path, adapters, quantize, "cuda", [], [], options.rounds, Path(folder))
            rows += _measure(setting, [options.only] if options.only else ["graphs", "eager"])
            print_table(rows)
            print(write_results(f"graphs-{options.model}", command, rows, base=f"{options.model}, random"))


def _measure(setting: Setting, ways: Sequence[str]) -> list[dict[str, Any]]:
    with ExitStack() as closing:
        runtimes = {way: closing.enter_context(setting.runtime()) for way in ways}
        if "eager" in runtimes:
            runtimes["eager"].generation.engine.forward.graphs = None
        of_requests: dict[str, list[Path | None]] = {"base": [None] * REQUESTS}
        for count in COUNTS:
            of_requests[f"{count} adapters"] = [
                setting.adapters[i] for i in chosen_adapters(count, "uniform")
            ]
        programs: dict[str, Callable[[], Any]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for kind, adapters in of_requests.items():
            for way, runtime in runtimes.items():
                name = f"{kind}, {way}"
                programs[name] = partial(ours, runtime, setting.prompts(), adapters)
                load = _seconds(partial(_attach, runtime, adapters))
                before = runtime.generation.engine.forward.captures
                free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
                first = _seconds(programs[name])
                by_torch = torch.cuda.memory_reserved() - reserved
                by_all = free - torch.cuda.mem_get_info()[0]
                rows[name] = {
                    "quantize": setting.loaded,
                    "way": name,
                    "load ms": load * 1000,
                    "first ms": first * 1000,
                    "captures": runtime.generation.engine.forward.captures - before,
                    "torch MB": by_torch / 1e6,
                    "driver MB": (by_all - by_torch) / 1e6,
                }
        for name, times in in_turn(programs, setting.rounds).items():
            milliseconds = statistics.median(times) * 1000
            rows[name] |= {"ms": milliseconds, "tokens/s": REQUESTS * NEW / milliseconds * 1000}
            rows[name] |= _apart(runtimes[name.split(", ")[1]], programs[name], milliseconds)
        return [*rows.values()]


def _attach(runtime: Runtime, adapters: Sequence[Path | None]) -> None:
    for path in dict.fromkeys(adapters):
        if path is not None:
            runtime.attach(path)


def _seconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    program()
    return time.perf_counter() - start


def _apart(runtime: Runtime, program: Callable[[], Any], milliseconds: float) -> dict[str, Any]:
    """The steps of a call that takes so long; where they are graphs, what the GPU has of it and what is left a step."""
    forward, replayed, steps = runtime.generation.engine.forward, [], []
    compute, graphs = forward.compute, forward.graphs

    def noting(parts: Sequence[Part]) -> Any:
        steps.append(len(parts))
        return compute(parts)

    with ExitStack() as patches:
        patches.enter_context(patch.object(forward, "compute", noting))
        if graphs is not None:
            find = graphs._graph

            def finding(key: Any) -> Any:
                replayed.append(key)
                return find(key)

            patches.enter_context(patch.object(graphs, "_graph", finding))
        program()
    row: dict[str, Any] = {"steps": len(steps), "replay ms": "", "GPU ms": "", "rest ms/step": ""}
    if graphs is None:
        return row
    replays = {key: _replay(graphs._graphs[key].run) for key in {*replayed}}
    gpu = sum(replays[key] for key in replayed)
    return row | {
        "replay ms": replays[statistics.mode(replayed)],
        "GPU ms": gpu,
        "rest ms/step": (milliseconds - gpu) / len(steps),
    }


def _replay(run: Callable[[], Any]) -> float:
    """Milliseconds of the GPU for a captured pass."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    start.record()
    for _ in range(_REPLAYS):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / _REPLAYS


if __name__ == "__main__":
    main()
