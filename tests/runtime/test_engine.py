"""The engine against plain PEFT, request by request, in random mixes; and what it does when things go wrong."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, OutOfMemory, Overloaded
from adapthub.adapters.selections import Selection
from adapthub.runtime.attention import serves
from adapthub.runtime.engine import Engine
from adapthub.runtime.host_copy import HostCopy
from adapthub.runtime.kv import KV, Pages
from adapthub.runtime.requests import Event, Generation, Request, Usage, generation
from adapthub.runtime.residency import Residency
from adapthub.runtime.rows import Part
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.text_stream import TextStream
from tests.runtime.generating import KINDS, Oracle, write_oracle

PAGE = 4


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return write_oracle(tmp_path_factory.mktemp("generating"))


@dataclass
class Bench:
    """An engine stepped by the test, and the events that it delivered."""

    engine: Engine
    adapted: AdaptedBase
    residency: Residency
    oracle: Oracle
    pages: Pages
    loaded: threading.Event
    digests: dict[str, str]
    now: list[float]
    events: dict[str, list[Event]] = field(default_factory=dict)

    def selection(self, kind: str) -> Selection:
        return tuple((weight, self.digests[name]) for weight, name in self.oracle.terms(kind))

    def submit(self, id: str, kind: str, prompt: Sequence[int], **options: Any) -> None:
        known = ("tenant", "priority", "deadline", "choice")
        given = {name: options.pop(name) for name in known if name in options}
        events = self.events.setdefault(id, [])
        self.engine.submit(
            Request(id, tuple(prompt), self.selection(kind), Sampling(**options), events.append, **given)
        )

    def load(self, *kinds: str) -> None:
        """Wait until the adapters are in slots: what is submitted then begins together, however slow the machine is."""
        for kind in kinds:
            while self.residency.want([digest for _, digest in self.selection(kind)]) == "loading":
                self.loaded.wait(0.02)
                self.loaded.clear()

    def run(self, until: Any = None) -> None:
        """Step until nothing is left to do, or `until` says so."""
        while self.engine.busy and not (until and until()):
            self.loaded.clear()
            if not self.engine.step() and self.engine.busy:
                self.loaded.wait(0.02)

    def result(self, id: str) -> Generation:
        return generation(self.events[id])

    def leaks_nothing(self) -> bool:
        self.engine.clear_cache()
        holders = sum(resident.holders for resident in self.residency.snapshot())
        return self.pages.free == self.pages.count and holders == 0


@pytest.fixture
def make(oracle: Oracle) -> Iterator[Any]:
    benches = []

    def build(
        pages: int = 400,
        slots: int | None = None,
        quantize: str | None = None,
        queue_limit: int = 1024,
        weights: dict[str, float] | None = None,
        **options: Any,
    ) -> Bench:
        base = load_base(str(oracle.folder), quantize=quantize, dtype="float32")
        adapted = AdaptedBase(base)
        residency = Residency(adapted, slots=slots, slot_bytes=None, host_bytes=1 << 30)
        serving = serves(base.model)
        pool, now = Pages(pages), [0.0]
        tokenizer = base.tokenizer
        assert tokenizer is not None
        engine = Engine(
            adapted,
            residency,
            kv=KV(serving.shapes, pages, PAGE, base.device, serving.dtype),
            pages=pool,
            stream=lambda request: TextStream(tokenizer, request.sampling.stop),
            eos_ids=frozenset([3]),
            context=serving.context or 160,
            scheduler=Scheduler(clock=lambda: now[0], queue_limit=queue_limit, weights=weights),
            clock=lambda: now[0],
            **options,
        )
        loaded = threading.Event()
        residency.when_ready(loaded.set)
        digests = {name: residency.register(oracle.artifact(name)) for name in oracle.adapters}
        benches.append(Bench(engine, adapted, residency, oracle, pool, loaded, digests, now))
        return benches[-1]

    yield build
    for bench in benches:
        bench.residency.close()
        bench.adapted.close()


def prompt(rng: random.Random, longest: int = 40) -> list[int]:
    return [rng.randrange(5, 150) for _ in range(rng.randint(1, longest))]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_plain_pefts(kind: str, oracle: Oracle, make: Any) -> None:
    bench = make()
    bench.submit("a", kind, range(20, 33), max_new_tokens=8, ignore_eos=True)
    bench.run()
    assert bench.result("a").token_ids == oracle.greedy(kind, range(20, 33), 8)


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {"step_tokens": 16, "max_rows": 5}),  # prompts in chunks
        (2, {"pages": 90, "max_rows": 16}),  # preemption
        (3, {"slots": 3, "max_rows": 8}),  # adapters take turns
        pytest.param(4, {"slots": 2, "pages": 60, "step_tokens": 24}, marks=pytest.mark.slow),
    ],
)
def test_a_random_mix_of_64_requests_is_plain_pefts_request_by_request(
    seed: int, options: dict[str, Any], oracle: Oracle, make: Any
) -> None:
    rng = random.Random(seed)
    bench = make(**options)
    asked = {}
    for number in range(64):
        kind = rng.choice(KINDS)
        if kind == "prefix and lora" and options.get("slots") == 1:
            kind = "lora"
        count = rng.randint(1, 12)
        asked[str(number)] = (kind, prompt(rng), count)
        bench.submit(
            str(number),
            *asked[str(number)][:2],
            max_new_tokens=count,
            ignore_eos=True,
            tenant=rng.choice("ab"),
        )
        for _ in range(rng.randint(0, 2)):
            bench.engine.step()
    bench.run()

    wrong = {
        id: (kind, bench.result(id).token_ids, expected)
        for id, (kind, tokens, count) in asked.items()
        if bench.result(id).token_ids != (expected := oracle.greedy(kind, tokens, count))
    }
    assert wrong == {}
    assert bench.leaks_nothing()


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_plain_pefts_in_a_batch_of_all_kinds(kind: str, oracle: Oracle, make: Any) -> None:
    bench = make()
    bench.load(*KINDS)
    for other in KINDS:
        bench.submit(other, other, range(30, 50), max_new_tokens=2, logprobs=20, ignore_eos=True)
    bench.run()
    tokens = list(range(30, 50))
    for sampled in bench.result(kind).tokens:
        expected = oracle.logits(kind, tokens).log_softmax(-1)
        ids = [id for id, _ in sampled.alternatives]
        ours = torch.tensor([value for _, value in sampled.alternatives])
        torch.testing.assert_close(ours, expected[ids], rtol=1e-5, atol=1e-5)
        tokens.append(sampled.token_id)


@pytest.mark.filterwarnings("ignore:inner dimension")  # bitsandbytes, of this tiny base's sizes, on a GPU
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_on_a_quantised_base_tokens_are_those_of_peft_on_the_same_base(
    quantize: str, oracle: Oracle, make: Any
) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = Oracle(oracle.folder, oracle.adapters, quantize)
    bench = make(quantize=quantize)
    kinds = [kind for kind in KINDS if kind not in ("sum", "difference")]
    bench.load(*kinds)
    for kind in kinds:
        bench.submit(kind, kind, range(40, 55), max_new_tokens=4, ignore_eos=True)
    bench.run()
    assert {kind: bench.result(kind).token_ids for kind in kinds} == {
        kind: quantised.greedy(kind, range(40, 55), 4) for kind in kinds
    }


def test_a_preempted_row_goes_on_where_it_was(oracle: Oracle, make: Any) -> None:
    bench = make(pages=12)  # 48 tokens for two rows of 36
    for id in "ab":
        bench.submit(id, "lora", range(20, 40), max_new_tokens=16, ignore_eos=True, temperature=0.8, seed=5)
    bench.run()
    alone = make()
    alone.submit("a", "lora", range(20, 40), max_new_tokens=16, ignore_eos=True, temperature=0.8, seed=5)
    alone.run()
    assert bench.engine.preemptions > 0
    assert bench.result("a").token_ids == bench.result("b").token_ids == alone.result("a").token_ids
    text = "".join(event.text for event in bench.events["b"])
    assert text == bench.result("b").text == alone.result("a").text


def test_the_same_seed_gives_the_same_text_whatever_the_neighbours(make: Any) -> None:
    alone, crowded = make(), make(step_tokens=32)
    sampling: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "seed": 11}
    alone.submit("x", "dora", range(9, 30), **sampling)
    rng = random.Random(0)
    for number in range(20):
        crowded.submit(str(number), rng.choice(KINDS), prompt(rng), max_new_tokens=9, temperature=1.0)
    crowded.submit("x", "dora", range(9, 30), **sampling)
    alone.run()
    crowded.run()
    assert alone.result("x").token_ids == crowded.result("x").token_ids


def test_choices_of_one_prompt_differ_and_repeat(make: Any) -> None:
    bench = make()
    for round_ in "12":
        for choice in range(3):
            bench.submit(
                f"{round_}{choice}", "base", [9, 8], max_new_tokens=8, temperature=1.5, seed=1, choice=choice
            )
    bench.run()
    first, second = ([tuple(bench.result(f"{r}{c}").token_ids) for c in range(3)] for r in "12")
    assert first == second
    assert len(set(first)) == 3


# -- the prefix cache ------------------------------------------------------------------------------------------------


def test_a_prompt_is_computed_once_for_the_same_tenant_and_adapters(oracle: Oracle, make: Any) -> None:
    bench = make()
    for id in "ab":
        bench.submit(id, "lora", range(20, 50), max_new_tokens=4, tenant="acme", ignore_eos=True)
        bench.run()
    assert bench.result("a").usage.cached_tokens == 0
    assert bench.result("b").usage.cached_tokens == 28  # whole pages, and never the last token
    assert bench.result("b").token_ids == oracle.greedy("lora", range(20, 50), 4)


@pytest.mark.parametrize(
    ("kind", "tenant"),
    [("lora", "other"), ("base", "acme"), ("wide", "acme"), ("sum", "acme"), ("prefix and lora", "acme")],
)
def test_a_prompt_is_never_shared_across_tenants_adapters_or_weights(
    kind: str, tenant: str, oracle: Oracle, make: Any
) -> None:
    bench = make()
    bench.submit("a", "lora", range(20, 50), max_new_tokens=2, tenant="acme")
    bench.run()
    bench.submit("b", kind, range(20, 50), max_new_tokens=4, tenant=tenant, ignore_eos=True)
    bench.run()
    assert bench.result("b").usage.cached_tokens == 0
    assert bench.result("b").token_ids == oracle.greedy(kind, range(20, 50), 4)


def test_cached_prompts_give_way_to_rows(oracle: Oracle, make: Any) -> None:
    bench = make(pages=24)
    rng = random.Random(1)
    for number in range(12):
        bench.submit(str(number), "lora", prompt(rng, 60), max_new_tokens=4)
        bench.run()
    assert all(bench.result(str(number)).finish_reason in ("length", "stop") for number in range(12))
    assert bench.leaks_nothing()


def test_cached_prompts_do_not_give_way_to_what_would_not_fit_all_the_same(make: Any) -> None:
    bench = make(pages=40)
    cached = range(50, 50 + 8 * PAGE + 1)
    bench.submit("before", "base", cached, max_new_tokens=1, tenant="acme", ignore_eos=True)
    bench.run()
    bench.submit("runs", "base", range(20, 40), max_new_tokens=100, ignore_eos=True)
    bench.run(until=lambda: len(bench.events["runs"]) >= 40)  # 15 pages; with 8 cached ones 17 are free
    bench.submit(
        "large", "base", range(20, 140), max_new_tokens=8, ignore_eos=True
    )  # 31, of which it shares 5
    for _ in range(3):
        bench.engine.step()
    assert bench.events["large"] == []
    bench.engine.cancel("large")
    bench.submit("after", "base", cached, max_new_tokens=1, tenant="acme", ignore_eos=True)
    bench.run()
    assert bench.result("after").usage.cached_tokens == 8 * PAGE
    assert bench.engine.preemptions == 0
    assert bench.leaks_nothing()


def test_cached_prompts_and_an_idle_prefix_give_way_at_once(make: Any) -> None:
    bench = make(pages=12)
    bench.submit("prefix", "prefix-long", [20], max_new_tokens=1, ignore_eos=True)  # 3 pages stay
    bench.run()
    bench.submit("cached", "base", range(20, 36), max_new_tokens=1, ignore_eos=True)  # 4 pages stay
    bench.run()
    assert bench.pages.free == 5
    tokens = tuple(range(50, 50 + 11 * PAGE))
    large = Request("large", tokens, (), Sampling(max_new_tokens=1), lambda _: None)
    assert bench.engine._paging.fits(large, tokens, spare=0)
    assert bench.pages.free == 12


def test_a_prefix_adapters_pages_are_shared_by_its_rows(make: Any) -> None:
    bench = make()
    for id in "abc":
        bench.submit(id, "prefix-long", [7], max_new_tokens=3, ignore_eos=True)
    bench.run(until=lambda: bench.engine.load.running == 3)
    # 11 prefix tokens take 3 pages, once; each row has one of its own
    assert bench.pages.count - bench.pages.free <= 3 + 3
    bench.run()
    assert bench.leaks_nothing()


# -- ends ------------------------------------------------------------------------------------------------------------


def test_cancelling_frees_everything_within_one_step_and_leaves_the_others_alone(
    oracle: Oracle, make: Any
) -> None:
    bench = make()
    bench.load("lora", "dora")
    bench.submit("kept", "lora", range(20, 30), max_new_tokens=10, ignore_eos=True)
    bench.submit("gone", "dora", range(20, 60), max_new_tokens=50, ignore_eos=True)
    bench.run(until=lambda: len(bench.events["gone"]) >= 3)
    bench.engine.cancel("gone")
    bench.engine.step()
    last = bench.events["gone"][-1]
    assert last.finish_reason == "cancelled"
    assert last.usage is not None
    assert last.usage.completion_tokens == sum(len(event.tokens) for event in bench.events["gone"])
    assert bench.engine.load.running == 1
    bench.run()
    assert bench.result("kept").token_ids == oracle.greedy("lora", range(20, 30), 10)
    with pytest.raises(InvalidInput, match="has ended"):
        bench.engine.cancel("gone")
    assert bench.leaks_nothing()


def test_what_waits_can_be_cancelled(make: Any) -> None:
    bench = make(max_rows=1)
    for id in "ab":
        bench.submit(id, "base", [5, 6], max_new_tokens=5, ignore_eos=True)
    bench.engine.step()
    bench.engine.cancel("b")
    bench.run()
    assert [event.finish_reason for event in bench.events["b"]] == ["cancelled"]
    assert bench.result("a").finish_reason == "length"


def test_a_deadline_ends_what_waits_and_what_runs(make: Any) -> None:
    bench = make(max_rows=1)
    bench.submit("runs", "base", [5, 6], max_new_tokens=50, ignore_eos=True, deadline=10.0)
    bench.submit("waits", "base", [5, 6], max_new_tokens=5, deadline=5.0)
    bench.run(until=lambda: len(bench.events["runs"]) > 2)
    bench.now[0] = 6.0
    bench.engine.step()
    assert [event.finish_reason for event in bench.events["waits"]] == ["deadline"]
    assert bench.events["waits"][-1].usage == Usage(0, 0, 0), "it never ran"
    assert bench.events["runs"][-1].finish_reason is None
    bench.now[0] = 11.0
    bench.run()
    assert bench.result("runs").finish_reason == "deadline"
    assert 2 < len(bench.result("runs").tokens) < 50


def test_an_end_token_and_stop_strings_end_the_text(oracle: Oracle, make: Any) -> None:
    bench = make()
    tokens = oracle.greedy("lora", range(20, 33), 12)
    bench.submit("ids", "lora", range(20, 33), max_new_tokens=12, stop_token_ids=[tokens[4]], ignore_eos=True)
    bench.submit("all", "lora", range(20, 33), max_new_tokens=12, ignore_eos=True)
    bench.run()
    first = tokens.index(tokens[4])
    assert bench.result("ids").token_ids == tokens[: first + 1]
    assert bench.result("ids").finish_reason == "stop"
    whole = bench.result("all").text
    stop = whole[len(whole) // 2 :][:3]
    bench.submit("text", "lora", range(20, 33), max_new_tokens=12, stop=[stop], ignore_eos=True)
    bench.run()
    assert bench.result("text").text == whole[: whole.index(stop)]
    assert bench.result("text").finish_reason == "stop"


# -- what cannot work, with neighbours running -----------------------------------------------------------------------


@pytest.fixture
def running(oracle: Oracle, make: Any) -> Iterator[Bench]:
    """A bench with two rows in the middle of their text; their text is checked in the end."""
    bench: Bench = make()
    bench.load("lora", "prefix", "wide", "prefix-long")
    for id, kind in (("one", "lora"), ("two", "prefix")):
        bench.submit(id, kind, range(20, 40), max_new_tokens=12, ignore_eos=True)
    bench.run(until=lambda: bench.engine.load.running == 2)
    yield bench
    bench.run()
    for id, kind in (("one", "lora"), ("two", "prefix")):
        assert bench.result(id).token_ids == oracle.greedy(kind, range(20, 40), 12)
    assert bench.leaks_nothing()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([], {}, "prompt is empty"),
        ([160], {}, "token id 160 is outside the vocabulary of 160"),
        ([-1], {}, "token id -1 is outside"),
        (range(5, 155), {"max_new_tokens": 20}, "together at most 160 fit"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(
    tokens: Sequence[int], options: dict[str, Any], message: str, running: Bench
) -> None:
    with pytest.raises(InvalidInput, match=message):
        running.submit("bad", "base", tokens, **options)


def test_a_prompt_that_fits_only_without_its_prefix_fails_alone(running: Bench) -> None:
    running.submit("bad", "prefix-long", range(5, 145), max_new_tokens=12)
    running.run(until=lambda: running.events["bad"])
    error = running.events["bad"][-1].error
    assert isinstance(error, InvalidInput)
    assert "together at most 149 fit behind a prefix of 11" in str(error)
    assert running.events["bad"][-1].usage == Usage(0, 0, 0), "nothing was computed"


def count_tokens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every part that is computed from now on."""
    computed: list[int] = []
    compute = bench.engine.forward.compute

    def counted(parts: Sequence[Part]) -> Any:
        computed.extend(part.count for part in parts)
        return compute(parts)

    monkeypatch.setattr(bench.engine.forward, "compute", counted)
    return computed


@pytest.mark.parametrize("kind", ["base", "lora", "prefix"])
@pytest.mark.parametrize("step_tokens", [512, 3 * PAGE + 1])
def test_equal_prompts_that_come_together_are_computed_once(
    kind: str, step_tokens: int, oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(step_tokens=step_tokens)
    computed = count_tokens(bench, monkeypatch)
    text = range(20, 20 + 8 * PAGE + 2)
    for number in range(4):
        bench.submit(str(number), kind, text, max_new_tokens=3, ignore_eos=True)
    bench.run()
    expected = oracle.greedy(kind, text, 3)
    for number in range(4):
        assert bench.result(str(number)).token_ids == expected
    # Each computes its unfinished last page and two tokens more; a chunk may end in the middle of a page.
    assert sum(computed) <= len(text) + 4 * (PAGE + 2) + (PAGE if step_tokens < 512 else 0)
    assert sum(bench.result(str(number)).usage.cached_tokens for number in range(4)) >= 3 * 7 * PAGE
    assert bench.leaks_nothing()


@pytest.mark.parametrize("step_tokens", [512, 3 * PAGE + 1])
def test_a_tenant_pays_once_for_equal_prompts_that_come_together(
    step_tokens: int, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(step_tokens=step_tokens)
    computed = count_tokens(bench, monkeypatch)
    text = range(20, 20 + 8 * PAGE + 2)
    for number in range(4):
        bench.submit(str(number), "base", text, max_new_tokens=3, tenant="acme", ignore_eos=True)
    bench.run()
    usage = [bench.result(str(number)).usage for number in range(4)]
    if step_tokens == 512:
        assert [one.cached_tokens for one in usage] == [0, *[8 * PAGE] * 3]
    # Two of the three new tokens of each are computed too, and not as input.
    assert sum(one.prompt_tokens - one.cached_tokens for one in usage) == sum(computed) - 4 * 2
    assert bench.engine._scheduler.counters["acme"] == sum(computed) - 4 * 2 + 2.0 * 4 * 3


def test_what_a_preempted_row_finds_of_its_own_is_no_gain(make: Any) -> None:
    bench = make(pages=12)
    for id, prompt in (("a", range(20, 40)), ("b", range(50, 70))):
        bench.submit(id, "base", prompt, max_new_tokens=16, tenant="acme", ignore_eos=True)
    bench.run()
    assert bench.engine.preemptions > 0
    assert [bench.result(id).usage.cached_tokens for id in "ab"] == [0, 0]
    assert bench.engine._scheduler.counters["acme"] == 2 * 20 + 2.0 * 2 * 16


def test_a_row_preempted_in_its_prompt_keeps_its_price_whatever_others_compute_of_it_then(make: Any) -> None:
    """Else its tenant would get back more than it paid: what the row computed before was served too."""
    bench = make(step_tokens=3 * PAGE)
    text = range(20, 20 + 8 * PAGE + 2)
    for id, priority in (("low", 0), ("high", 1)):
        bench.submit(id, "base", text, max_new_tokens=3, tenant="acme", priority=priority, ignore_eos=True)
        bench.engine.step()
    bench.engine._preempt(())
    assert list(bench.engine._preempted) == ["low"]
    bench.engine.clear_cache()  # as other rows may
    bench.run()
    used = {id: bench.result(id).usage.cached_tokens for id in ("low", "high")}
    assert used["low"] == 0
    assert 0 < used["high"] <= 8 * PAGE
    assert bench.engine._scheduler.counters["acme"] == 2 * len(text) - used["high"] + 2.0 * 2 * 3
    assert bench.leaks_nothing()


def test_a_pass_that_fails_leaves_nothing_in_the_cache(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    text = range(20, 20 + 8 * PAGE + 2)
    with monkeypatch.context() as patched:
        patched.setattr(bench.engine.forward, "_pass", raising(RuntimeError("broken")))
        patched.setattr(bench.engine.forward, "graphs", None)
        bench.submit("first", "lora", text, max_new_tokens=3)
        bench.run()
    assert bench.events["first"][-1].error is not None
    bench.submit("second", "lora", text, max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert bench.result("second").token_ids == oracle.greedy("lora", text, 3)
    assert bench.result("second").usage.cached_tokens == 0
    assert bench.leaks_nothing()


def test_rows_that_share_pages_stay_together_when_a_mixed_pass_fails(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sum in either order is one to the prefix cache: the second row reads what the pass computes for the first."""
    bench = make()
    bench.load("sum", "dora")
    for pool in (*bench.engine.forward._kv.keys, *bench.engine.forward._kv.values):
        pool.fill_(9.0)  # what nobody wrote changes the text of who reads it
    run, passes = bench.engine.forward._pass, []

    def one_at_a_time(parts: Sequence[Part]) -> Any:
        if len({part.row.request.adapters for part in parts}) > 1:
            raise RuntimeError("a mixed pass is too large")
        passes.append({part.row.request.id for part in parts})
        return run(parts)

    monkeypatch.setattr(bench.engine.forward, "_pass", one_at_a_time)
    monkeypatch.setattr(bench.engine.forward, "graphs", None)
    text = range(20, 20 + 4 * PAGE + 2)
    terms = bench.selection("sum")
    orders = {"first": terms, "second": terms[::-1]}
    for id, selection in orders.items():
        events = bench.events.setdefault(id, [])
        sampling = Sampling(max_new_tokens=4, ignore_eos=True)
        bench.engine.submit(Request(id, tuple(text), selection, sampling, events.append))
    bench.submit("other", "dora", text, max_new_tokens=4, ignore_eos=True)
    bench.run()
    assert {"first", "second"} in passes
    for id, kind in (("first", "sum"), ("second", "sum"), ("other", "dora")):
        assert bench.result(id).token_ids == oracle.greedy(kind, text, 4)
    assert [bench.result(id).usage.cached_tokens for id in orders] == [0, 4 * PAGE]
    assert bench.leaks_nothing()


def test_rows_of_one_adapter_that_do_not_fit_together_are_computed_apart(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in order: each row but the first reads what the first wrote in the same step."""
    bench = make()
    bench.load("lora")
    for pool in (*bench.engine.forward._kv.keys, *bench.engine.forward._kv.values):
        pool.fill_(9.0)
    run, passes = bench.engine.forward._pass, []

    def two_rows_at_most(parts: Sequence[Part]) -> Any:
        if len(parts) > 2 or any(part.count > 40 for part in parts):
            raise OutOfMemory("too much")
        passes.append([part.row.request.id for part in parts])
        return run(parts)

    monkeypatch.setattr(bench.engine.forward, "_pass", two_rows_at_most)
    monkeypatch.setattr(bench.engine.forward, "graphs", None)
    text = range(20, 20 + 4 * PAGE + 2)
    for id in "abcd":
        bench.submit(id, "lora", text, max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert passes[:2] == [["a", "b"], ["c", "d"]]
    assert all(bench.result(id).token_ids == oracle.greedy("lora", text, 3) for id in "abcd")
    bench.submit("e", "lora", range(5, 50), max_new_tokens=2)
    bench.submit("f", "lora", text, max_new_tokens=2, ignore_eos=True)
    bench.run()
    with pytest.raises(OutOfMemory, match="too much"):
        bench.result("e")
    assert bench.result("f").token_ids == oracle.greedy("lora", text, 2)
    assert bench.leaks_nothing()


def test_rows_that_read_what_a_failed_row_should_have_written_fail_with_it(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.load("lora")
    for pool in (*bench.engine.forward._kv.keys, *bench.engine.forward._kv.values):
        pool.fill_(9.0)
    run = bench.engine.forward._pass

    def without_a(parts: Sequence[Part]) -> Any:
        if len(parts) > 2 or any(part.row.request.id == "a" for part in parts):
            raise OutOfMemory("too much")
        return run(parts)

    monkeypatch.setattr(bench.engine.forward, "_pass", without_a)
    monkeypatch.setattr(bench.engine.forward, "graphs", None)
    text, other = range(20, 20 + 4 * PAGE + 2), range(60, 60 + 4 * PAGE + 2)
    longer = [*text, *range(90, 90 + PAGE)]
    for id, prompt in {"a": text, "b": text, "c": other, "d": other, "e": longer}.items():
        bench.submit(id, "lora", prompt, max_new_tokens=3, ignore_eos=True)
    bench.run()
    for id in "abe":
        with pytest.raises(OutOfMemory, match="too much"):
            bench.result(id)
    assert [bench.result(id).token_ids for id in "cd"] == [oracle.greedy("lora", other, 3)] * 2
    assert bench.leaks_nothing()


def test_other_failures_of_rows_on_one_adapter_are_everybodys(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    passes = []

    def broken(parts: Sequence[Part]) -> Any:
        passes.append(len(parts))
        raise RuntimeError("broken")

    monkeypatch.setattr(bench.engine.forward, "_pass", broken)
    monkeypatch.setattr(bench.engine.forward, "graphs", None)
    for id in "ab":
        bench.submit(id, "base", range(5, 10), max_new_tokens=3)
    bench.run()
    assert passes == [2]
    assert all(bench.events[id][-1].error is not None for id in "ab")


def test_a_failed_pass_holds_no_memory_when_its_rows_are_computed_apart(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.load("lora")
    monkeypatch.setattr(bench.engine.forward, "graphs", None)
    (mlp,) = (
        module
        for name, module in bench.engine._adapted.base.model.named_modules()
        if name.endswith("layers.1.mlp")
    )
    run, activations = mlp.forward, []

    def with_room_for_40(x: torch.Tensor) -> torch.Tensor:
        activation = torch.ones(x.shape[1])
        activations.append(weakref.ref(activation))
        alive = sum(other.numel() for one in activations if (other := one()) is not None)
        if alive > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cast(torch.Tensor, run(x))

    monkeypatch.setattr(mlp, "forward", with_room_for_40)
    for id in range(8):
        bench.submit(str(id), "lora", range(20 + id, 32 + id), max_new_tokens=2, ignore_eos=True)
    bench.run()
    for id in range(8):
        assert bench.result(str(id)).token_ids == oracle.greedy("lora", range(20 + id, 32 + id), 2)


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_cached_prompt_needs_no_pages_of_its_own(oracle: Oracle, make: Any) -> None:
    """Two requests with one long prompt run together where pages for two such prompts are not there."""
    bench = make(pages=14)
    text = range(20, 20 + 9 * PAGE + 1)
    bench.submit("first", "lora", text, max_new_tokens=8, ignore_eos=True)
    bench.run(until=lambda: bench.events["first"])
    bench.submit("second", "lora", text, max_new_tokens=4, ignore_eos=True)
    bench.run(until=lambda: bench.engine.load.running == 2)
    assert bench.engine.load.running == 2
    bench.run()
    for id, count in (("first", 8), ("second", 4)):
        assert bench.result(id).token_ids == oracle.greedy("lora", text, count)
    assert bench.result("second").usage.cached_tokens == 9 * PAGE
    assert bench.engine.preemptions == 0
    assert bench.leaks_nothing()


def test_an_id_that_runs_is_not_taken_again(running: Bench) -> None:
    with pytest.raises(InvalidInput, match="'one' runs already"):
        running.submit("one", "base", [5])


def test_an_unknown_adapter_fails_alone(running: Bench) -> None:
    running.digests["ghost"] = "sha256:" + "0" * 64
    events: list[Event] = []
    running.engine.submit(Request("bad", (5, 6), ((1.0, "sha256:" + "0" * 64),), Sampling(), events.append))
    running.run(until=lambda: events)
    assert "is not registered" in str(events[-1].error)


def test_an_adapter_deleted_while_in_use_finishes_what_runs_on_it(oracle: Oracle, running: Bench) -> None:
    running.residency.forget(running.digests["lora"])
    running.submit("bad", "lora", [5, 6], max_new_tokens=2)
    running.run(until=lambda: running.events["bad"])
    assert "is not registered" in str(running.events["bad"][-1].error)


def test_two_prefixes_fail_alone(running: Bench) -> None:
    selection = ((1.0, running.digests["prefix"]), (1.0, running.digests["prefix-long"]))
    events: list[Event] = []
    running.engine.submit(Request("bad", (5, 6), selection, Sampling(), events.append))
    running.run(until=lambda: events)
    assert "2 prefix adapters cannot be summed" in str(events[-1].error)


def test_a_module_that_fails_fails_its_own_rows(running: Bench) -> None:
    digest = running.digests["wide"]
    running.submit("bad", "wide", [5, 6], max_new_tokens=8, ignore_eos=True)
    running.run(until=lambda: running.engine.load.running == 3)
    updates = next(iter(running.adapted.attached[digest].updates.values()))
    running.engine.forward.graphs = None  # the kernels read addresses, whatever the shapes
    object.__setattr__(updates[0], "a_t", torch.zeros(3, 3))  # no product of these shapes exists
    running.run(until=lambda: running.events["bad"][-1].finish_reason)
    error = running.events["bad"][-1].error
    assert isinstance(error, AdaptHubError)
    assert "the pass failed" in str(error)


def test_logits_that_are_no_numbers_fail_alone(running: Bench) -> None:
    digest = running.digests["wide"]
    running.submit("bad", "wide", [5, 6], max_new_tokens=8, ignore_eos=True)
    running.run(until=lambda: running.engine.load.running == 3)
    updates = next(iter(running.adapted.attached[digest].updates.values()))
    with torch.inference_mode():
        updates[0].b.fill_(float("nan"))  # type: ignore[attr-defined]  # a LowRank
    running.run(until=lambda: running.events["bad"][-1].finish_reason)
    assert "not finite numbers" in str(running.events["bad"][-1].error)


def test_a_full_queue_refuses_with_a_reason(make: Any) -> None:
    bench = make(max_rows=1, queue_limit=2)
    for number in range(5):
        bench.submit(str(number), "base", [5, 6], max_new_tokens=3, ignore_eos=True)
    bench.run()
    last = [bench.events[str(number)][-1] for number in range(5)]
    refused = [event for event in last if isinstance(event.error, Overloaded)]
    assert [event.usage for event in refused] == [Usage(0, 0, 0)] * 3
    assert bench.leaks_nothing()


def test_a_tenant_with_many_requests_does_not_keep_another_waiting(make: Any) -> None:
    bench = make(max_rows=2)
    for number in range(20):
        bench.submit(f"many{number}", "base", range(5, 25), max_new_tokens=4, tenant="many", ignore_eos=True)
    bench.run(until=lambda: bench.events["many1"])
    bench.submit("few", "base", range(5, 25), max_new_tokens=4, tenant="few", ignore_eos=True)
    bench.run(until=lambda: bench.events["few"] and bench.events["few"][-1].finish_reason)
    assert sum(bool(bench.events[f"many{number}"]) for number in range(20)) <= 6


def test_a_step_takes_no_longer_than_it_should(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(max_rows=16, step_seconds=0.5)
    bench.engine.forward.graphs = (
        None  # the first steps by graphs capture them, and say nothing of what steps take
    )
    sizes: list[int] = []
    compute = bench.engine.forward.compute

    def slowly(parts: Sequence[Part]) -> Any:
        sizes.append(sum(part.count for part in parts))
        bench.now[0] += 0.1 + 0.01 * sizes[-1]
        return compute(parts)

    monkeypatch.setattr(bench.engine.forward, "compute", slowly)
    for number in range(12):  # the first step learns from whatever it computes
        bench.submit(f"many{number}", "base", range(5, 45 + number), max_new_tokens=20, tenant="many")
    bench.run(until=lambda: bench.engine.load.steps == 4)
    sizes.clear()
    bench.submit("few", "base", range(60, 90), max_new_tokens=4, tenant="few", ignore_eos=True)
    bench.run(until=lambda: bench.events["few"])
    assert len(sizes) == 1, (
        "its prompt was computed in its first step, others' beside it as far as time was left"
    )
    bench.run()
    assert max(sizes) <= 40 + 12, "0.5 seconds are 40 tokens; a few of prompts are computed always"
    assert bench.leaks_nothing()


def test_all_fail_when_the_engine_is_told_so(make: Any) -> None:
    bench = make(max_rows=1)
    for id in "ab":
        bench.submit(id, "base", [5, 6], max_new_tokens=9, ignore_eos=True)
    bench.run(until=lambda: bench.events["a"])
    bench.engine.fail_all(AdaptHubError("closed"))
    assert [str(bench.events[id][-1].error) for id in "ab"] == ["closed", "closed"]
    assert bench.leaks_nothing()


def test_tenants_share_the_rows_of_one_step(make: Any) -> None:
    bench = make(max_rows=4)
    for tenant in ("many", "few"):
        for number in range(6):
            bench.submit(f"{tenant}{number}", "base", range(5, 25), max_new_tokens=4, tenant=tenant)
    bench.engine.step()
    assert sorted(id.rstrip("0123456789") for id in bench.engine._running) == ["few", "few", "many", "many"]


def test_a_prefix_waits_for_pages_as_a_row_does(oracle: Oracle, make: Any) -> None:
    bench = make(pages=13)
    bench.load("lora", "prefix-long")
    bench.submit("long", "lora", range(20, 40), max_new_tokens=28, ignore_eos=True)
    bench.run(until=lambda: len(bench.events["long"]) >= 22)  # 11 pages
    bench.submit("behind", "prefix-long", [20], max_new_tokens=3, ignore_eos=True)  # 3 for the prefix, and 1
    bench.run()
    assert bench.result("long").token_ids == oracle.greedy("lora", range(20, 40), 28)
    assert bench.result("behind").token_ids == oracle.greedy("prefix-long", [20], 3)
    assert bench.engine.preemptions == 0
    assert bench.leaks_nothing()


def test_a_callback_that_raises_ends_its_own_request(running: Bench) -> None:
    def deliver(event: Event) -> None:
        got.append(event)
        raise RuntimeError("nobody listens")

    got: list[Event] = []
    running.engine.submit(Request("bad", (5, 6), (), Sampling(max_new_tokens=9, ignore_eos=True), deliver))
    running.run(until=lambda: got and got[-1].finish_reason)
    assert [event.finish_reason for event in got] == [None, "cancelled"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "high"}, "priority is 'high'"),
        ({"tenant": ["acme"]}, "tenant is"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"deadline": float("nan")}, "deadline is nan"),
    ],
)
def test_a_request_that_cannot_be_queued_is_refused(
    options: dict[str, Any], message: str, running: Bench
) -> None:
    with pytest.raises(InvalidInput, match=message):
        running.submit("bad", "base", [5], **options)


def test_an_adapter_whose_load_fails_unforeseen_fails_alone(
    running: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("odd bytes")

    monkeypatch.setattr(HostCopy, "load", fail)
    running.submit("bad", "dora", [5, 6], max_new_tokens=2)
    running.run(until=lambda: running.events["bad"])
    error = running.events["bad"][-1].error
    assert isinstance(error, AdaptHubError)
    assert "odd bytes" in str(error)


def test_sampling_that_breaks_fails_alone(running: Bench) -> None:
    class Broken:
        finished = False

        def allowed(self) -> torch.Tensor:
            raise ValueError("no parser state")

        def advance(self, token_id: int) -> None: ...

    events: list[Event] = []
    running.engine.submit(Request("bad", (5, 6), (), Sampling(), events.append, constraint=Broken()))
    running.run(until=lambda: events)
    assert "no parser state" in str(events[-1].error)


def test_a_prefix_that_cannot_be_written_fails_alone(running: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no room on the device")

    monkeypatch.setattr(KV, "write_prefix", fail)
    running.submit("bad", "prefix-long", [5, 6], max_new_tokens=2)
    running.run(until=lambda: running.events["bad"])
    assert "no room on the device" in str(running.events["bad"][-1].error)


def test_broken_keys_and_values_are_not_kept_for_others(oracle: Oracle, make: Any) -> None:
    bench = make()
    bench.submit("first", "wide", [9], max_new_tokens=1, ignore_eos=True)
    bench.run()
    update = next(iter(bench.adapted.attached[bench.digests["wide"]].updates.values()))[0]
    sound = update.b.clone()
    with torch.inference_mode():
        update.b.fill_(float("nan"))
    bench.submit("bad", "wide", range(20, 40), max_new_tokens=3)
    bench.run()
    assert "not finite numbers" in str(bench.events["bad"][-1].error)
    with torch.inference_mode():
        update.b.copy_(sound)
    bench.submit("good", "wide", range(20, 40), max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert bench.result("good").token_ids == oracle.greedy("wide", range(20, 40), 3)


def test_what_was_forgotten_while_preempted_ends_with_what_it_had(make: Any) -> None:
    bench = make(pages=12)
    bench.load("lora", "wide")
    for kind in ("lora", "wide"):
        bench.submit(kind, kind, range(20, 40), max_new_tokens=16, ignore_eos=True)
    bench.run(until=lambda: bench.engine.preemptions)
    (kind,) = bench.engine._preempted
    bench.residency.forget(bench.digests[kind])
    bench.run()
    last = bench.events[kind][-1]
    assert "is not registered" in str(last.error)
    assert last.usage is not None
    assert last.usage.completion_tokens == sum(len(event.tokens) for event in bench.events[kind]) > 0
    assert bench.leaks_nothing()


def test_an_adapter_that_is_evicted_before_it_is_held_is_fetched_again(
    oracle: Oracle, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    hold, failures = bench.residency.hold, [AdapterNotFound("it is not loaded")]

    def evicted_once(digests: Sequence[str]) -> None:
        if failures:
            raise failures.pop()
        hold(digests)

    monkeypatch.setattr(bench.residency, "hold", evicted_once)
    bench.submit("a", "lora", range(20, 30), max_new_tokens=3, ignore_eos=True)
    bench.run()
    assert bench.result("a").token_ids == oracle.greedy("lora", range(20, 30), 3)


def test_the_adapters_of_what_was_cancelled_are_not_loaded_before_those_that_are_needed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(slots=1)
    attached: list[str] = []
    attach = bench.adapted.attach

    def noted(copy: Any) -> Any:
        attached.append(copy.digest)
        return attach(copy)

    monkeypatch.setattr(bench.adapted, "attach", noted)
    bench.submit("runs", "lora", range(20, 30), max_new_tokens=6, ignore_eos=True)
    bench.run(until=lambda: bench.events["runs"])
    bench.submit("gone", "wide", [5], max_new_tokens=1)
    bench.engine.step()
    bench.engine.cancel("gone")
    bench.submit("wanted", "dora", [5], max_new_tokens=1, ignore_eos=True)
    bench.run()
    assert attached == [bench.digests["lora"], bench.digests["dora"]]


def test_a_closed_engine_takes_nothing_and_leaves_nobody_waiting(make: Any) -> None:
    bench = make()
    bench.submit("a", "base", [5, 6], max_new_tokens=9)
    bench.engine.close(AdaptHubError("generation was closed"))
    assert str(bench.events["a"][-1].error) == "generation was closed"
    with pytest.raises(AdaptHubError, match="generation was closed"):
        bench.submit("b", "base", [5, 6])
    assert not bench.engine.busy


def test_a_defect_while_requests_end_leaves_nobody_waiting(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    for id in "ab":
        bench.submit(id, "base", [5, 6], max_new_tokens=9, ignore_eos=True)
    bench.engine.step()

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(bench.residency, "release", fail)
    bench.engine.fail_all(AdaptHubError("the engine failed"))
    assert [str(bench.events[id][-1].error) for id in "ab"] == ["the engine failed"] * 2
    assert not bench.engine.busy


def test_a_step_asks_once_whether_the_same_adapters_are_there(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(max_rows=8)
    asked: list[tuple[str, ...]] = []
    ready = bench.residency.ready

    def noted(digests: tuple[str, ...]) -> Any:
        asked.append(digests)
        return ready(digests)

    monkeypatch.setattr(bench.residency, "ready", noted)
    for number in range(40):
        bench.submit(str(number), ("lora", "wide")[number % 2], [5, 6], max_new_tokens=2, ignore_eos=True)
    while not bench.engine.load.running:
        asked.clear()
        bench.engine.step()
        bench.loaded.wait(0.02)
    assert sorted(asked) == sorted((bench.digests[kind],) for kind in ("lora", "wide"))


def test_who_comes_by_while_another_floods_gets_a_row_at_once(make: Any) -> None:
    bench = make(max_rows=8)
    bench.submit("known", "base", range(5, 9), max_new_tokens=1, tenant="few")
    bench.run()
    for number in range(20):
        bench.submit(f"many{number}", "base", range(5, 15), max_new_tokens=20, tenant="many", ignore_eos=True)
    bench.engine.step()
    assert bench.engine.load.running == 7  # of 8: one is kept
    bench.submit("few", "base", range(5, 15), max_new_tokens=2, tenant="few", ignore_eos=True)
    bench.engine.step()
    assert bench.events["few"], "it waited for one of the others to end"
    bench.run()
    assert bench.leaks_nothing()


def test_one_tenant_alone_has_all_rows(make: Any) -> None:
    bench = make(max_rows=8)
    for number in range(20):
        bench.submit(f"{number}", "base", range(5, 15), max_new_tokens=20, tenant="many", ignore_eos=True)
    bench.engine.step()
    assert bench.engine.load.running == 8


def test_prompts_take_turns_by_tenant(make: Any) -> None:
    bench = make(step_tokens=32)
    for number in range(4):
        prompt = [*range(20 + number, 80 + number)]
        bench.submit(f"many{number}", "base", prompt, max_new_tokens=4, tenant="many", ignore_eos=True)
    bench.engine.step()
    bench.submit("few", "base", range(5, 21), max_new_tokens=2, tenant="few", ignore_eos=True)
    bench.engine.step()
    assert bench.events["few"]
    assert not any(bench.events[f"many{number}"] for number in range(4))
    bench.run()
    assert bench.leaks_nothing()
