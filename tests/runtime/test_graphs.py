"""Passes by kernels, uncaptured under Triton's interpreter or as CUDA graphs, against plain PEFT."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from adapthub.adapters.entries import Entries
from adapthub.runtime.graphs import PassGraphs, buckets_of
from adapthub.runtime.pass_memory import graph_bytes
from adapthub.runtime.rows import Part
from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted
from tests.runtime.generating import Oracle
from tests.runtime.test_engine import Bench, make, oracle, prompt, raising

interpreted_or_on_a_gpu()
__all__ = ["make", "oracle"]  # fixtures

SERVED = ["base", "lora", "rslora", "dora", "lora-bias", "wide", "prefix", "prompt", "sum", "difference"]
SERVED += ["prefix and lora", "head"]
NOT_SERVED = ["embedding", "ia3"]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter takes a millisecond a program; how rows are cut into parts is tests/kernels' matter."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("adapthub.adapters.kernels.decode_attention._PROGRAMS", 1)


class Counted(PassGraphs):
    """Passes that note the rows that they did compute."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.computed: list[str] = []

    def compute(self, parts: Sequence[Part]) -> torch.Tensor | None:
        logits = super().compute(parts)
        if logits is not None:
            self.computed += [part.row.request.id for part in parts]
        return logits


def with_graphs(bench: Bench, max_rows: int = 8) -> Counted:
    forward = bench.engine.forward
    graphs = Counted(bench.adapted, forward._kv, context=160, max_rows=max_rows, max_tokens=64)
    forward.graphs = graphs
    return graphs


def with_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch, max_rows: int = 8) -> Counted:
    """Where an eager pass is none at all: it would hide that graphs have failed."""

    def eager(parts: Sequence[Part]) -> None:
        raise AssertionError(f"an eager pass of {len(parts)} parts")

    monkeypatch.setattr(bench.engine.forward, "_compute", eager)
    return with_graphs(bench, max_rows)


@slow_when_interpreted
@pytest.mark.parametrize("apart", [64, 4], ids=["by token", "by runs"])
def test_rows_of_all_kinds_in_one_pass_are_plain_pefts(
    apart: int, oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.adapters.token_runs._APART", apart)
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
    assert all(graphs.computed.count(kind) >= 3 for kind in SERVED)
    assert not {*graphs.computed}.intersection(NOT_SERVED)
    assert bench.leaks_nothing()


@slow_when_interpreted
def test_a_random_mix_with_preemptions_is_plain_pefts(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    bench = make(pages=12, max_rows=4, step_tokens=16)
    with_nothing_else(bench, monkeypatch, 4)
    kinds = [kind for kind in SERVED if "pr" not in kind]  # prefixes take half of the pages
    bench.load(*kinds)  # or it would depend on the machine which rows are there together
    asked = {}
    for number in range(8):
        kind = rng.choice(kinds)
        asked[str(number)] = kind, prompt(rng, 12), rng.randint(4, 12)
        bench.submit(
            str(number), *asked[str(number)][:2], max_new_tokens=asked[str(number)][2], ignore_eos=True
        )
        bench.engine.step()
    bench.run()
    for id, (kind, tokens, count) in asked.items():
        assert bench.result(id).token_ids == oracle.greedy(kind, tokens, count), kind
    assert bench.engine.preemptions > 0
    assert bench.leaks_nothing()


def test_a_pass_that_was_captured_says_nothing_of_what_steps_take(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    graphs = with_nothing_else(bench, monkeypatch)
    compute, capture = bench.engine.forward.compute, graphs._capture

    def slowly(parts: Sequence[Part]) -> Any:
        bench.now[0] += 0.01 * sum(part.count for part in parts)
        return compute(parts)

    def more_slowly(*key: int) -> Any:
        bench.now[0] += 9.0
        return capture(*key)

    monkeypatch.setattr(bench.engine.forward, "compute", slowly)
    monkeypatch.setattr(graphs, "_capture", more_slowly)
    for _ in range(2):  # passes of 8 tokens and of 1, captured in the first round
        bench.submit("a", "base", [5 + graphs.captures, *range(20, 27)], max_new_tokens=3, ignore_eos=True)
        bench.run()
    assert graphs.captures == 2
    assert bench.engine._pace.tokens(1.0) == pytest.approx(100)


def test_a_module_that_is_adapted_later_is_served(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    with_nothing_else(bench, monkeypatch)
    # No module, then q and v alone, all, as before, and none again.
    for kind in ("prefix", "wide", "lora", "wide", "prefix", "base"):
        bench.submit(kind, kind, range(20, 24), max_new_tokens=2, ignore_eos=True)
        bench.run()
        assert bench.result(kind).token_ids == oracle.greedy(kind, range(20, 24), 2)
        bench.events.clear()


def test_adapters_that_left_and_came_back_are_read_where_they_are_now(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(slots=1)
    with_nothing_else(bench, monkeypatch)
    for turn, kind in enumerate(["lora", "wide", "lora", "dora", "lora"]):
        asked = [20 + turn, 30, 31]  # of one size, so that a pass that was captured is run again
        bench.submit(str(turn), kind, asked, max_new_tokens=2, ignore_eos=True)
        bench.run()
        assert bench.result(str(turn)).token_ids == oracle.greedy(kind, asked, 2)


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
        bench.adapted.applying_told(entries.of(row_of, row_of), graphs._paths),
    ):
        assert torch.equal(thread.submit(plain).result(), expected)


@slow_when_interpreted
def test_what_captured_passes_keep_is_what_is_planned(make: Any) -> None:
    bench = make()
    graphs = with_graphs(bench)
    bench.load("lora")
    told = bench.adapted.telling.rows([((1.0, bench.digests["lora"]),)])
    assert told is not None
    rank = told[0][0][1].rank
    for size in graphs._buckets:
        graphs._graphs[size, 1, rank] = graphs._capture(size, 1, rank)
        graphs._graphs[size, 1, rank].run()
    assert graphs._logits is not None
    kept = [graphs._logits, graphs._lanes.table]
    for graph in graphs._graphs.values():
        kept += [graph.inputs, graph.entries._table, graph.entries._factors]
    modules, vocabulary = len(bench.adapted.telling.paths), graphs._logits.shape[1]
    assert modules
    # The largest pass's entries by token are in the pool of all, which nobody but the allocator sees.
    by_token = (64 + 8) * modules * 56
    planned = graph_bytes(modules, vocabulary, graphs._lanes.table.shape[1], rows=8, tokens=64)
    assert planned == sum(tensor.nbytes for tensor in kept) + by_token


@pytest.fixture
def failing(make: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, Counted, list[Exception | None]]:
    """A bench whose captures fail with the errors that a test puts there, one each; None lets one be."""
    bench = make()
    graphs = with_graphs(bench)
    errors: list[Exception | None] = []
    capture = graphs._capture

    def capture_or_fail(*key: int) -> Any:
        if errors and (error := errors.pop(0)) is not None:
            raise error
        return capture(*key)

    monkeypatch.setattr(graphs, "_capture", capture_or_fail)
    return bench, graphs, errors


def run(bench: Bench, oracle: Oracle, id: str) -> None:
    """A prompt of 4 tokens, so that it is the first pass's, and a step: passes of two sizes."""
    bench.submit(id, "lora", [ord(id), *range(20, 23)], max_new_tokens=2, ignore_eos=True)
    bench.run()
    assert bench.result(id).token_ids == oracle.greedy("lora", [ord(id), *range(20, 23)], 2)


def test_a_size_that_cannot_be_captured_goes_without_and_is_not_tried_again(
    oracle: Oracle, failing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench, graphs, errors = failing
    errors += [RuntimeError("operation not permitted when stream is capturing")]
    for id in "ab":
        run(bench, oracle, id)
    assert "passes of 4 tokens go without a CUDA graph" in caplog.text
    assert caplog.text.count("not permitted") == 1
    assert graphs.computed == ["a", "b"]  # their steps


def test_memory_that_is_short_for_a_moment_costs_the_graphs_and_no_more(oracle: Oracle, failing: Any) -> None:
    bench, graphs, errors = failing
    run(bench, oracle, "a")
    assert len(graphs._graphs) == 2
    errors += [torch.OutOfMemoryError("CUDA out of memory")]
    del graphs._graphs[next(iter(graphs._graphs))]
    run(bench, oracle, "b")  # the prompt eagerly, the step captured anew
    run(bench, oracle, "c")
    assert graphs.computed == ["a", "a", "b", "c", "c"]


def test_a_model_that_cannot_be_captured_at_all_is_left_alone(oracle: Oracle, failing: Any) -> None:
    bench, graphs, errors = failing
    errors += [RuntimeError("no"), RuntimeError("no"), None, RuntimeError("no")]
    run(bench, oracle, "a")
    graphs._refused.clear()
    run(bench, oracle, "b")  # the prompt is captured: failures count from 0 again
    assert graphs._failures == 1
    graphs._refused.clear()
    errors += [RuntimeError("no"), RuntimeError("no")]
    run(bench, oracle, "c")
    graphs._graphs.clear()
    graphs._refused.clear()
    run(bench, oracle, "d")
    graphs._refused.clear()
    run(bench, oracle, "e")
    assert errors == []
    assert graphs._failures == 3
    assert graphs.computed.count("e") == 0


def test_a_replay_that_fails_fails_its_own_rows(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    graphs = with_graphs(bench)
    bench.load("lora", "ia3")
    monkeypatch.setattr(graphs._lanes, "place", raising(torch.OutOfMemoryError("no room")))
    for kind in ("lora", "ia3"):
        bench.submit(kind, kind, range(20, 24), max_new_tokens=2, ignore_eos=True)
    bench.run()
    assert "no room" in str(bench.events["lora"][-1].error)
    assert bench.result("ia3").token_ids == oracle.greedy("ia3", range(20, 24), 2)
    assert bench.leaks_nothing()


def test_a_graph_with_room_for_more_adapters_serves_fewer(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    graphs = with_nothing_else(bench, monkeypatch)
    for kind in ("sum", "lora", "base"):  # two terms, one, none
        bench.submit(kind, kind, range(20, 24), max_new_tokens=2, ignore_eos=True)
        bench.run()
        assert bench.result(kind).token_ids == oracle.greedy(kind, range(20, 24), 2)
    assert sorted(graphs._graphs) == [(1, 0, 0), (1, 2, 16), (4, 0, 0), (4, 2, 16)]


def test_numbers_of_rows_are_rounded_up_to_few() -> None:
    assert buckets_of(1) == [1]
    assert buckets_of(12) == [1, 2, 4, 8, 12]
    assert buckets_of(512) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512]
