"""Passes by kernels, uncaptured under Triton's interpreter or as CUDA graphs, against plain PEFT."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from adapthub.adapters.entries import Entries
from adapthub.runtime.graphs import PassGraphs, _buckets
from adapthub.runtime.rows import Part
from tests.kernels.triton_here import interpreted_or_on_a_gpu
from tests.runtime.generating import Oracle
from tests.runtime.test_engine import Bench, make, oracle, prompt

interpreted_or_on_a_gpu()
__all__ = ["make", "oracle"]  # fixtures

SERVED = ["base", "lora", "rslora", "dora", "lora-bias", "wide", "prefix", "prompt", "sum", "difference"]
SERVED += ["prefix and lora", "head"]
NOT_SERVED = ["embedding", "ia3"]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter takes a millisecond a program; how rows are cut into parts is tests/kernels' matter."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("adapthub.kernels.decode_attention._PROGRAMS", 1)


class Counted(PassGraphs):
    """Passes that note the rows that they computed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.computed: list[str] = []

    def compute(self, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        self.computed += [part.row.request.id for part in parts]
        return super().compute(parts)


def with_graphs(bench: Bench, max_rows: int = 8) -> Counted:
    forward = bench.engine.forward
    graphs = Counted(bench.adapted, forward._kv, context=160, max_rows=max_rows, max_tokens=64)
    forward.graphs = graphs
    return graphs


def test_rows_of_all_kinds_in_one_pass_are_plain_pefts(oracle: Oracle, make: Any) -> None:
    bench = make(max_rows=16, step_tokens=64)
    graphs = with_graphs(bench, 16)
    kinds = [*SERVED, *NOT_SERVED]
    bench.load(*kinds)
    for kind in kinds:
        bench.submit(kind, kind, range(20, 25), max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert {kind: bench.result(kind).token_ids for kind in kinds} == {
        kind: oracle.greedy(kind, range(20, 25), 3) for kind in kinds
    }
    assert set(graphs.computed) == set(SERVED)
    assert bench.leaks_nothing()


def test_a_random_mix_with_preemptions_is_plain_pefts(oracle: Oracle, make: Any) -> None:
    rng = random.Random(3)
    bench = make(pages=12, max_rows=4, step_tokens=16)
    with_graphs(bench, 4)
    asked = {}
    for number in range(8):
        kind = rng.choice([kind for kind in SERVED if "pr" not in kind])  # prefixes take half of the pages
        asked[str(number)] = kind, prompt(rng, 20), rng.randint(1, 8)
        bench.submit(
            str(number), *asked[str(number)][:2], max_new_tokens=asked[str(number)][2], ignore_eos=True
        )
        bench.engine.step()
    bench.run()
    for id, (kind, tokens, count) in asked.items():
        assert bench.result(id).token_ids == oracle.greedy(kind, tokens, count), kind
    assert bench.engine.preemptions > 0
    assert bench.leaks_nothing()


def test_a_module_that_is_adapted_later_is_served(oracle: Oracle, make: Any) -> None:
    bench = make()
    with_graphs(bench)
    for kind in ("wide", "lora", "wide"):  # q and v alone, then all, then as before
        bench.submit(kind, kind, range(20, 24), max_new_tokens=2, ignore_eos=True)
        bench.run()
        assert bench.result(kind).token_ids == oracle.greedy(kind, range(20, 24), 2)
        bench.events.clear()


def test_adapters_that_left_and_came_back_are_read_where_they_are_now(oracle: Oracle, make: Any) -> None:
    bench = make(slots=1)
    with_graphs(bench)
    for turn, kind in enumerate(["lora", "wide", "lora", "dora", "lora"]):
        bench.submit(str(turn), kind, range(20 + turn, 26), max_new_tokens=2, ignore_eos=True)
        bench.run()
        assert bench.result(str(turn)).token_ids == oracle.greedy(kind, range(20 + turn, 26), 2)


def test_another_threads_pass_is_none_of_a_captured_ones(oracle: Oracle, make: Any) -> None:
    """Binding a prompt adapter runs the model, on a loader's thread, at any moment."""
    bench = make()
    graphs = with_graphs(bench)
    bench.submit("a", "lora", range(20, 24), max_new_tokens=2, ignore_eos=True)
    bench.run()
    ids = torch.arange(20, 29, device=bench.adapted.base.device)[None]

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = bench.adapted.base.model(input_ids=ids, use_cache=False).logits
            return logits

    expected = plain()
    entries = Entries(graphs._paths, 1, 1, 4, ids.device, torch.float32)
    row_of = torch.zeros(4, dtype=torch.int64, device=ids.device)
    with (
        ThreadPoolExecutor(1) as thread,
        bench.adapted.applying_told(entries.of(row_of, row_of)),
    ):
        assert torch.equal(thread.submit(plain).result(), expected)


def test_what_cannot_be_captured_goes_on_without_graphs(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    graphs = with_graphs(bench)

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "_pass", refuse)
    bench.submit("a", "lora", range(20, 30), max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert bench.result("a").token_ids == oracle.greedy("lora", range(20, 30), 3)
    assert "without CUDA graphs" in caplog.text
    assert graphs.computed == ["a"]  # and never again


def test_numbers_of_rows_are_rounded_up_to_few() -> None:
    assert _buckets(1) == [1]
    assert _buckets(12) == [1, 2, 4, 8, 12]
    assert _buckets(512) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512]
