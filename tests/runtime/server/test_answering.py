"""One request from admission to the record of what it used, on an event loop of the test's own and behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import openai
import pytest

from adapthub.adapters.errors import AdaptHubError, InvalidInput, Overloaded, RateLimited, StorageError
from adapthub.hub.registry import Registry
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.answering import Answer, begin
from adapthub.runtime.server.catalog import Catalog
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import LOCAL
from adapthub.runtime.tenants.gate import UsageRecord
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.recording import RecordingGate, idle
from tests.web.live import eventually

PROMPT = [5, 6, 7, 8]
LONG = Sampling(max_new_tokens=400, ignore_eos=True)


@pytest.fixture(scope="module")
def runtime(served_base: Path, served_hub: Registry) -> Iterator[Runtime]:
    with Runtime(str(served_base), hub=served_hub, limits=settings_for(served_base).limits) as runtime:
        yield runtime


@pytest.fixture
def gate() -> RecordingGate:
    return RecordingGate()


@pytest.fixture
def run(runtime: Runtime, served_hub: Registry, gate: RecordingGate) -> Callable[[Any], Any]:
    """Runs a coroutine function of a Serving, and waits until all is written down."""

    def run(test: Callable[[Serving], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            serving = Serving(runtime, served_hub, Catalog(runtime, served_hub, "base", ["*"]), gate)
            result = await test(serving)
            async with asyncio.timeout(30):
                while serving.in_flight:
                    await asyncio.sleep(0.005)
            assert runtime.generation.load.running == 0
            return result

        return asyncio.run(inside())

    return run


async def started(
    serving: Serving, *samplings: Sampling, prompts: Any = (PROMPT,), model: str = "acme/sql@v1"
) -> Answer:
    target = await serving.catalog.find(model, LOCAL)
    return await begin(serving, LOCAL, target, "chat", prompts, samplings)


def seeded(*seeds: int, **options: Any) -> list[Sampling]:
    return [Sampling(**{"max_new_tokens": 6, "temperature": 0.9, "seed": seed} | options) for seed in seeds]


def test_choices_are_merged_and_what_they_used_is_written_down_once(
    run: Callable[[Any], Any], runtime: Runtime, gate: RecordingGate
) -> None:
    async def whole(serving: Serving) -> tuple[list[str], Answer]:
        texts = ["", "", "", ""]
        answer = await started(serving, *seeded(1, 2), prompts=[PROMPT, PROMPT[:2]])
        async with answer:
            async for choice, event in answer:
                texts[choice] += event.text
        await answer.settle()
        return texts, answer

    texts, answer = run(whole)
    wanted = runtime.generate(
        [PROMPT, PROMPT[:2]], "acme/sql@v1", max_new_tokens=6, temperature=0.9, seed=1, n=2
    )
    assert texts == [one.text for one in wanted]
    (record,) = gate.records
    assert record.id == answer.id
    assert record.adapter == "acme/sql@v1"
    assert record.prompt_tokens == 4 + 2
    assert record.completion_tokens == sum(len(one.tokens) for one in wanted)
    assert record.outcome in ("length", "stop")
    assert gate.admitted == gate.given_back == [4 + 2 + 4 * 6]


def test_the_record_comes_before_the_last_event(run: Callable[[Any], Any], gate: RecordingGate) -> None:
    async def watch(serving: Serving) -> list[int]:
        seen = []
        async with await started(serving, *seeded(1, 2, 3)) as answer:
            ended = 0
            async for _, event in answer:
                ended += event.finish_reason is not None
                if ended == 3:
                    seen.append(len(gate.records))
        return seen

    assert run(watch) == [1]


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("how", ["break", "task", "scope", "never"])
def test_whoever_leaves_early_cancels_all_choices(
    run: Callable[[Any], Any], gate: RecordingGate, runtime: Runtime, choices: int, how: str
) -> None:
    """By leaving the loop, as a cancelled task, in a cancelled scope of anyio, or without reading anything."""

    async def leave(serving: Serving) -> int:
        seen = 0
        answer = await started(serving, *[LONG] * choices)
        begun = asyncio.Event()

        async def read() -> None:
            nonlocal seen
            async with answer:
                if how == "never":
                    while runtime.generation.load.running < choices:
                        await asyncio.sleep(0.001)
                    return
                async for _, event in answer:
                    seen += len(event.tokens)
                    begun.set()
                    if how == "break" and seen > 4:
                        break

        if how == "scope":
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await begun.wait()
                group.cancel_scope.cancel()
        elif how == "task":
            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            await read()
        return seen

    seen = run(leave)
    (record,) = gate.records
    assert record.outcome == "cancelled"
    assert seen <= record.completion_tokens < 400 * choices
    assert record.prompt_tokens == len(PROMPT)
    assert gate.given_back == gate.admitted


def test_an_error_of_one_choice_ends_all(
    run: Callable[[Any], Any], gate: RecordingGate, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second's sampler breaks while all run."""
    engine = runtime.generation.engine
    submit, requests = engine.submit, []
    written: list[UsageRecord] = []  # by the time that the error is given out

    def remember(request: Any) -> None:
        requests.append(request)
        submit(request)

    monkeypatch.setattr(engine, "submit", remember)

    async def fail(serving: Serving) -> None:
        async with await started(serving, LONG, LONG, LONG) as answer:
            try:
                async for _, event in answer:
                    row = engine._running.get(requests[1].id)
                    if event.tokens and row is not None:
                        monkeypatch.setattr(row.sampler, "accept", broken)
            finally:
                written.extend(gate.records)

    def broken(token: int) -> None:
        raise ValueError("broken")

    with pytest.raises(AdaptHubError, match="broken"):
        run(fail)
    eventually(lambda: bool(gate.records) and runtime.generation.load.running == 0, "it still runs")
    (record,) = gate.records
    assert record.outcome == "error"
    assert written == [record]


def test_whoever_leaves_while_choices_are_opened_is_cancelled(
    run: Callable[[Any], Any], gate: RecordingGate, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first runs, the second is being opened, the third never is."""
    seen: list[Observation] = []

    async def leave(serving: Serving) -> None:
        serving.observers.append(seen.append)
        real, second = runtime.astream, asyncio.Event()
        opened = 0

        async def opening(*arguments: Any, **options: Any) -> Any:
            nonlocal opened
            opened += 1
            if opened == 2:
                second.set()
                await asyncio.Event().wait()
            return await real(*arguments, **options)

        monkeypatch.setattr(runtime, "astream", opening)
        task = asyncio.create_task(started(serving, LONG, LONG, LONG))
        await second.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(leave)
    assert [record.outcome for record in gate.records] == ["cancelled"]
    assert [(one.outcome, one.error) for one in seen] == [("cancelled", None)]
    assert gate.given_back == gate.admitted


@pytest.mark.parametrize(
    ("refusing", "prompts"),
    [
        (RateLimited("too many", retry_after=3), [PROMPT]),
        (None, [[10**6]]),
        (None, [PROMPT, []]),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    run: Callable[[Any], Any], gate: RecordingGate, refusing: Exception | None, prompts: Any
) -> None:
    gate.refusing = refusing

    async def refused(serving: Serving) -> None:
        with pytest.raises((RateLimited, InvalidInput)):
            await started(serving, *seeded(1), prompts=prompts)

    run(refused)
    assert gate.given_back == gate.admitted, "what was admitted is given back"
    assert [record.outcome for record in gate.records] == ["error"] * len(gate.admitted)


def test_a_draining_server_begins_nothing(run: Callable[[Any], Any], gate: RecordingGate) -> None:
    async def drain(serving: Serving) -> None:
        await serving.drain()
        with pytest.raises(Overloaded):
            await started(serving, *seeded(1))

    run(drain)
    assert gate.admitted == []


def test_a_record_that_cannot_be_written_is_an_error_before_the_last_event(
    run: Callable[[Any], Any], gate: RecordingGate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.failing = StorageError("the disk is full")

    async def fail(serving: Serving) -> list[str | None]:
        reasons: list[str | None] = []

        async def read() -> None:
            async with await started(serving, *seeded(1)) as answer:
                async for _, event in answer:
                    reasons.append(event.finish_reason)

        with pytest.raises(StorageError):
            await read()
        return reasons

    assert set(run(fail)) <= {None}
    assert "could not be written down" in caplog.text


@pytest.fixture(scope="module")
def recorded(served_base: Path, served_hub: Registry) -> Iterator[tuple[Running, RecordingGate]]:
    gate = RecordingGate()
    with live(settings_for(served_base), served_hub, gate) as running:
        yield running, gate


class TestOverHttp:
    @pytest.mark.parametrize("n", [1, 3])
    @pytest.mark.parametrize("stream", [True, False])
    def test_a_client_that_goes_away_cancels_its_work(
        self, recorded: tuple[Running, RecordingGate], stream: bool, n: int
    ) -> None:
        server, gate = recorded
        gate.records.clear()
        body = {
            "model": "acme/sql",
            "messages": [{"role": "user", "content": "ada"}],
            "n": n,
            "stream": stream,
            "ignore_eos": True,
        }

        async def go_away() -> None:
            async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:

                async def ask() -> None:
                    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        async for _ in answer.aiter_lines():
                            seen.set()

                seen = asyncio.Event()
                asking = asyncio.create_task(ask())
                if stream:
                    await seen.wait()
                else:
                    while server.serving.runtime.generation.load.running < n:
                        await asyncio.sleep(0.002)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        asyncio.run(go_away())
        idle(server)
        (record,) = gate.records
        assert record.outcome == "cancelled"
        assert record.completion_tokens < n * 400

    def test_an_error_within_a_stream_is_its_last_event(
        self, recorded: tuple[Running, RecordingGate], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, gate = recorded
        gate.records.clear()
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="acme/sql",
                messages=[{"role": "user", "content": "ada"}],
                stream=True,
                extra_body={"ignore_eos": True},
            )
            for _ in range(3):
                next(stream)
            (row,) = server.serving.runtime.generation.engine._running.values()
            monkeypatch.setattr(row.sampler, "accept", _broken)
            with pytest.raises(openai.APIError, match="broke in the middle"):
                list(stream)
        idle(server)
        assert [record.outcome for record in gate.records] == ["error"]

    def test_a_full_queue_is_503_with_retry_after(
        self, recorded: tuple[Running, RecordingGate], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also for a stream: the status is not given out before it is known. Nobody pays for what was not computed."""
        server, gate = recorded
        gate.records.clear()
        monkeypatch.setattr(server.serving.runtime.generation.engine._scheduler, "queue_limit", 0)
        for stream in (False, True):
            answer = httpx.post(
                f"{server.address}/v1/completions",
                json={"model": "acme/sql", "prompt": "ada", "stream": stream},
            )
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "overloaded"
        idle(server)
        assert [(record.outcome, record.tokens) for record in gate.records] == [("error", 0)] * 2, (
            "for nothing"
        )


def _broken(token: int) -> None:
    raise ValueError("it broke in the middle")
