"""Misses: the times between tokens of 8 steady requests while short ones come by whose adapter is there, or must be read
from disk.

A ninth request comes after every 8 tokens and has a slot of its own. It uses one adapter all the time, or each time another
one that is on disk alone; its prompt is never one seen before. Does not compare with a peer.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

from adapthub.runtime import Runtime
from adapthub.runtime.generation import Limits
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampling
from benchmarks.generate.common import Setting
from benchmarks.generate.files import copies

STEADY, TOKENS = 8, 192


def measure(setting: Setting) -> list[dict[str, Any]]:
    row: dict[str, Any] = {"quantize": setting.loaded}
    gaps = _gaps(setting)
    for name, share in (("median", 50), ("p99", 99)):
        there, missing = (statistics.quantiles(found, n=100)[share - 1] for found in gaps.values())
        row |= {
            f"{name} ms": there * 1000,
            f"{name} ms, missing": missing * 1000,
            f"{name} ratio": missing / there,
        }
    return [row]


def _gaps(setting: Setting) -> dict[str, list[float]]:
    """Seconds between tokens, with guests whose adapter is "there" or "missing", all rounds but the first together."""
    guests = copies(
        setting.adapters[0],
        setting.folder / f"guests-{setting.loaded}",
        1 + (setting.rounds + 1) * TOKENS // 8,
    )
    prompts = setting.prompts()
    gaps: dict[str, list[float]] = {"there": [], "missing": []}
    limits = Limits(kv_tokens=8192, max_rows=16)
    with Runtime(setting.base(), slots=STEADY + 1, host_bytes=0, limits=limits) as runtime:
        for guest in guests:
            runtime.register(guest)
        digests = [runtime.attach(setting.adapters[place]) for place in range(STEADY)]
        sampling = Sampling(max_new_tokens=TOKENS, ignore_eos=True)
        fresh, first = iter(guests[1:]), iter(range(len(guests) * 2))

        def run(kind: str) -> list[float]:
            ticks: list[list[float]] = [[] for _ in range(STEADY)]
            due: SimpleQueue[bool] = SimpleQueue()

            def note(place: int, event: Event) -> None:
                ticks[place].append(time.perf_counter())
                if place == 0 and (event.finish_reason or len(ticks[0]) % 8 == 0):
                    due.put(event.finish_reason is None)

            for place, digest in enumerate(digests):
                runtime.generation.submit(prompts[place], ((1.0, digest),), sampling, partial(note, place))
            waiting = []
            while due.get():
                adapter = next(fresh) if kind == "missing" else guests[0]
                prompt = [100 + next(first), *prompts[STEADY]]
                waiting.append(runtime.stream(prompt, adapter, max_new_tokens=2, ignore_eos=True))
            for stream in waiting:
                stream.result()
            return [b - a for row in ticks for a, b in pairwise(row[2:])]

        for counted in [False] + [True] * setting.rounds:
            for kind in gaps:
                measured = run(kind)
                if counted:
                    gaps[kind] += measured
    return gaps
