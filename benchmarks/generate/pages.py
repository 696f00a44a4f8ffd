"""How many of the pages' places hold a token, counted after every step in which all requests run. Times nothing."""

from __future__ import annotations

from typing import Any

from adapthub.runtime.generation import PAGE_SIZE
from benchmarks.generate.common import REQUESTS, Setting, ours


def measure(setting: Setting) -> list[dict[str, Any]]:
    places = tokens = 0
    with setting.runtime() as runtime:
        engine = runtime.generation.engine
        step = engine.step

        def counted() -> bool:
            nonlocal places, tokens
            worked = step()
            load = engine.load
            if load.running == REQUESTS:
                places += (load.pages - load.free_pages) * PAGE_SIZE
                tokens += load.tokens
            return worked

        engine.step = counted  # type: ignore[method-assign]
        ours(runtime, setting.prompts(), [setting.adapters[0]] * REQUESTS)
    return [{"quantize": setting.loaded, "page tokens": PAGE_SIZE, "places / tokens": places / tokens}]
