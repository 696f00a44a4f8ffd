"""Open-loop load: Poisson arrivals, Zipf over the adapters, 20 tenants; the same plan for ours and its peers.

transformers serves the base alone, PEFT one adapter at a time. Each is measured at every rate in turn, alone; PEFT at the
first only, at which its queue grows already.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.common import print_table
from benchmarks.serve.measures import summary
from benchmarks.serve.plan import Ask, poisson
from benchmarks.serve.servers import Server, ours, peft, transformers
from benchmarks.serve.setting import Setting


def measure(setting: Setting) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    servers: dict[str, AbstractContextManager[Server]] = {
        "ours": ours(setting.base, setting.home, setting.tenants),
        "transformers, base": transformers(setting.base),
        "PEFT": peft(setting.base, setting.adapters),
    }
    for name, started in servers.items():
        with started as server:
            server.ask(_asks(setting, server, name, 1.0, 5.0))  # to warm up
            for rate in setting.rates[:1] if name == "PEFT" else setting.rates:
                outcomes = server.ask(_asks(setting, server, name, rate, setting.seconds))
                rows.append({"server": name, "rate/s": rate, **summary(outcomes)})
                print_table(rows[-1:])
    return rows


def _asks(setting: Setting, server: Server, name: str, rate: float, seconds: float) -> Sequence[Ask]:
    models = [server.base] if name.startswith("transformers") else setting.models
    return poisson(rate, seconds, setting.tenants, models, setting.prompts, seed=0)
