"""Fewer slots than adapters: 32 adapters, Zipf, over 32, 24, 16 and 8 slots; 128 requests, so that what left comes back.

Does not compare with a peer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.common import in_turn, ratio
from benchmarks.generate.common import Setting, chosen_adapters, ours


def measure(setting: Setting) -> list[dict[str, Any]]:
    prompts = setting.prompts() * 4
    chosen = [i for seed in range(4) for i in chosen_adapters(32, "zipf", seed=seed)]
    adapters = [setting.adapters[i] for i in chosen]
    programs: dict[str, Callable[[], Any]] = {}
    runtimes = [(slots, setting.runtime(slots)) for slots in (32, 24, 16, 8)]
    for slots, runtime in runtimes:
        programs[str(slots)] = partial(ours, runtime, prompts, adapters)
    seconds = in_turn(programs, setting.rounds)
    for _, runtime in runtimes:
        runtime.close()
    return [
        {
            "quantize": setting.loaded,
            "slots": slots,
            "adapters": len(set(chosen)),
            "speed against 32 slots": ratio(seconds, "32", str(slots)),
        }
        for slots, _ in runtimes
    ]
