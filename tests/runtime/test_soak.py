"""Ten thousand random requests with cancels, deadlines, loads, evictions and adapters that go: nothing is leaked."""

from __future__ import annotations

import gc
import logging
import random
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError
from adapthub.runtime.attention import serves
from adapthub.runtime.engine import Engine
from adapthub.runtime.kv import KV, Pages
from adapthub.runtime.requests import Event, Request
from adapthub.runtime.residency import Residency
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.text_stream import TextStream
from tests.runtime.generating import EXPRESSIONS, KINDS, Oracle, write_oracle

_PAGE = 4


class _Soak:
    """An engine with few pages and slots, whose clock is the count of its steps, under random requests."""

    def __init__(self, oracle: Oracle, seed: int) -> None:
        self.rng = random.Random(seed)
        base = load_base(str(oracle.folder))
        self.adapted = AdaptedBase(base)
        self.residency = Residency(self.adapted, slots=4, slot_bytes=None, host_bytes=1 << 18)
        self.pages = Pages(54)  # few enough that rows are preempted, however soon adapters load
        self.steps = 0
        serving, tokenizer = serves(base.model), base.tokenizer
        assert tokenizer is not None
        self.engine = Engine(
            self.adapted,
            self.residency,
            kv=KV(serving.shapes, self.pages.count, _PAGE, base.device, serving.dtype),
            pages=self.pages,
            stream=lambda request: TextStream(tokenizer, request.sampling.stop),
            eos_ids=frozenset([3]),
            context=serving.context or 160,
            max_rows=12,
            step_tokens=48,
            scheduler=Scheduler(clock=lambda: float(self.steps), queue_limit=256),
            clock=lambda: float(self.steps),
        )
        self.loaded = threading.Event()
        self.residency.when_ready(self.loaded.set)
        self.digests = {name: self.residency.register(oracle.artifact(name)) for name in oracle.adapters}
        self.gone: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []  # but for requests whose adapter went
        self.running: set[str] = set()

    def submit(self, id: str) -> None:
        rng = self.rng
        kind = rng.choice(KINDS)
        terms = EXPRESSIONS.get(kind, () if kind == "base" else ((1.0, kind),))
        sampling = Sampling(
            max_new_tokens=rng.randint(1, 24),
            temperature=rng.choice((0.0, 1.0)),
            seed=rng.randrange(99),
            ignore_eos=rng.random() < 0.5,
            stop=["a"] if rng.random() < 0.2 else [],
        )

        digests = {self.digests[name] for _, name in terms}

        def deliver(event: Event) -> None:
            went = isinstance(event.error, AdapterNotFound) and digests & self.gone
            if event.error is not None and not went:
                self.failures.append(str(event.error))
            if event.finish_reason is not None:
                self.ended[event.finish_reason] += 1
                self.running.discard(id)
            elif rng.random() < 0.001:
                raise RuntimeError("a receiver that fails")

        prompt = [rng.randrange(5, 150) for _ in range(rng.choice((1, 3, 9, 30, 60)))]
        if rng.random() < 0.3:  # prompts that others share
            prompt = [*range(20, 52), *prompt[:5]]
        deadline = self.steps + rng.randint(1, 40) if rng.random() < 0.1 else None
        self.running.add(id)
        self.engine.submit(
            Request(
                id,
                tuple(prompt),
                tuple((weight, self.digests[name]) for weight, name in terms),
                sampling,
                deliver,
                tenant=rng.choice("abc"),
                priority=rng.randint(0, 2),
                deadline=deadline,
            )
        )

    def cancel_one(self) -> None:
        if self.running:
            try:
                self.engine.cancel(self.rng.choice(sorted(self.running)))
            except AdaptHubError:  # it ended in this very step
                return

    def step(self) -> None:
        self.loaded.clear()
        if not self.engine.step() and self.engine.busy:
            self.loaded.wait(0.005)
        self.steps += 1


def _soak(oracle: Oracle, count: int, folder: Path) -> _Soak:
    """Runs `count` requests to their ends, and lets an adapter go and come back under another digest now and then."""
    soak = _Soak(oracle, seed=count)
    submitted = 0
    while submitted < count or soak.engine.busy:
        for _ in range(soak.rng.randint(0, 4)):
            if submitted < count and len(soak.running) < 60:
                soak.submit(str(submitted))
                submitted += 1
        if soak.rng.random() < 0.2:
            soak.cancel_one()
        if soak.rng.random() < 0.01:
            name = soak.rng.choice(sorted(soak.digests))
            copy = folder / str(soak.steps)
            shutil.copytree(oracle.adapters[name], copy)
            (copy / "README.md").write_text(f"version {soak.steps}\n")
            soak.residency.forget(soak.digests[name])
            soak.gone.add(soak.digests[name])
            soak.digests[name] = soak.residency.register(Artifact.read(copy))
        soak.step()
    return soak


def _check(soak: _Soak, count: int) -> None:
    assert soak.ended.total() == count
    assert {"length", "stop", "cancelled", "deadline"} <= set(soak.ended)
    assert soak.failures == []
    assert soak.engine.preemptions > 0
    soak.engine.clear_cache()
    assert soak.pages.free == soak.pages.count
    assert all(resident.holders == 0 for resident in soak.residency.snapshot())
    assert soak.engine.load.running == soak.engine.load.waiting == 0
    soak.residency.close()
    soak.adapted.close()
    assert not soak.adapted.attached
    assert not any(module._forward_hooks for module in soak.adapted.base.model.modules())


def _tensors() -> int:
    gc.collect()
    return sum(type(o).__name__ in ("Tensor", "Parameter") for o in gc.get_objects())


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return write_oracle(tmp_path_factory.mktemp("generating"))


def test_three_hundred_requests(oracle: Oracle, tmp_path: Path) -> None:
    _check(_soak(oracle, 300, tmp_path), 300)


@pytest.mark.slow
def test_ten_thousand_requests(oracle: Oracle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(
        logging.CRITICAL
    )  # a record of an error keeps the frames that it passed, and all they hold
    _check(_soak(oracle, 500, tmp_path / "before"), 500)  # what is made once is there now
    before = _tensors()
    soak: Any = _soak(oracle, 10_000, tmp_path / "after")
    _check(soak, 10_000)
    del soak
    assert _tensors() <= before
