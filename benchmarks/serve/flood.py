"""One tenant asks for 20 times its share; what its neighbour notices.

  calm    `steady` asks for a third of its half of what the server can do, `flooder` for its half
  flood   the same from `steady`, and 20 times its half from `flooder`

What is refused is the flooder's: its half of the queue is full.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import print_table
from benchmarks.serve.measures import percentile, ttfts_of
from benchmarks.serve.plan import Ask, poisson
from benchmarks.serve.servers import Server, ours
from benchmarks.serve.setting import Setting

# Requests a second, where one thread of an AMD EPYC serves about six.
_STEADY, _SHARE = 1.0, 3.0
_FLOOD = 20


def measure(setting: Setting) -> list[dict[str, Any]]:
    with ours(setting.base, setting.home, ("steady", "flooder")) as server:
        server.ask(_asks(setting, 5.0, flood=1))
        calm = _measured(setting, server, flood=1)
        flood = _measured(setting, server, flood=_FLOOD)
    rows = [
        {"load": name, **row, "p99 against calm": row["steady TTFT p99 ms"] / calm["steady TTFT p99 ms"]}
        for name, row in (("calm", calm), ("flood", flood))
    ]
    print_table(rows)
    return rows


def _measured(setting: Setting, server: Server, flood: int) -> dict[str, Any]:
    outcomes = server.ask(_asks(setting, setting.seconds, flood))
    steady = [outcome for outcome in outcomes if outcome["tenant"] == "steady"]
    return {
        "steady requests": len(steady),
        "flooder requests": len(outcomes) - len(steady),
        "flooder refused": sum(o["error"] is not None for o in outcomes if o["tenant"] == "flooder"),
        "steady refused": sum(outcome["error"] is not None for outcome in steady),
        "steady TTFT p50 ms": 1e3 * percentile(ttfts_of(outcomes, "steady"), 50),
        "steady TTFT p99 ms": 1e3 * percentile(ttfts_of(outcomes, "steady"), 99),
        "steady tokens": sum(outcome["tokens"] for outcome in steady),
    }


def _asks(setting: Setting, seconds: float, flood: int) -> list[Ask]:
    steady = poisson(_STEADY, seconds, ["steady"], setting.models[:20], setting.prompts, seed=1)
    flooder = poisson(_SHARE * flood, seconds, ["flooder"], setting.models[20:40], setting.prompts, seed=2)
    return [*steady, *flooder]
