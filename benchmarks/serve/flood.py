"""One tenant asks for 20 times its share; what its neighbour notices.

  calm    `steady` sends its requests, `flooder` as many
  flood   the same from `steady`, and 20 times as many from `flooder`

`token share`: of what the server generated while `steady` asked, the part that went to it, over what it asked for alone.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import print_table
from benchmarks.serve.measures import percentile, ttfts_of
from benchmarks.serve.plan import Ask, poisson
from benchmarks.serve.servers import Server, ours
from benchmarks.serve.setting import Setting

_RATE = 0.5  # requests a second that `steady` sends
_FLOOD = 20


def measure(setting: Setting) -> list[dict[str, Any]]:
    with ours(setting.base, setting.home, ("steady", "flooder")) as server:
        server.ask(_asks(setting, 1.0, 5.0, flood=1))
        calm = _measured(setting, server, flood=1)
        flood = _measured(setting, server, flood=_FLOOD)
    rows = [
        {"load": name, **row, "p99 against calm": row["steady TTFT p99 ms"] / calm["steady TTFT p99 ms"]}
        for name, row in (("calm", calm), ("flood", flood))
    ]
    print_table(rows)
    return rows


def _measured(setting: Setting, server: Server, flood: int) -> dict[str, Any]:
    outcomes = server.ask(_asks(setting, _RATE, setting.seconds, flood))
    steady = [outcome for outcome in outcomes if outcome["tenant"] == "steady"]
    return {
        "steady requests": len(steady),
        "flooder requests": len(outcomes) - len(steady),
        "refused": sum(outcome["error"] is not None for outcome in outcomes),
        "steady TTFT p50 ms": 1e3 * percentile(ttfts_of(outcomes, "steady"), 50),
        "steady TTFT p99 ms": 1e3 * percentile(ttfts_of(outcomes, "steady"), 99),
        "steady tokens": sum(outcome["tokens"] for outcome in steady),
    }


def _asks(setting: Setting, rate: float, seconds: float, flood: int) -> list[Ask]:
    steady = poisson(rate, seconds, ["steady"], setting.models[:20], setting.prompts, seed=1)
    flooder = poisson(rate * flood, seconds, ["flooder"], setting.models[20:40], setting.prompts, seed=2)
    return [*steady, *flooder]
