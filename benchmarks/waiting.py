"""How threads wait for each other, alone on a machine and beside another process that computes.

    python -m benchmarks.waiting [--rounds 3]

OpenMP's threads, among which torch divides a product, spin while they wait for the last one; where that one's core is
another process's just then, all keep theirs and compute nothing. `awake` is GNU's OpenMP as it comes; `briefly`: they spin
for some microseconds (GOMP_SPINCOUNT=2000), then sleep; `asleep` (OMP_WAIT_POLICY=passive): they never spin. Each run is a
process of its own with as many threads as there are cores, in turn: `step ms` a training step of 32 CoNLL sentences on
MiniLM, in bfloat16 where the processor has it, `token ms` one of 32 tokens that SmolLM2-135M writes greedily. The neighbour
is a process that counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from adapthub.recipes.adaptation import multiplies_bfloat16
from adapthub.runtime import Runtime
from benchmarks.common import print_table, write_results
from benchmarks.precision import training_step

WAYS = {
    "awake": {},
    "briefly": {"GOMP_SPINCOUNT": "2000"},
    "asleep": {"OMP_WAIT_POLICY": "passive"},
}
_STEPS, _TOKENS = 9, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(_measured()))
        return
    rows = []
    for neighbours in (0, 1):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        with _busy(neighbours):
            for _ in range(options.rounds):
                for way, environment in WAYS.items():
                    found[way].append(_run(environment))
        row: dict[str, object] = {"neighbours": neighbours, "threads": found["awake"][0]["threads"]}
        for name in ("step ms", "token ms"):
            of = {way: [each[name] for each in found[way]] for way in WAYS}
            row |= {f"{name}, {way}": statistics.median(times) for way, times in of.items()}
            ratios = [awake / briefly for awake, briefly in zip(of["awake"], of["briefly"], strict=True)]
            row[f"{name.split()[0]}: awake/briefly"] = statistics.median(ratios)
        rows.append(row)
    print_table(rows)
    print(write_results("waiting", f"python -m benchmarks.waiting --rounds {options.rounds}", rows))


def _measured() -> dict[str, float]:
    step, bfloat16 = training_step(None), multiplies_bfloat16()
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        step(bfloat16=bfloat16)
        times.append(time.perf_counter() - began)
    with Runtime("package:smollm2-135m") as runtime:
        runtime.generate(["Once upon a time"], max_new_tokens=2)
        began = time.perf_counter()
        (written,) = runtime.generate(["Once upon a time"], max_new_tokens=_TOKENS, ignore_eos=True)
        token = (time.perf_counter() - began) / len(written.token_ids)
    return {
        "threads": torch.get_num_threads(),
        "step ms": 1000 * statistics.median(times[1:]),
        "token ms": 1000 * token,
    }


def _run(environment: dict[str, str]) -> dict[str, float]:
    known = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    known["OMP_NUM_THREADS"] = str(os.cpu_count())
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.waiting", "--run"],
        env=known | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(ended.stderr)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


@contextmanager
def _busy(neighbours: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


if __name__ == "__main__":
    main()
