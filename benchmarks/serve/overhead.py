"""What HTTP costs the engine: the same requests through `Runtime.generate` in its process, and through the server over it.

  engine   192 prompts, of which 32 run at a time, each on an adapter of its own, by `Runtime.generate`
  server   the same over HTTP, streamed to clients in another process, by the same Runtime

In turn; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import torch

from adapthub.hub import open_hub
from adapthub.runtime.generation import Limits
from adapthub.runtime.server.lifecycle import Running, ServerSettings, serve
from benchmarks.common import in_turn, print_table, ratio
from benchmarks.serve.plan import NEW, at_once
from benchmarks.serve.servers import KV_TOKENS, STEP_TOKENS, Server
from benchmarks.serve.setting import Setting

REQUESTS, ROWS = 192, 32


def measure(setting: Setting) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    limits = Limits(kv_tokens=KV_TOKENS, max_rows=ROWS, step_tokens=STEP_TOKENS)
    settings = ServerSettings(str(setting.base), port=0, limits=limits)
    started: SimpleQueue[Running] = SimpleQueue()
    thread = threading.Thread(
        target=serve, args=[settings], kwargs={"hub": open_hub(setting.hub), "announce": started.put}
    )
    thread.start()
    running = started.get()
    try:
        return _measure(setting, running)
    finally:
        running.stop()
        thread.join()


def _measure(setting: Setting, running: Running) -> list[dict[str, Any]]:
    runtime = running.serving.runtime
    server = Server(running.address, str(setting.base), {}, {"ignore_eos": True})
    models = setting.models[:REQUESTS]
    asks = at_once(REQUESTS, models, setting.prompts)
    took: list[float] = []

    def engine() -> None:
        runtime.generation.engine.clear_cache()
        prompts, adapters = [ask.prompt for ask in asks], [ask.model for ask in asks]
        runtime.generate(prompts, adapters, max_new_tokens=NEW, ignore_eos=True)

    def over_http() -> None:
        runtime.generation.engine.clear_cache()
        outcomes = server.ask(asks)
        failed = [outcome["error"] for outcome in outcomes if outcome["error"]]
        if failed:
            raise RuntimeError(failed[0])
        took.append(max(outcome["ended"] for outcome in outcomes))

    seconds = in_turn({"engine": engine, "server": over_http}, setting.rounds)
    seconds["server"] = took[1:]  # without starting the clients' process
    row = {
        "requests": REQUESTS,
        "engine tokens/s": REQUESTS * NEW / sorted(seconds["engine"])[setting.rounds // 2],
        "server tokens/s": REQUESTS * NEW / sorted(seconds["server"])[setting.rounds // 2],
        "engine / server": ratio(seconds, "engine", "server"),
    }
    print_table([row])
    return [row]
