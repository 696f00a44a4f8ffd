"""Many callers of an event loop in one pass: what they get is what `predict` gives each alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, Overloaded
from adapthub.runtime import Runtime
from adapthub.runtime.batcher import Batcher
from adapthub.runtime.predict import Pair, TokenIds
from adapthub.runtime.predictor import Answer, Question
from tests.adapters.peft_oracle import lora_config, save_adapter

TOKENS, TEXT = "token-classification", "text-classification"
TEXTS = ["ada was born in london", "a fine film", "bob met alice", "she visited berlin", "a dull story"]


@pytest.fixture(scope="module")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """The base alone, two for tokens and two for texts, with unlike numbers of labels."""
    folder = tmp_path_factory.mktemp("adapters")
    kinds = [(TOKENS, 3), (TOKENS, 5), (TEXT, 2), (TEXT, 4)]
    return [None] + [
        str(save_adapter(tiny_base, folder / str(seed), task, lora_config(task), labels=labels, seed=seed))
        for seed, (task, labels) in enumerate(kinds)
    ]


@pytest.fixture
def runtime(tiny_base: Path) -> Iterator[Runtime]:
    with Runtime(str(tiny_base), device="cpu") as runtime:
        yield runtime


class Passes:
    """Sees every pass that a runtime runs; the first waits until `go`."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.texts: list[list[str]] = []
        self._compute = runtime._predictor.compute
        monkeypatch.setattr(runtime._predictor, "compute", self._seen)

    def _seen(self, questions: Sequence[Question]) -> list[torch.Tensor]:
        self.texts.append([question.row.text for question in questions])
        self.began.set()
        assert self.go.wait(60)
        return self._compute(questions)


async def ask(
    batcher: Batcher[Any, Any, Any],
    texts: Sequence[str | TokenIds | Pair],
    adapter: str | None,
    tenant: str = "",
) -> list[Answer]:
    async with batcher.reading(texts, adapter, tenant) as questions:
        return await batcher.submit(questions, tenant).answers()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.001)


def waiting(batcher: Batcher[Any, Any, Any]) -> int:
    return batcher._rows.total()


def test_what_comes_while_a_pass_runs_goes_together_in_the_next(
    runtime: Runtime, adapters: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [(text, adapter) for text in TEXTS for adapter in adapters]
    expected = [runtime.logits([text], adapter)[0] for text, adapter in cases]
    predictions = [runtime.predict([text], adapter)[0] for text, adapter in cases]
    passes = Passes(runtime, monkeypatch)

    async def run() -> list[list[Answer]]:
        batcher = runtime.batcher
        first = asyncio.create_task(ask(batcher, ["the film"], None))
        await until(passes.began.is_set)
        tasks = [asyncio.create_task(ask(batcher, [text], adapter)) for text, adapter in cases]
        await until(lambda: waiting(batcher) == len(cases))
        passes.go.set()
        await first
        return await asyncio.gather(*tasks)

    answers = asyncio.run(run())
    assert [len(texts) for texts in passes.texts] == [1, len(cases)]
    for (answer,), logits, prediction in zip(answers, expected, predictions, strict=True):
        torch.testing.assert_close(answer.logits, logits, rtol=1e-4, atol=1e-5)
        ours = answer.prediction
        assert (ours.label, ours.digests, ours.task) == (
            prediction.label,
            prediction.digests,
            prediction.task,
        )
        assert [entity.text for entity in ours.entities] == [entity.text for entity in prediction.entities]


def test_a_callers_texts_are_answered_in_order(runtime: Runtime, adapters: list[str | None]) -> None:
    texts = [" ".join([word] * (1 + index % 7)) for index, word in enumerate(TEXTS * 20)]
    answers = asyncio.run(ask(runtime.batcher, texts, adapters[3]))
    assert [answer.question.row.text for answer in answers] == texts
    for answer, logits in zip(answers, runtime.logits(texts, adapters[3]), strict=True):
        torch.testing.assert_close(answer.logits, logits, rtol=1e-4, atol=1e-5)


def test_no_texts_are_no_answers(runtime: Runtime) -> None:
    assert asyncio.run(ask(runtime.batcher, [], None)) == []


def test_a_bad_row_fails_alone(
    runtime: Runtime, adapters: list[str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that nobody has, a text without a word, and one that the pass itself cannot run."""
    logits = runtime._adapted.logits
    poison = len(TEXTS[0].split()) + 2 + 30

    def fails(features: Sequence[dict[str, list[int]]], selections: Sequence[object]) -> list[torch.Tensor]:
        if any(len(feature["input_ids"]) == poison for feature in features):
            raise RuntimeError("no kernel image")
        return logits(features, selections)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime._adapted, "logits", fails)
    bad = " ".join(["ada"] * (poison - 2))

    async def run() -> list[object]:
        asked = [ask(runtime.batcher, [text], adapter) for text in TEXTS for adapter in adapters]
        worse = [
            ask(runtime.batcher, ["a film"], "acme/nobody"),
            ask(runtime.batcher, [" "], adapters[1]),
            ask(runtime.batcher, [bad], adapters[3]),
        ]
        return await asyncio.gather(*worse, *asked, return_exceptions=True)

    unknown, empty, poisoned, *fine = asyncio.run(run())
    assert isinstance(unknown, AdaptHubError)
    assert isinstance(empty, InvalidInput)
    assert isinstance(poisoned, AdaptHubError)
    assert "no kernel image" in str(poisoned)
    assert not [one for one in fine if isinstance(one, BaseException)]


def test_a_tenant_that_floods_waits_behind_itself(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapthub.runtime.batcher._PASS_TOKENS", 40)
    passes = Passes(runtime, monkeypatch)

    async def run() -> None:
        batcher = runtime.batcher
        flood = [asyncio.create_task(ask(batcher, ["bad film"] * 50, None, "loud")) for _ in range(4)]
        await until(lambda: passes.began.is_set() and waiting(batcher) == 200 - len(passes.texts[0]))
        quiet = [
            asyncio.create_task(ask(batcher, [f"{who} met bob"] * 2, None, who)) for who in ("ada", "alice")
        ]
        await until(lambda: waiting(batcher) == 200 + 4 - len(passes.texts[0]))
        passes.go.set()
        await asyncio.gather(*flood, *quiet)

    asyncio.run(run())
    for who in ("ada", "alice"):
        served = [index for index, texts in enumerate(passes.texts) if f"{who} met bob" in texts]
        assert served == [1], "in the first pass after the one that ran"
    assert "bad film" in passes.texts[1], "and not instead of the others"
    assert max(map(len, passes.texts)) == 10, "of four tokens each"


def test_tenants_take_turns_where_a_pass_has_room_for_one_row(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.runtime.batcher._PASS_TOKENS", 1)
    passes = Passes(runtime, monkeypatch)

    async def run() -> None:
        batcher = runtime.batcher
        loud = asyncio.create_task(ask(batcher, ["bad film"] * 7, None, "loud"))
        await until(passes.began.is_set)
        quiet = asyncio.create_task(ask(batcher, ["ada met bob"] * 2, None, "quiet"))
        await until(lambda: waiting(batcher) == 8)
        passes.go.set()
        await asyncio.gather(loud, quiet)

    asyncio.run(run())
    assert [index for index, texts in enumerate(passes.texts) if texts == ["ada met bob"]] == [2, 4]


def test_the_queue_is_bounded_and_nobody_fills_it_alone(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(runtime, monkeypatch)
    batcher = Batcher(runtime._predictor, runtime._names, runtime._residency, queue_limit=20)

    async def run() -> None:
        first = asyncio.create_task(ask(batcher, ["the film"], None, "loud"))
        await until(passes.began.is_set)
        loud = asyncio.create_task(ask(batcher, ["bad film"] * 9, None, "loud"))
        await until(lambda: waiting(batcher) == 9)
        with pytest.raises(Overloaded, match="this caller"):
            await ask(batcher, ["bad film"] * 2, None, "loud")
        quiet = asyncio.create_task(ask(batcher, ["a fine film"] * 11, None, "quiet"))
        await until(lambda: waiting(batcher) == 20)
        with pytest.raises(Overloaded, match="20 texts wait"):
            await ask(batcher, ["a fine film"], None, "third")
        passes.go.set()
        await asyncio.gather(first, loud, quiet)
        assert len(await ask(batcher, ["bad film"] * 2, None, "loud")) == 2

    try:
        asyncio.run(run())
    finally:
        batcher.close()


def test_an_adapter_that_is_evicted_at_the_last_moment_is_waited_for(
    runtime: Runtime, adapters: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between "ready" and being held: nobody else's rows are lost, nothing stays held."""
    passes = Passes(runtime, monkeypatch)
    residency = runtime._residency
    digests = [runtime.attach(str(adapters[kind])) for kind in (3, 4)]
    hold, evicted = residency.hold, [digests[1]]

    def evicting(asked: Sequence[str]) -> None:
        if threading.current_thread() is batcher._thread and [*asked] == evicted:
            evicted.clear()
            raise AdapterNotFound("evicted since")
        hold(asked)

    async def run() -> list[list[Answer]]:
        first = asyncio.create_task(ask(batcher, ["the film"], None))
        await until(passes.began.is_set)
        tasks = [
            asyncio.create_task(ask(batcher, ["a fine film"], digest, tenant))
            for digest, tenant in zip(digests, ("ada", "bob"), strict=True)
        ]
        await until(lambda: waiting(batcher) == 2)
        monkeypatch.setattr(residency, "hold", evicting)
        passes.go.set()
        async with asyncio.timeout(60):
            await first
            return await asyncio.gather(*tasks)

    batcher = runtime.batcher
    answers = asyncio.run(run())
    assert evicted == []
    for digest, (answer,) in zip(digests, answers, strict=True):
        torch.testing.assert_close(answer.logits, runtime.logits(["a fine film"], digest)[0])
    assert not any(resident.holders for resident in runtime.resident)


def test_a_caller_who_leaves_costs_nothing(
    runtime: Runtime, adapters: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its pass; and what its name meant is let go."""
    passes = Passes(runtime, monkeypatch)

    async def run() -> None:
        batcher = runtime.batcher
        first = asyncio.create_task(ask(batcher, ["the film"], None))
        await until(passes.began.is_set)
        leaving = asyncio.create_task(ask(batcher, ["a dull story"] * 3, adapters[4]))
        staying = asyncio.create_task(ask(batcher, ["a fine film"], adapters[4]))
        await until(lambda: waiting(batcher) == 4)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        assert waiting(batcher) == 1
        passes.go.set()
        await asyncio.gather(first, staying)

    asyncio.run(run())
    assert passes.texts == [["the film"], ["a fine film"]]
    assert runtime._names._uses.total() == 0
    assert all(resident.holders == 0 for resident in runtime.resident)


def test_more_adapters_than_slots_take_turns(tiny_base: Path, adapters: list[str | None]) -> None:
    with Runtime(str(tiny_base), device="cpu", slots=1) as runtime:

        async def run() -> list[list[Answer]]:
            return await asyncio.gather(
                *(ask(runtime.batcher, [text], adapter) for text in TEXTS for adapter in adapters)
            )

        answers = asyncio.run(run())
    assert [answer.question.name for (answer,) in answers] == adapters * len(TEXTS)
    with Runtime(str(tiny_base), device="cpu") as plain:
        for (answer,) in answers:
            (logits,) = plain.logits([answer.question.row.text], answer.question.name)
            torch.testing.assert_close(answer.logits, logits, rtol=1e-4, atol=1e-5)


def test_token_ids_and_pairs_are_rows_too(runtime: Runtime, adapters: list[str | None]) -> None:
    tokenizer = runtime.base.tokenizer
    assert tokenizer is not None
    pair = tokenizer("ada was born", "bob met alice")
    (ours,) = asyncio.run(ask(runtime.batcher, [Pair("ada was born", "bob met alice")], adapters[3]))
    features = {"input_ids": pair["input_ids"]}
    (theirs,) = runtime._adapted.logits([features], [ours.question.selection])
    torch.testing.assert_close(ours.logits, theirs, rtol=1e-4, atol=1e-5)
    (given,) = asyncio.run(ask(runtime.batcher, [TokenIds(tuple(tokenizer("ada")["input_ids"]))], None))
    torch.testing.assert_close(given.logits, runtime.logits(["ada"])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ids", [(), (160,), (-1,), (5,) * 65])
def test_token_ids_that_the_base_does_not_take(runtime: Runtime, ids: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="input 0"):
        asyncio.run(ask(runtime.batcher, [TokenIds(ids)], None))


def test_whoever_waits_when_the_runtime_closes_is_told(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(str(tiny_base), device="cpu")
    passes = Passes(runtime, monkeypatch)

    async def run() -> None:
        batcher = runtime.batcher
        first = asyncio.create_task(ask(batcher, ["the film"], None))
        await until(passes.began.is_set)
        second = asyncio.create_task(ask(batcher, ["a fine film"], None))
        await until(lambda: waiting(batcher) == 1)
        closing = asyncio.create_task(asyncio.to_thread(runtime.close))
        await until(lambda: batcher._closing)
        passes.go.set()
        assert len(await first) == 1
        with pytest.raises(AdaptHubError, match="closed"):
            await second
        await closing

    asyncio.run(run())
    with pytest.raises(AdaptHubError, match="closed"):
        _ = runtime.batcher


def test_a_flood_that_is_read_is_bounded_and_lets_others_read(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading takes threads too: one tenant's long texts must not hold all of them."""
    go, reading = threading.Event(), []
    reader = runtime._predictor.reader

    def slow(*asked: Any) -> Callable[[Any, int], list[Question]]:
        read = reader(*asked)

        def one(text: Any, place: int) -> list[Question]:
            reading.append(text)
            assert text != "bad film" or go.wait(60)
            return read(text, place)

        return one

    monkeypatch.setattr(runtime._predictor, "reader", slow)
    batcher = Batcher(runtime._predictor, runtime._names, runtime._residency, queue_limit=40)

    async def run() -> None:
        flood = [asyncio.create_task(ask(batcher, ["bad film"] * 2, None, "loud")) for _ in range(10)]
        await until(lambda: reading.count("bad film") == 2)
        with pytest.raises(Overloaded, match="20 texts of this caller"):
            await ask(batcher, ["bad film"], None, "loud")
        assert len(await ask(batcher, ["a fine film"], None, "quiet")) == 1
        go.set()
        await asyncio.gather(*flood)
        assert not batcher._read_now
        assert not batcher._turns

    try:
        asyncio.run(run())
    finally:
        batcher.close()
