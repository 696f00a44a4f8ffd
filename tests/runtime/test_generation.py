"""Generation through Runtime: names, texts, streams, awaitables, and what is let go afterwards."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    InvalidInput,
    InvalidSettings,
    OutOfMemory,
    Overloaded,
)
from adapthub.runtime import Runtime, generation
from adapthub.runtime.attention import Serving, serves
from adapthub.runtime.constraints import compile_constraint
from adapthub.runtime.generation import Limits
from adapthub.runtime.requests import Generation
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.scheduler import Scheduler, Waiting
from adapthub.runtime.streams import AsyncStream
from tests.runtime.generating import Oracle, write_oracle
from tests.runtime.test_text_stream import tokenizer

LIMITS = Limits(kv_tokens=2048, max_rows=16)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return write_oracle(tmp_path_factory.mktemp("generating"))


@pytest.fixture
def runtime(oracle: Oracle) -> Iterator[Runtime]:
    with Runtime(str(oracle.folder), limits=LIMITS) as made:
        yield made


def folder(oracle: Oracle, name: str) -> str:
    return str(oracle.adapters[name])


def replace_by(name: Path, folder: Path) -> None:
    shutil.rmtree(name)
    shutil.copytree(folder, name)


def test_what_a_base_asks_for_and_does_not_get_is_said(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    base = load_base(str(oracle.folder))
    assert base.model.generation_config is not None
    base.model.generation_config.repetition_penalty = 1.3
    with Runtime(base, limits=LIMITS) as made:
        made.generate(["a"], [None], max_new_tokens=1)
    assert "asks for repetition_penalty=1.3, which is not done: ask" in caplog.text


def eventually(true: Callable[[], bool]) -> None:
    """What goes on a loader's thread takes a moment."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


Generate = Callable[..., list[Generation]]


def awaited(runtime: Runtime, *args: Any, **options: Any) -> list[Generation]:
    """`generate` as an event loop calls it."""
    return asyncio.run(runtime.agenerate(*args, **options))


def test_more_prompts_than_the_queue_takes_are_answered_in_order(oracle: Oracle) -> None:
    prompts = [list(range(5 + i, 8 + i)) for i in range(40)]
    expected = [oracle.greedy("base", prompt, 2) for prompt in prompts]
    with Runtime(str(oracle.folder), limits=Limits(kv_tokens=64, max_rows=1, queue_limit=4)) as runtime:
        results = runtime.generate(prompts, max_new_tokens=2, ignore_eos=True)
        assert [result.token_ids for result in results] == expected
        results = asyncio.run(runtime.agenerate(prompts, max_new_tokens=2, ignore_eos=True))
        assert [result.token_ids for result in results] == expected


def test_the_batch_is_full_however_short_the_queue(oracle: Oracle) -> None:
    limits = Limits(kv_tokens=1024, max_rows=8, queue_limit=2)
    with Runtime(str(oracle.folder), limits=limits) as runtime:
        most = 0
        step = runtime.generation.engine.step

        def watched() -> bool:
            nonlocal most
            worked = step()
            most = max(most, runtime.generation.load.running)
            time.sleep(0.03)  # as long as a base of some size takes
            return worked

        runtime.generation.engine.step = watched  # type: ignore[method-assign]
        runtime.generate([[5, 6]] * 24, max_new_tokens=24, ignore_eos=True)
    assert most == 8


def test_many_callers_with_more_than_the_queue_takes_are_all_answered(oracle: Oracle) -> None:
    expected = oracle.greedy("base", [5, 6, 7], 2)
    limits = Limits(kv_tokens=64, max_rows=1, queue_limit=1)
    with Runtime(str(oracle.folder), limits=limits) as runtime, ThreadPoolExecutor(6) as threads:
        runtime.generation  # noqa: B018 made here, not by six at once
        calls = [
            threads.submit(runtime.generate, [[5, 6, 7]] * 6, max_new_tokens=2, ignore_eos=True)
            for _ in range(6)
        ]
        for call in calls:
            assert [result.token_ids for result in call.result()] == [expected] * 6


def test_nothing_asked_is_nothing_answered_and_nothing_made(oracle: Oracle) -> None:
    with Runtime(str(oracle.folder), limits=LIMITS) as runtime:
        assert runtime.generate([]) == []
        assert asyncio.run(runtime.agenerate([])) == []
        assert runtime._service is None


def test_a_name_means_one_version_in_all_of_a_call(oracle: Oracle, tmp_path: Path) -> None:
    """Whatever it comes to mean while the call goes on."""
    name = tmp_path / "changing"
    shutil.copytree(oracle.adapters["lora"], name)
    prompts = [[20 + i, 21, 22] for i in range(30)]
    with Runtime(str(oracle.folder), limits=Limits(kv_tokens=128, max_rows=1, queue_limit=2)) as runtime:
        first = runtime.attach(name)
        expected = [result.token_ids for result in runtime.generate(prompts, name, max_new_tokens=4)]
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(runtime.generate, prompts, name, max_new_tokens=4)
            while runtime.generation.load.running == 0 and not call.done():
                time.sleep(0.001)
            replace_by(name, oracle.adapters["wide"])
            assert runtime.attach(name) != first
            assert [result.token_ids for result in call.result()] == expected
        eventually(lambda: first not in {adapter.digest for adapter in runtime.resident})


@pytest.mark.parametrize("generate", [Runtime.generate, awaited])
def test_a_name_that_changes_while_the_others_of_a_call_are_pulled_means_one_version(
    generate: Generate, oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, other = tmp_path / "changing", tmp_path / "other"
    shutil.copytree(oracle.adapters["lora"], changing)
    shutil.copytree(oracle.adapters["rslora"], other)
    prompts = [[20, 21, 22], [30, 31], [40, 41, 42]]
    with Runtime(str(oracle.folder), limits=LIMITS) as runtime:
        first, fetch = runtime.attach(changing), runtime._names._fetch

        def fetch_slowly(ref: str | Path) -> Artifact:
            if str(ref) == str(other):
                replace_by(changing, oracle.adapters["wide"])
                runtime.attach(changing)
            return fetch(ref)

        monkeypatch.setattr(runtime._names, "_fetch", fetch_slowly)
        results = generate(runtime, prompts, [changing, other, changing], max_new_tokens=5, ignore_eos=True)
        assert runtime.attached[str(changing)] != first
        assert [result.token_ids for result in results] == [
            oracle.greedy(kind, prompt, 5)
            for kind, prompt in zip(("lora", "rslora", "lora"), prompts, strict=True)
        ]
        eventually(lambda: first not in {adapter.digest for adapter in runtime.resident})


def test_a_call_that_is_cancelled_while_its_names_are_pulled_keeps_none(
    oracle: Oracle, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event loop ends with it, and the thread that pulls goes on."""
    name, fetch = folder(oracle, "lora"), runtime._names._fetch
    fetching, go_on = threading.Event(), threading.Event()

    def fetch_slowly(ref: str | Path) -> Artifact:
        fetching.set()
        go_on.wait()
        return fetch(ref)

    async def leave() -> None:
        call = asyncio.create_task(runtime.agenerate([[5], [6]], name))
        await asyncio.to_thread(fetching.wait)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
        go_on.set()

    monkeypatch.setattr(runtime._names, "_fetch", fetch_slowly)
    asyncio.run(leave())
    runtime.detach(name)
    eventually(lambda: not runtime.resident)


@pytest.mark.parametrize("bad", ["prompt", "adapter"])
def test_what_cannot_work_is_said_before_anything_runs(oracle: Oracle, tmp_path: Path, bad: str) -> None:
    lora, missing = folder(oracle, "lora"), tmp_path / "missing"
    missing.mkdir()
    prompts = [[5, 6]] * 20 + [[5] * 1000 if bad == "prompt" else [5, 6]]
    adapters = [lora] * 20 + [str(missing) if bad == "adapter" else lora]
    with Runtime(str(oracle.folder), limits=Limits(kv_tokens=128, max_rows=1, queue_limit=2)) as runtime:
        runtime.attach(lora)
        with pytest.raises(AdaptHubError, match="1000 tokens" if bad == "prompt" else "missing"):
            runtime.generate(prompts, adapters, max_new_tokens=2)
        assert runtime.generation.load.steps == 0
        runtime.detach(lora)
        eventually(lambda: not runtime.resident)  # the call holds nothing of it any more


def test_a_timeout_bounds_the_call_however_many_its_prompts(oracle: Oracle) -> None:
    with Runtime(str(oracle.folder), limits=Limits(kv_tokens=256, max_rows=1, queue_limit=2)) as runtime:
        runtime.generate([[5, 6]], max_new_tokens=1)
        results = runtime.generate([[5, 6]] * 40, timeout=0.02, max_new_tokens=100, ignore_eos=True)
        assert results[-1].finish_reason == "deadline"
        assert results[-1].token_ids == []


class Busy(Scheduler):
    """A queue that others fill, in time for `first` requests to find it full."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.first = first

    def submit(self, waiting: Waiting) -> None:
        if self.first > 0:
            self.first -= 1
            raise Overloaded("the queue is full")
        super().submit(waiting)


@pytest.mark.parametrize("generate", [Runtime.generate, awaited])
def test_a_timeout_bounds_a_call_that_others_never_let_in(generate: Generate, oracle: Oracle) -> None:
    # The runtime is closed before the thread is waited for: a call that goes on for ever then ends, with an error.
    with (
        ThreadPoolExecutor(1) as threads,
        Runtime(str(oracle.folder), limits=LIMITS, scheduler=Busy(math.inf)) as runtime,
    ):
        call = threads.submit(generate, runtime, [[5, 6]] * 2, timeout=0.05, max_new_tokens=3)
        results = call.result(30)
    assert [result.finish_reason for result in results] == ["deadline"] * 2
    assert [result.token_ids for result in results] == [[], []]


@pytest.mark.parametrize("generate", [Runtime.generate, awaited])
def test_a_grammar_is_compiled_once_a_text_however_often_the_queue_is_full(
    generate: Generate, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Sampling] = []

    def counted(sampling: Sampling, *args: Any) -> Any:
        compiled.append(sampling)
        return compile_constraint(sampling, *args)

    monkeypatch.setattr(generation, "compile_constraint", counted)
    options: dict[str, Any] = {
        "n": 2,
        "temperature": 1.5,
        "seed": 3,
        "regex": "[a-z]{3,9}",
        "max_new_tokens": 12,
    }
    base = load_base(str(oracle.folder))
    base.tokenizer = tokenizer("byte-level")  # its own cannot follow a grammar
    with Runtime(base, limits=LIMITS, scheduler=Busy(7)) as runtime:
        results = generate(runtime, [[5, 6], [7, 8]], **options)
        assert len(compiled) == 4
        assert [result.finish_reason for result in results] == ["stop"] * 4
        assert all(re.fullmatch("[a-z]{3,9}", result.text) for result in results)
        # The same as when nothing was refused.
        assert results == runtime.generate([[5, 6], [7, 8]], **options)


def test_a_scheduler_of_ones_own_is_used(oracle: Oracle) -> None:
    own = Scheduler(queue_limit=7, weights={"paying": 5})
    with Runtime(str(oracle.folder), limits=LIMITS, scheduler=own) as runtime:
        runtime.generate([[5, 6]], tenant="paying", max_new_tokens=5, ignore_eos=True)
    assert own.counters["paying"] == (2 + 2 * 5) / 5


def test_no_other_pass_runs_while_the_base_is_tried(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying sets the base's attention, and under another one the rows of a flat pass would see each other."""
    with Runtime(str(oracle.folder), limits=LIMITS) as runtime, ThreadPoolExecutor(1) as threads:
        passes = []

        def watched(model: PreTrainedModel) -> Serving:
            passes.append(threads.submit(runtime.logits, ["ada was born"]))
            with pytest.raises(TimeoutError):
                passes[0].result(0.3)
            return serves(model)

        monkeypatch.setattr(generation, "serves", watched)
        runtime.generation  # noqa: B018 made here
        passes[0].result()


def test_rows_of_one_call_use_different_adapters(oracle: Oracle, runtime: Runtime) -> None:
    lora, wide = folder(oracle, "lora"), folder(oracle, "wide")
    prompts = [list(range(20, 30)), list(range(30, 45)), list(range(9, 20)), list(range(50, 60))]
    results = runtime.generate(
        prompts,
        adapters=[lora, None, f"0.7*{lora} + 0.3*{wide}", folder(oracle, "prefix")],
        max_new_tokens=6,
        ignore_eos=True,
    )
    assert [result.token_ids for result in results] == [
        oracle.greedy(kind, prompt, 6)
        for kind, prompt in zip(("lora", "base", "sum", "prefix"), prompts, strict=True)
    ]
    assert [result.usage.prompt_tokens for result in results] == [10, 15, 11, 10]


def test_texts_are_tokenised_as_the_bases_tokenizer_does(oracle: Oracle, runtime: Runtime) -> None:
    ids = list(runtime.base.tokenizer("ada was born")["input_ids"])  # type: ignore[misc]
    text, tokens = runtime.generate(["ada was born", ids], max_new_tokens=4, ignore_eos=True)
    assert text.text == tokens.text
    assert text.tokens == tokens.tokens
    assert text.token_ids == oracle.greedy("base", ids, 4)


def test_a_stream_gives_the_text_piece_by_piece(oracle: Oracle, runtime: Runtime) -> None:
    whole = runtime.generate([[7, 8, 9]], folder(oracle, "lora"), max_new_tokens=10, ignore_eos=True)[0]
    events = list(runtime.stream([7, 8, 9], folder(oracle, "lora"), max_new_tokens=10, ignore_eos=True))
    assert len(events) == 10
    assert "".join(event.text for event in events) == whole.text
    assert events[-1].finish_reason == "length"


def test_leaving_a_stream_early_cancels_it(runtime: Runtime) -> None:
    for _ in runtime.stream([7, 8, 9], max_new_tokens=140, ignore_eos=True):
        break
    stream = runtime.stream([7, 8, 9], max_new_tokens=2, ignore_eos=True)
    assert stream.result().finish_reason == "length"
    assert runtime.generation.load.running == 0
    with pytest.raises(InvalidInput, match="has ended"):
        stream.cancel()


def test_n_results_a_prompt_repeat_with_their_seed(runtime: Runtime) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 1.2, "seed": 4, "max_new_tokens": 6, "ignore_eos": True}
    first, again = (runtime.generate([[5, 6], [7, 8]], **options) for _ in range(2))
    assert len(first) == 6
    assert first == again
    assert len({tuple(result.token_ids) for result in first[:3]}) == 3


def test_many_streams_on_one_event_loop(oracle: Oracle, runtime: Runtime) -> None:
    async def texts() -> list[list[int]]:
        async def one(kind: str) -> list[int]:
            stream = await runtime.astream(
                [20, 21, 22], folder(oracle, kind), max_new_tokens=5, ignore_eos=True
            )
            return [token.token_id async for event in stream for token in event.tokens]

        return await asyncio.gather(*(one(kind) for kind in ("lora", "dora", "prefix", "rslora")))

    assert asyncio.run(texts()) == [
        oracle.greedy(kind, [20, 21, 22], 5) for kind in ("lora", "dora", "prefix", "rslora")
    ]


def test_a_task_that_is_cancelled_cancels_its_request(runtime: Runtime) -> None:
    async def leave() -> None:
        stream = await runtime.astream([7, 8, 9], max_new_tokens=140, ignore_eos=True)
        task = asyncio.create_task(stream.result())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    runtime.generate([[5]], max_new_tokens=1)
    assert runtime.generation.load.running == 0


def test_results_can_be_awaited(oracle: Oracle, runtime: Runtime) -> None:
    (result,) = asyncio.run(
        runtime.agenerate([[20, 21]], folder(oracle, "lora"), max_new_tokens=3, ignore_eos=True)
    )
    assert result.token_ids == oracle.greedy("lora", [20, 21], 3)


def test_a_request_finishes_on_the_version_it_began_with(
    oracle: Oracle, runtime: Runtime, tmp_path: Path
) -> None:
    name = tmp_path / "adapter"
    shutil.copytree(oracle.adapters["lora"], name)
    first = runtime.attach(name)
    stream = runtime.stream(list(range(20, 40)), name, max_new_tokens=60, ignore_eos=True)
    events = iter(stream)
    next(events)
    replace_by(name, oracle.adapters["wide"])
    second = runtime.attach(name)
    (after,) = runtime.generate([list(range(20, 40))], name, max_new_tokens=5, ignore_eos=True)
    for _ in events:
        pass
    assert stream.result().token_ids == oracle.greedy("lora", range(20, 40), 60)
    assert after.token_ids == oracle.greedy("wide", range(20, 40), 5)
    assert runtime.attached == {str(name): second}
    eventually(lambda: first not in {adapter.digest for adapter in runtime.resident})


def test_more_adapters_than_slots_take_turns(oracle: Oracle) -> None:
    kinds = ["lora", "rslora", "dora", "wide", "prefix"]
    with Runtime(str(oracle.folder), slots=2, limits=LIMITS) as runtime:
        results = runtime.generate(
            [[20, 21, 22]] * 10,
            [folder(oracle, kind) for kind in kinds * 2],
            max_new_tokens=4,
            ignore_eos=True,
        )
        assert [result.token_ids for result in results] == [
            oracle.greedy(kind, [20, 21, 22], 4) for kind in kinds * 2
        ]
        assert sum(resident.state == "slot" for resident in runtime.resident) <= 2


def test_what_is_pinned_stays(oracle: Oracle) -> None:
    with Runtime(str(oracle.folder), slots=2, limits=LIMITS) as runtime:
        pinned = runtime.pin(folder(oracle, "lora"))
        for kind in ("rslora", "wide", "dora"):
            runtime.generate([[20]], folder(oracle, kind), max_new_tokens=1)
        states = {resident.digest: resident.state for resident in runtime.resident}
        assert states[pinned] == "slot"
        runtime.pin(folder(oracle, "wide"))
        with pytest.raises(OutOfMemory, match="slots"):
            runtime.pin(folder(oracle, "rslora"))
        runtime.unpin(folder(oracle, "wide"))
        with pytest.raises(AdapterNotFound, match="is not attached"):
            runtime.unpin("nobody")


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("text", {}, "a text stands where a list of prompts"),
        ([3.5], {}, "a prompt is a text, a list of token ids or a list of messages, not 3.5"),
        ([["a"]], {}, "a prompt is a text, a list of"),
        ([[]], {}, "the prompt is empty"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens = 0"),
        ([[5]], {"max_tokens": 5}, "'max_tokens' is no setting of generation. Did you mean"),
        ([[5]], {"stop": ["x"] * 5000}, "stop has 5000 strings"),
        ([[5]], {"json_schema": "{"}, "json_schema cannot be read"),
        ([[5]] * 2, {"adapters": [None] * 3}, "2 prompts and 3 adapters"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    prompts: object, options: dict[str, object], message: str, runtime: Runtime
) -> None:
    with pytest.raises(InvalidInput, match=message):
        runtime.generate(prompts, **options)  # type: ignore[arg-type]
    assert runtime.generate([[5]], max_new_tokens=1, ignore_eos=True)[0].finish_reason == "length"


def test_a_stream_has_one_text(runtime: Runtime) -> None:
    with pytest.raises(InvalidInput, match="n = 2"):
        runtime.stream([5], n=2)


def test_an_encoder_does_not_generate_and_says_why(tiny_base: Path) -> None:
    with Runtime(str(tiny_base)) as runtime, pytest.raises(InvalidSettings, match="cannot generate here"):
        runtime.generate(["ada"])


def test_keys_and_values_that_do_not_fit_are_refused(oracle: Oracle) -> None:
    limits = Limits(kv_tokens=1 << 50)
    with (
        Runtime(str(oracle.folder), limits=limits) as runtime,
        pytest.raises(OutOfMemory, match="Lower kv_tokens"),
    ):
        runtime.generate([[5]])


@pytest.mark.parametrize(
    ("kind", "length"), [("base", 0), ("lora", 0), ("prefix", 5), ("prefix and lora", 5)]
)
def test_a_prefix_takes_of_the_room(oracle: Oracle, kind: str, length: int) -> None:
    """What is said to fit does, and one token more does not."""
    expression = " + ".join(folder(oracle, name) for _, name in oracle.terms(kind)) or None
    with Runtime(load_base(str(oracle.folder)), limits=LIMITS) as runtime:
        if expression is not None:
            for name in expression.split(" + "):
                runtime.attach(name)
        room = runtime.room(expression)
        assert runtime.room() - length - 4 < room <= runtime.room() - length
        (whole,) = runtime.generate([[7, 8]], expression, max_new_tokens=room - 2, ignore_eos=True)
        assert len(whole.tokens) == room - 2
        with pytest.raises(InvalidInput, match="fit"):
            runtime.generate([[7, 8]], expression, max_new_tokens=room - 1)


def engine_threads() -> set[threading.Thread]:
    """Those of runtimes that other tests share are among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("adapthub")}


def test_closing_ends_what_runs(oracle: Oracle) -> None:
    before = engine_threads()
    runtime = Runtime(load_base(str(oracle.folder)), limits=LIMITS)
    stream = runtime.stream([7, 8], max_new_tokens=150, ignore_eos=True)
    next(iter(stream))
    runtime.close()
    runtime.close()
    assert engine_threads() <= before
    with pytest.raises(AdaptHubError, match="closed"):
        runtime.generate([[5]])


def test_a_request_that_comes_as_generation_closes_is_refused(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(load_base(str(oracle.folder)), limits=LIMITS)
    service = runtime.generation

    def close_meanwhile(*_: Any) -> None:
        runtime.close()

    monkeypatch.setattr("adapthub.runtime.generation.compile_constraint", close_meanwhile)
    with pytest.raises(AdaptHubError, match="closed"):
        service.submit([5], (), Sampling(), lambda _: None)


def test_a_call_that_closing_overtakes_says_so_though_its_name_went_too(oracle: Oracle) -> None:
    runtime = Runtime(load_base(str(oracle.folder)), limits=LIMITS)
    asked = runtime._feed.ask_all([[5], [6]], folder(oracle, "lora"))
    runtime.detach(folder(oracle, "lora"))
    runtime.close()
    with pytest.raises(AdaptHubError, match="the runtime is closed"):
        runtime._feed.results(asked)


def test_a_closed_runtime_starts_no_thread(oracle: Oracle) -> None:
    before = engine_threads()
    runtime = Runtime(load_base(str(oracle.folder)), limits=LIMITS)
    runtime.close()
    with pytest.raises(AdaptHubError, match="closed"):
        runtime.generate([[5]])
    assert engine_threads() <= before


def test_a_stream_raises_what_its_request_ended_with(oracle: Oracle) -> None:
    runtime = Runtime(load_base(str(oracle.folder)), limits=LIMITS)
    streams = [runtime.stream([7, 8], max_new_tokens=150, ignore_eos=True) for _ in range(2)]
    runtime.close()
    with pytest.raises(AdaptHubError, match="closed"):
        for _ in streams[0]:
            pass
    with pytest.raises(AdaptHubError, match="closed"):
        streams[1].result()


def test_a_task_that_is_cancelled_while_its_request_is_queued_cancels_it() -> None:
    submitting, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()

    def submit(_: Any) -> str:
        submitting.set()
        go_on.wait()
        return "an id"

    def cancel(id: str) -> None:
        assert id == "an id"
        cancelled.set()

    async def leave() -> None:
        task = asyncio.create_task(AsyncStream.open(submit, cancel))
        await asyncio.to_thread(submitting.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(leave())
    assert cancelled.wait(10)


def test_many_calls_on_one_event_loop_share_steps(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few threads the loop has, nobody waits for another call's text."""

    async def all_results() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        asked = (runtime.agenerate([[5, 6]], max_new_tokens=100, ignore_eos=True) for _ in range(6))
        return await asyncio.gather(*asked)

    engine = runtime.generation.engine
    most, step = 0, engine.step

    def counted() -> bool:
        nonlocal most
        worked = step()
        most = max(most, engine.load.running)
        return worked

    monkeypatch.setattr(engine, "step", counted)
    results = asyncio.run(all_results())
    assert len({tuple(result.token_ids) for (result,) in results}) == 1
    assert most > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "soon"}, "timeout is 'soon'"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": -1}, "timeout is -1"),
        ({"priority": "high"}, "priority is 'high'"),
        ({"tenant": ["acme"]}, "tenant is"),
    ],
)
def test_what_cannot_be_queued_is_refused(
    options: dict[str, Any], message: str, oracle: Oracle, runtime: Runtime
) -> None:
    digest = runtime.register(folder(oracle, "lora"))
    with pytest.raises(InvalidInput, match=message):
        runtime.generate([[5]], folder(oracle, "lora"), **options)
    runtime.detach(digest)
    with pytest.raises(KeyError):  # no use of it is left
        runtime._names.artifact(digest)


@pytest.mark.parametrize("field", ["max_rows", "step_tokens", "step_seconds", "queue_limit", "kv_tokens"])
def test_limits_that_let_nothing_run_are_refused(field: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{field} is 0"):
        Limits(**{field: 0})
