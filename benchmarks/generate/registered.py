"""Thousands registered: the same five adapters in use, of five registered and of 2,000.

Does not load the others, or compare with a peer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.common import in_turn, ratio
from benchmarks.generate.common import REQUESTS, Setting, ours
from benchmarks.generate.files import copies


def measure(setting: Setting) -> list[dict[str, Any]]:
    prompts = setting.prompts()
    many = copies(setting.adapters[0], setting.folder / f"many-{setting.loaded}", 2000)
    used = [many[i % 5] for i in range(REQUESTS)]
    programs: dict[str, Callable[[], Any]] = {}
    runtimes = []
    for count in (5, 2000):
        runtime = setting.runtime(slots=64)
        for path in many[:count]:
            runtime.register(path)
        programs[str(count)] = partial(ours, runtime, prompts, used)
        runtimes.append(runtime)
    seconds = in_turn(programs, setting.rounds)
    for runtime in runtimes:
        runtime.close()
    return [{"quantize": setting.loaded, "speed at 2,000 against 5": ratio(seconds, "5", "2000")}]
