"""What tenants notice of each other in the engine: a step's length, rows, pages, prompts. On a clock that steps move by what
they compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from adapthub.runtime.rows import Part
from tests.runtime.generating import Oracle
from tests.runtime.test_engine import Bench, make, oracle

__all__ = ["make", "oracle"]  # fixtures

LIMIT, FIXED, PER_TOKEN = 0.5, 0.1, 0.01  # seconds: 40 tokens are a step


class Steps:
    """The sizes of the steps that a bench made, and the rows in them."""

    def __init__(
        self,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        fixed: float = FIXED,
        per_token: float = PER_TOKEN,
    ) -> None:
        self.sizes: list[int] = []
        self.rows: list[int] = []
        compute = bench.engine.forward.compute
        # On a GPU: the first steps by graphs capture them, and say nothing of what steps take.
        bench.engine.forward.graphs = None

        def slowly(parts: Sequence[Part]) -> Any:
            self.sizes.append(sum(part.count for part in parts))
            self.rows.append(len(parts))
            bench.now[0] += fixed + per_token * self.sizes[-1]
            return compute(parts)

        monkeypatch.setattr(bench.engine.forward, "compute", slowly)

    def clear(self) -> None:
        self.sizes.clear()
        self.rows.clear()


def text(seed: int, length: int) -> list[int]:
    """Tokens that share no beginning with another seed's."""
    return [5 + seed % 140, 5 + seed // 140, *(5 + (seed * place) % 140 for place in range(2, length))][
        :length
    ]


def learn(bench: Bench, *tenants: str) -> None:
    """Steps of two sizes: what a token costs is known then, and who these tenants are."""
    for tenant in tenants:
        for length in (9, 40):
            bench.submit(
                f"known {tenant} {length}",
                "base",
                text(1300 + length, length),
                max_new_tokens=2,
                tenant=tenant,
            )
            bench.run()


def flood(bench: Bench, tenant: str, count: int, length: int, new: int) -> None:
    for number in range(count):
        bench.submit(
            f"{tenant}{number}",
            "base",
            text(number, length),
            max_new_tokens=new,
            tenant=tenant,
            ignore_eos=True,
        )


def served(bench: Bench, tenant: str, count: int) -> int:
    return sum(len(event.tokens) for number in range(count) for event in bench.events[f"{tenant}{number}"])


def test_steps_become_no_longer_than_they_should(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(max_rows=32, step_seconds=LIMIT)
    steps = Steps(bench, monkeypatch)
    learn(bench, "many", "few")
    steps.clear()
    flood(bench, "many", 24, length=60, new=30)
    bench.run(until=lambda: bench.engine.load.running and not bench.engine.load.waiting)
    bench.submit("few", "base", text(900, 60), max_new_tokens=4, tenant="few", ignore_eos=True)
    before = len(steps.sizes)
    bench.run(until=lambda: bench.events["few"])
    assert len(steps.sizes) - before == 1, "its prompt is computed in its first step"
    bench.run()
    decoding, least = (
        16,
        32,
    )  # rows that may run beyond a share: 40 tokens less the prompts; prompts that are always computed
    assert max(steps.sizes) <= decoding + 2 * least
    assert max(steps.rows) <= 17
    assert bench.leaks_nothing()


def test_one_tenant_alone_is_not_limited(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    for tenant in ("", "alone"):
        bench = make(max_rows=16, step_seconds=LIMIT, pages=800)
        steps = Steps(bench, monkeypatch)
        learn(bench, tenant)
        steps.clear()
        flood(bench, tenant, 16, length=60, new=2)
        bench.run()
        sizes[tenant] = steps.sizes
    assert sizes[""] == sizes["alone"]
    assert sizes[""][0] == 512


def test_tenants_that_left_keep_nothing(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(max_rows=16, step_seconds=LIMIT)
    steps = Steps(bench, monkeypatch, fixed=0.45)
    learn(bench, "many", *(f"other{number}" for number in range(16)))
    bench.now[0] += 61
    steps.clear()
    flood(bench, "many", 20, length=15, new=5)
    bench.run()
    assert max(steps.rows) == 16


def test_what_steps_cost_is_learned_in_a_flood_too(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(max_rows=16, step_tokens=128, step_seconds=LIMIT, pages=800)
    steps = Steps(bench, monkeypatch)
    bench.submit("known", "base", text(999, 4), max_new_tokens=1, tenant="few")
    flood(bench, "many", 60, length=64, new=1)
    for _ in range(12):
        bench.engine.step()
    assert max(steps.sizes[6:]) <= 40 + 1


def test_a_longer_prompt_than_the_floods_is_computed(make: Any) -> None:
    bench = make(step_tokens=32, max_rows=8)
    bench.submit("known", "base", text(999, 4), max_new_tokens=1, tenant="few")
    flood(bench, "many", 60, length=32, new=1)
    bench.engine.step()
    bench.submit("few", "base", text(998, 33), max_new_tokens=1, tenant="few", ignore_eos=True)
    bench.run(until=lambda: bench.events["few"])
    assert sum(bool(bench.events[f"many{number}"]) for number in range(60)) <= 4  # of 8 that ran


def test_more_tenants_with_prompts_than_tokens_in_a_step_are_all_served(make: Any) -> None:
    bench = make(step_tokens=4, max_rows=12)
    for number in range(12):
        bench.submit(
            str(number), "base", text(number, 9), max_new_tokens=2, tenant=f"t{number}", ignore_eos=True
        )
    for _ in range(12 * 9):  # a step that computes nothing would be followed by more of them
        bench.engine.step()
    assert all(bench.events[str(number)][-1].finish_reason == "length" for number in range(12))


def test_weights_hold_while_steps_are_kept_short(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {}
    for limit in (math.inf, LIMIT):
        bench = make(max_rows=16, step_seconds=limit, weights={"heavy": 8.0})
        Steps(bench, monkeypatch, fixed=LIMIT)
        learn(bench, "heavy", "light")
        for tenant in ("heavy", "light"):
            flood(bench, tenant, 120, length=4, new=8)
        for _ in range(60):
            bench.engine.step()
        tokens[limit] = served(bench, "heavy", 120) / max(1, served(bench, "light", 120))
    assert tokens[math.inf] > 5
    assert tokens[LIMIT] > 5


def test_shadows_make_no_step_longer(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(max_rows=16, step_seconds=LIMIT, pages=800, weights={"": 0.01})
    steps = Steps(bench, monkeypatch)
    learn(bench, "few")
    steps.clear()
    flood(bench, "", 6, length=120, new=1)
    bench.submit("few", "base", text(999, 20), max_new_tokens=8, tenant="few", ignore_eos=True)
    bench.run(until=lambda: bench.events["few"])
    assert steps.sizes == [20 + 32]


def test_rows_that_make_room_are_the_floods(make: Any) -> None:
    bench = make(pages=40, max_rows=16)
    for number in range(3):
        bench.submit(
            f"many{number}",
            "base",
            text(number, 20),
            max_new_tokens=60,
            tenant="many",
            priority=9,
            ignore_eos=True,
        )
    bench.submit("few", "base", text(998, 20), max_new_tokens=60, tenant="few", ignore_eos=True)
    bench.run(until=lambda: bench.events["few"] and bench.events["few"][-1].finish_reason)
    assert bench.engine.preemptions
    assert "few" not in bench.engine._preempted
    assert Counter(row.request.tenant for row in bench.engine._preempted.values()).keys() <= {"many"}


def test_what_another_computes_in_a_pass_is_taken_over_by_those_in_it_alone(
    make: Any, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(step_seconds=LIMIT, max_rows=8)
    Steps(bench, monkeypatch, fixed=LIMIT)
    learn(bench, "t", "other")
    for pool in (*bench.engine.forward._kv.keys, *bench.engine.forward._kv.values):
        pool.fill_(9.0)  # what is read before it was computed shows
    compute, fails = bench.engine.forward._pass, [1]

    def once(parts: Sequence[Part]) -> Any:
        if fails and any(part.row.request.id == "a" for part in parts):
            fails.pop()
            raise RuntimeError("broken")
        return compute(parts)

    monkeypatch.setattr(bench.engine.forward, "_pass", once)
    for id in "ab":
        bench.submit(id, "base", range(20, 70), max_new_tokens=4, tenant="t", ignore_eos=True)
    bench.run()
    assert bench.events["a"][-1].error is not None
    assert bench.result("b").token_ids == oracle.greedy("base", range(20, 70), 4)
