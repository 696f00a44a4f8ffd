"""Residency with a real base and adapters that PEFT saved: tiers, budgets, holds, failures; and every order of its jobs."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.delta import Dora, LowRank
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    InvalidInput,
    OutOfMemory,
    StorageError,
    TensorMismatch,
)
from adapthub.runtime.host_copy import HostCopy
from adapthub.runtime.registered import Resident
from adapthub.runtime.residency import Moves, Residency
from adapthub.runtime.tier import Tier
from tests.conftest import write_tokenizer

PATIENCE = 2.0
AMPLE = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _lora(**options: Any) -> LoraConfig:
    settings: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    return LoraConfig(task_type="CAUSAL_LM", **(settings | options))


ADAPTERS: Mapping[str, Callable[[], PeftConfig]] = {
    "a": lambda: _lora(r=2),
    "b": lambda: _lora(r=2),
    "c": lambda: _lora(r=4),
    "d": lambda: _lora(r=8),
    "dora": lambda: _lora(r=2, use_dora=True),
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama under "base", and adapters that PEFT saved, by name. Do not write into them."""
    root = tmp_path_factory.mktemp("residency")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(root / "base")
    write_tokenizer(root / "base")
    for name, make in ADAPTERS.items():
        get_peft_model(LlamaForCausalLM(config), make()).save_pretrained(str(root / name))
    shutil.copytree(root / "a", root / "broken")
    weights = root / "broken" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, weights, metadata={"format": "pt"})
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture(scope="module")
def shared(folders: dict[str, Path]) -> AdaptedBase:
    return AdaptedBase(load_base(str(folders["base"]), device="cpu"))


@pytest.fixture
def adapted(shared: AdaptedBase) -> Iterator[AdaptedBase]:
    assert not shared.attached
    yield shared
    shared.close()


@pytest.fixture
def artifacts(folders: dict[str, Path]) -> dict[str, Artifact]:
    return {name: Artifact.read(path) for name, path in folders.items() if name != "base"}


class Ours:
    """A residency on a clock of its own, with adapters by name, and waiting for the loader without sleeping."""

    def __init__(self, adapted: AdaptedBase, artifacts: Mapping[str, Artifact], **options: Any) -> None:
        self.clock = Clock()
        usual: dict[str, Any] = {"slots": None, "slot_bytes": None, "host_bytes": AMPLE}
        usual |= {"patience": PATIENCE, "clock": self.clock}
        self.residency = Residency(adapted, **(usual | options))
        self.event = threading.Event()
        self.residency.when_ready(self.event.set)
        self.artifacts = artifacts
        self.digests = {name: self.residency.register(artifact) for name, artifact in artifacts.items()}

    def want(self, names: str) -> str:
        return self.residency.want([self.digests[name] for name in names.split()])

    def load(self, names: str) -> None:
        """Ask as the engine does until all are ready."""
        while self.want(names) != "ready":
            assert self.event.wait(30)
            self.event.clear()

    def hold(self, names: str) -> None:
        self.residency.hold([self.digests[name] for name in names.split()])

    def release(self, names: str) -> None:
        self.residency.release([self.digests[name] for name in names.split()])

    def use(self, names: str) -> None:
        self.load(names)
        self.hold(names)
        self.release(names)

    def read(self, name: str) -> None:
        """Ask for it, and wait until it is in host memory: there is no slot for it."""
        while self.want(name) == "loading" and self.state(name).state == "disk":
            assert self.event.wait(30)
            self.event.clear()

    def later(self) -> None:
        """Beyond patience: what was asked for before has lapsed."""
        self.clock.now += PATIENCE + 1

    def state(self, name: str) -> Resident:
        (found,) = [r for r in self.residency.snapshot() if r.digest == self.digests[name]]
        return found

    def states(self) -> dict[str, str]:
        known = {digest: name for name, digest in self.digests.items()}
        return {known[r.digest]: r.state for r in self.residency.snapshot() if r.state != "disk"}


@pytest.fixture
def make(adapted: AdaptedBase, artifacts: dict[str, Artifact]) -> Iterator[Callable[..., Ours]]:
    made: list[Ours] = []

    def ours(**options: Any) -> Ours:
        made.append(Ours(adapted, artifacts, **options))
        return made[-1]

    yield ours
    for one in made:
        one.residency.close()


def same(one: object, other: object) -> bool:
    """Whether two bindings have equal tensors."""
    if isinstance(one, (LowRank, Dora)):
        assert type(one) is type(other)
        return all(same(getattr(one, name), getattr(other, name)) for name in vars(one))
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        return torch.equal(one, other)
    return one == other


def test_registering_reads_nothing(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    ours = make()
    assert not adapted.attached
    assert {r.state for r in ours.residency.snapshot()} == {"disk"}
    a = ours.state("a")
    assert (a.pinned, a.holders, a.last_used, a.uses) == (False, 0, None, 0)
    assert a.bytes == ours.artifacts["a"].files["adapter_model.safetensors"].size


@pytest.mark.parametrize("name", ["a", "d", "dora"])
def test_what_comes_into_a_slot_is_what_attach_makes(
    make: Callable[..., Ours], adapted: AdaptedBase, artifacts: dict[str, Artifact], name: str
) -> None:
    digest = adapted.attach(artifacts[name])
    expected = adapted.attached[digest].updates
    adapted.detach(digest)
    ours = make(slots=1)
    for _ in range(2):  # from disk; and from host memory, after another had the slot
        ours.use(name)
        assert adapted.attached.keys() == {digest}
        got = adapted.attached[digest].updates
        assert got.keys() == expected.keys()
        assert all(same(g, e) for path in got for g, e in zip(got[path], expected[path], strict=True))
        ours.use("c")
        assert ours.states() == {name: "host", "c": "slot"}


def test_bytes_are_those_of_the_tensors(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    ours = make()
    ours.load("a d dora prefix")
    q_and_v = 2 * ((32 + 32) + (32 + 16))  # r=1, 2 layers: A and B of q, A and B of v (2 of 4 heads)
    assert ours.state("a").bytes == 4 * 2 * q_and_v
    assert ours.state("d").bytes == 4 * 8 * q_and_v
    assert ours.state("dora").bytes == 4 * (
        2 * q_and_v + 2 * (32 + 16)
    )  # gains; the base's own weights are not its
    assert ours.state("prefix").bytes == 4 * (3 * 2 * 2 * 16)


def test_slots_are_never_exceeded_and_what_was_used_most_stays(
    make: Callable[..., Ours], adapted: AdaptedBase
) -> None:
    ours = make(slots=2)
    for _ in range(3):
        ours.use("a")
    ours.use("b")
    ours.use("c")
    assert ours.states() == {"a": "slot", "b": "host", "c": "slot"}
    for name in ("b", "c", "b", "c", "b", "c", "b", "c"):  # a ages
        ours.use(name)
        assert len(adapted.attached) == 2
    assert ours.states() == {"a": "host", "b": "slot", "c": "slot"}


def test_slot_bytes_are_never_exceeded_and_the_large_go_first(make: Callable[..., Ours]) -> None:
    ours = make()
    ours.load("a d")
    small, large = ours.state("a").bytes, ours.state("d").bytes
    ours.residency.close()
    ours = make(slot_bytes=large + 2 * small)
    for name in ("a", "d", "b", "dora"):
        ours.use(name)
        assert sum(r.bytes for r in ours.residency.snapshot() if r.state == "slot") <= large + 2 * small
    assert ours.states() == {"a": "slot", "b": "slot", "d": "host", "dora": "slot"}


def test_what_binding_adds_counts(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    """DoRA's magnitudes; and what does not fit does not keep others waiting."""
    first = make()
    first.load("a dora")
    a, dora = first.state("a").bytes, first.state("dora").bytes
    first.residency.close()
    ours = make(slot_bytes=dora - 4)
    with pytest.raises(OutOfMemory, match=f"need {dora} bytes; the slots have {dora - 4}"):
        ours.load("dora")
    ours.load("a")
    assert ours.states()["a"] == "slot"
    assert a < dora


def test_what_binding_makes_counts_once_it_is_known(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    """Prompt tuning's keys and values are more than its tensors: it leaves again, and comes when there is room."""
    tensors, made = 4 * 3 * 32, 4 * 3 * 2 * 2 * 16
    a = 4 * 2 * 2 * ((32 + 32) + (32 + 16))
    ours = make(slot_bytes=a + (tensors + made) // 2)
    ours.load("a")
    ours.hold("a")
    while ours.want("prompt") == "loading" and not ours.residency._adapters[ours.digests["prompt"]].measured:
        assert ours.event.wait(30)
        ours.event.clear()
    assert ours.want("prompt") == "loading"
    ours.release("a")
    ours.load("prompt")
    assert ours.states()["prompt"] == "slot"
    assert ours.state("prompt").bytes == made


def test_host_bytes_are_never_exceeded(make: Callable[..., Ours]) -> None:
    ours = make()
    ours.load("a b c")
    ours.later()
    sizes = {name: ours.artifacts[name].files["adapter_model.safetensors"].size for name in "abc"}
    ours.residency.close()
    ours = make(slots=1, host_bytes=sizes["a"] + sizes["b"])
    for name in ("a", "b", "a", "b"):
        ours.use(name)
    assert ours.states() == {"a": "host", "b": "slot"}
    ours.use("c")
    ours.use("a")
    assert sum(ours.residency._host.held.values()) <= sizes["a"] + sizes["b"]
    ours.residency.close()
    ours = make(slots=1, host_bytes=0)  # each passes through
    for name in ("a", "b", "c", "a"):
        ours.use(name)
        assert ours.states() == {name: "slot"}


def test_what_is_held_stays_and_the_load_waits_for_its_release(
    make: Callable[..., Ours], adapted: AdaptedBase
) -> None:
    ours = make(slots=1)
    ours.load("a")
    ours.hold("a")
    ours.hold("a")
    assert ours.want("b") == "loading"
    ours.release("a")
    ours.later()
    assert ours.want("b") == "loading"
    assert adapted.attached.keys() == {ours.digests["a"]}
    assert ours.state("a").holders == 1
    ours.release("a")
    ours.load("b")
    assert ours.states() == {"a": "host", "b": "slot"}


def test_what_others_want_stays_until_patience_ends(make: Callable[..., Ours]) -> None:
    """b is asked for again and again, and never leaves a's slot to c but when c has waited long enough."""
    ours = make(slots=1)
    ours.use("a")
    ours.load("a")
    ours.read("c")
    for _ in range(3):
        ours.clock.now += PATIENCE / 4
        assert ours.want("a") == "ready"
        assert ours.want("c") == "loading"
    ours.hold("a")
    ours.clock.now += PATIENCE
    assert ours.want("c") == "loading"  # out of patience: a drains
    assert ours.want("a") == "loading"
    assert not ours.residency.ready([ours.digests["a"]])
    ours.release("a")
    ours.clock.now += 0.2
    ours.load("c")
    assert ours.states()["c"] == "slot"


def test_what_was_ready_can_be_held_though_another_thread_begins_to_drain_it(
    make: Callable[..., Ours],
) -> None:
    ours = make(slots=1)
    ours.load("a")
    ours.hold("a")
    ours.read("c")
    ours.clock.now += PATIENCE + 0.1
    assert ours.residency.ready([ours.digests["a"]])
    ours.release("a")
    ours.clock.now += 0.01
    assert ours.want("c") == "loading"  # out of patience; another thread's
    ours.hold("a")
    ours.release("a")
    ours.clock.now += 0.2
    ours.load("c")


@pytest.mark.parametrize("said", [True, False])
def test_a_cancelled_load_lapses_and_what_it_drained_is_ready_again(
    make: Callable[..., Ours], said: bool
) -> None:
    ours = make(slots=1)
    ours.load("a")
    ours.hold("a")
    ours.read("c")
    ours.later()
    assert ours.want("c") == "loading"
    assert ours.want("a") == "loading"
    if said:
        ours.residency.unwant([ours.digests["c"]])
    else:
        ours.clock.now += 10 * PATIENCE
    assert ours.want("a") == "ready"
    ours.release("a")
    assert ours.states()["a"] == "slot"


def test_more_adapters_than_slots_take_turns(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    """Pairs out of four adapters on two slots, all wanted all the time: each pair comes to run."""
    ours = make(slots=2)
    pairs = ["a b", "b c", "c d", "d a", "a c"]
    ran: Counter[str] = Counter()
    for _ in range(1000):
        for pair in pairs:
            if ours.want(pair) == "ready":
                ours.hold(pair)
                ran[pair] += 1
                ours.release(pair)
            assert len(adapted.attached) <= 2
        if all(ran[pair] >= 2 for pair in pairs):
            return
        ours.clock.now += PATIENCE / 3
        ours.event.wait(0.05)
        ours.event.clear()
    raise AssertionError(ran)


def test_what_can_never_be_together_is_refused(make: Callable[..., Ours]) -> None:
    ours = make(slots=2)
    with pytest.raises(OutOfMemory, match="3 adapters at once need more than 2 slots"):
        ours.want("a b c")
    ours.residency.pin(ours.digests["a"])
    ours.use("a")
    with pytest.raises(OutOfMemory, match="3 adapters at once"):
        ours.want("b c")
    ours.residency.pin(ours.digests["b"])
    with pytest.raises(OutOfMemory, match="3 adapters at once"):
        ours.residency.pin(ours.digests["c"])
    assert not ours.state("c").pinned
    ours.residency.unpin(ours.digests["b"])
    ours.load("c a")


def test_pinned_adapters_stay(make: Callable[..., Ours]) -> None:
    ours = make(slots=2)
    ours.residency.pin(ours.digests["a"])  # loads it too
    for name in ("b", "c", "d", "b", "c", "d"):
        ours.use(name)
        ours.later()
    assert ours.state("a").pinned
    assert ours.state("a").state == "slot"
    ours.residency.unpin(ours.digests["a"])
    for name in ("b", "c"):
        ours.use(name)
    assert ours.state("a").state == "host"


def test_a_load_does_not_block_the_caller_or_other_loads(
    make: Callable[..., Ours], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make()
    go, load = threading.Event(), HostCopy.load

    def slow(artifact: Artifact, *where: Any) -> HostCopy:
        if artifact.digest == ours.digests["a"]:
            assert go.wait(30)
        return load(artifact, *where)

    monkeypatch.setattr(HostCopy, "load", slow)
    assert ours.want("a") == "loading"
    ours.load("b")
    assert ours.states() == {"b": "slot"}
    go.set()
    ours.load("a")


def test_a_pass_does_not_block_the_caller(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    """Attaching waits for the pass that runs; asking, holding and releasing do not."""
    ours = make(slots=2)
    ours.load("a b")
    ours.hold("a")
    with adapted._lock:
        assert ours.want("b") == "ready"
        ours.later()
        assert ours.want("c") == "loading"
        ours.residency.forget(ours.digests["b"])
        ours.release("a")
        assert len(ours.residency.snapshot()) == len(ours.artifacts)
    ours.load("c")


def test_a_failed_load_is_raised_and_remembered_for_a_while(
    make: Callable[..., Ours], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = HostCopy.load

    def counted(artifact: Artifact, *where: Any) -> HostCopy:
        loads.append(artifact.path.name)
        return load(artifact, *where)

    monkeypatch.setattr(HostCopy, "load", counted)
    ours = make(retry_after=10.0, slots=1, host_bytes=0)
    for _ in range(100):
        with pytest.raises(TensorMismatch, match="lora_"):
            ours.load("broken")
    assert loads == ["broken"]
    ours.load("a")  # the others are undisturbed
    assert ours.states() == {"a": "slot"}
    ours.clock.now += 11
    with pytest.raises(TensorMismatch):
        ours.load("broken")
    assert loads == ["broken", "a", "broken"]
    ours.residency.register(ours.artifacts["broken"])
    with pytest.raises(TensorMismatch):
        ours.load("broken")
    assert len(loads) == 4


def test_loads_swaps_and_failures_are_counted(make: Callable[..., Ours]) -> None:
    ours = make(slots=1)
    assert ours.residency.moves == Moves()
    for name in ("a", "b", "a"):
        ours.use(name)
        ours.later()
    moves = ours.residency.moves
    assert (moves.loads, moves.swaps, moves.failures) == (3, 2, 0)
    assert moves.seconds > 0
    ours.residency.forget(ours.digests["a"])  # leaves, but for nobody
    with pytest.raises(TensorMismatch):
        ours.load("broken")
    moves = ours.residency.moves
    assert (moves.loads, moves.swaps, moves.failures) == (3, 2, 1)


def test_registering_anew_takes_the_new_folder(
    make: Callable[..., Ours], folders: dict[str, Path], tmp_path: Path
) -> None:
    gone = shutil.copytree(folders["c"], tmp_path / "gone")
    ours = make()
    ours.residency.forget(ours.digests["c"])
    ours.residency.register(Artifact.read(gone))
    shutil.rmtree(gone)
    with pytest.raises(StorageError, match="gone"):
        ours.load("c")
    ours.residency.register(Artifact.read(folders["c"]))
    ours.load("c")


def test_an_adapter_changed_on_disk_is_refused(
    make: Callable[..., Ours], folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders["c"], tmp_path / "c")
    ours = make()
    ours.residency.forget(ours.digests["c"])
    ours.residency.register(Artifact.read(copy))
    shutil.copy(folders["d"] / "adapter_model.safetensors", copy)
    with pytest.raises(AdaptHubError, match="changed since it was verified"):
        ours.load("c")


def test_a_selection_with_a_failing_adapter_fails_and_leaves_the_others(make: Callable[..., Ours]) -> None:
    ours = make(slots=2)
    with pytest.raises(TensorMismatch):
        ours.load("a broken")
    ours.load("a b")
    assert ours.states()["a"] == "slot"


def test_an_adapter_forgotten_while_held_goes_with_its_last_holder(
    make: Callable[..., Ours], adapted: AdaptedBase
) -> None:
    ours = make()
    ours.load("a b")
    ours.hold("a b")
    ours.hold("a")
    ours.residency.forget(ours.digests["a"])
    with pytest.raises(AdapterNotFound):
        ours.want("a")
    with pytest.raises(AdapterNotFound):
        ours.hold("b a")
    assert ours.state("b").holders == 1  # all or nothing
    with pytest.raises(AdapterNotFound):
        ours.residency.forget(ours.digests["a"])
    ours.release("a")
    assert ours.digests["a"] in adapted.attached
    ours.release("a")
    while ours.digests["a"] in {r.digest for r in ours.residency.snapshot()}:
        assert ours.event.wait(30)
        ours.event.clear()
    assert adapted.attached.keys() == {ours.digests["b"]}


def test_an_adapter_registered_again_while_it_is_being_forgotten_stays(make: Callable[..., Ours]) -> None:
    ours = make()
    ours.load("a")
    ours.hold("a")
    ours.residency.forget(ours.digests["a"])
    ours.residency.register(ours.artifacts["a"])
    ours.release("a")
    assert ours.want("a") == "ready"


def test_an_adapter_registered_again_as_it_has_just_left_stays(
    make: Callable[..., Ours], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its detaching and the end of that job."""
    ours = make()
    ours.load("a")
    detached, ended, loader = ours.residency._loader._was_detached, threading.Event(), ours.residency._loader

    def was_detached(adapter: Any) -> None:
        detached(adapter)
        ours.residency.register(ours.artifacts["a"])

    def job_ended(*what: Any) -> None:
        ours.residency._load_ended(*what)
        ended.set()

    monkeypatch.setattr(loader, "_was_detached", was_detached)
    monkeypatch.setattr(loader, "_ended", job_ended)
    ours.residency.forget(ours.digests["a"])
    assert ended.wait(30)
    monkeypatch.undo()
    ours.load("a")


def test_an_adapter_forgotten_while_it_loads_is_dropped(
    make: Callable[..., Ours], adapted: AdaptedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make()
    go, load = threading.Event(), HostCopy.load

    def slow(artifact: Artifact, *where: Any) -> HostCopy:
        assert go.wait(30)
        return load(artifact, *where)

    monkeypatch.setattr(HostCopy, "load", slow)
    ours.want("a")
    ours.residency.forget(ours.digests["a"])
    go.set()
    ours.load("b")
    while ours.digests["a"] in {r.digest for r in ours.residency.snapshot()}:
        assert ours.event.wait(30)
        ours.event.clear()
    assert ours.digests["a"] not in adapted.attached


def test_what_is_not_loaded_cannot_be_held_nor_released(make: Callable[..., Ours]) -> None:
    ours = make()
    with pytest.raises(AdapterNotFound, match="not loaded"):
        ours.hold("a")
    with pytest.raises(InvalidInput, match="more often than held"):
        ours.release("a")
    with pytest.raises(AdapterNotFound, match="not registered"):
        ours.residency.want(["sha256:nothing"])
    with pytest.raises(AdapterNotFound, match="not registered"):
        ours.residency.pin("sha256:nothing")
    assert not ours.residency.ready(["sha256:nothing"])
    assert ours.residency.want([]) == "ready"
    assert ours.residency.ready([])
    ours.hold("")
    ours.release("")


def test_prefetching_fills_host_memory_and_no_more(make: Callable[..., Ours]) -> None:
    sizes = {name: a.files["adapter_model.safetensors"].size for name, a in make().artifacts.items()}
    ours = make(host_bytes=sizes["a"] + sizes["b"], slots=1)
    ours.residency.prefetch([ours.digests[name] for name in ("a", "b", "c")])
    while len(ours.states()) < 2:
        assert ours.event.wait(30)
        ours.event.clear()
    assert ours.states() == {"a": "host", "b": "host"}
    ours.residency.prefetch(["sha256:nothing", ours.digests["c"]])
    ours.use("c")  # prefetched copies make room for what is wanted
    assert ours.states()["c"] == "slot"


def test_closing_joins_threads_and_detaches(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    def loaders() -> set[threading.Thread]:
        return {
            thread for thread in threading.enumerate() if thread.name.startswith("adapthub-loader")
        } - others

    others: set[threading.Thread] = set()
    others = loaders()  # of what other tests share
    ours = make()
    ours.load("a b")
    ours.want("c d")
    assert loaders()
    ours.residency.close()
    assert not loaders()
    assert not adapted.attached
    ours.residency.close()
    with pytest.raises(AdaptHubError, match="closed"):
        ours.want("a")


def test_many_threads_use_more_adapters_than_slots(make: Callable[..., Ours], adapted: AdaptedBase) -> None:
    """Real loaders and a real clock: everybody runs, and nothing is left held."""
    ours = make(slots=2, clock=time.monotonic, patience=0.02)
    failures: list[BaseException] = []

    def user(names: Sequence[str]) -> None:
        try:
            for name in names:
                digests = [ours.digests[name]]
                while True:
                    if ours.residency.want(digests) == "ready":
                        with suppress(AdapterNotFound):  # another thread's want came between
                            ours.residency.hold(digests)
                            break
                    ours.event.wait(0.005)
                assert digests[0] in adapted.attached
                assert len(adapted.attached) <= 2
                ours.residency.release(digests)
        except BaseException as error:
            failures.append(error)

    order = ["a", "b", "c", "d", "dora"]
    threads = [threading.Thread(target=user, args=(order[i:] + order[:i],)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert {r.holders for r in ours.residency.snapshot()} == {0}


def test_a_tier_gives_up_first_what_is_large_and_seldom_used() -> None:
    tier = Tier(None, 1000)
    for key, size in (("large", 100), ("small", 10), ("often", 100)):
        tier.put(key, size)
        tier.use(key)
    tier.use("often")
    assert tier.order(["small", "often", "large"]) == ["large", "often", "small"]
    tier.drop("small", evicted=True)  # from now on, use counts more
    tier.put("new", 100)
    tier.use("new")
    assert tier.order(["often", "large", "new"]) == ["large", "often", "new"]


def test_a_tier_without_bytes_counts_keys_alike() -> None:
    tier = Tier(2, None)
    tier.put("large", 100)
    tier.put("small", 1)
    for key in ("large", "large", "small"):
        tier.use(key)
    assert not tier.lacks([])
    assert tier.lacks([1])
    assert tier.victims([1], ["large", "small"]) == ["small"]
    assert tier.victims([1], []) is None
    assert tier.victims([1, 1, 1], ["large", "small"]) is None


class Jobs(ThreadPoolExecutor):
    """Begins no thread and keeps what it is to do."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Callable[[], Any]] = []

    def submit(self, job: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        self.jobs.append(partial(job, *args, **options))
        return Future()


class Stepped(Residency):
    """A residency whose loader jobs run when the test says so, in any order."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        threads = Jobs()
        self._loader._threads = threads
        self.jobs = threads.jobs


@pytest.fixture
def stepped(adapted: AdaptedBase) -> Iterator[Callable[..., Stepped]]:
    made: list[Stepped] = []

    def make(**options: Any) -> Stepped:
        made.append(Stepped(adapted, **options, patience=PATIENCE, clock=Clock()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_is_forgotten_while_it_leaves_for_another_is_gone(
    stepped: Callable[..., Stepped], adapted: AdaptedBase, artifacts: dict[str, Artifact]
) -> None:
    residency = stepped(slots=1, slot_bytes=None, host_bytes=AMPLE)
    a, b = (residency.register(artifacts[name]) for name in "ab")
    for digest in (a, b):
        residency.want([digest])
        residency.jobs.pop()()  # read
        if digest == a:
            residency.jobs.pop()()  # attached
            residency.hold([a])
            residency.release([a])
    residency.forget(a)
    assert adapted.attached.keys() == {a}
    residency.jobs.pop()()
    assert adapted.attached.keys() == {b}
    assert [r.digest for r in residency.snapshot()] == [b]


def test_what_is_loaded_first_is_read_first_though_later_copies_fill_host_memory(
    stepped: Callable[..., Stepped], artifacts: dict[str, Artifact]
) -> None:
    room = artifacts["b"].files["adapter_model.safetensors"].size
    residency = stepped(slots=2, slot_bytes=None, host_bytes=room)
    a, b = (residency.register(artifacts[name]) for name in "ab")
    residency.prefetch([b])
    residency.jobs.pop()()
    assert residency.want([a, b]) == "loading"
    assert sum(residency._host.held.values()) <= room
    while residency.jobs:
        residency.jobs.pop()()
        assert sum(residency._host.held.values()) <= room
    assert residency.want([a, b]) == "ready"


class ResidencyMachine(RuleBasedStateMachine):
    """Every order of calls and loader jobs: budgets hold, what is held or ready stays, and at the end all can run."""

    def __init__(self, adapted: AdaptedBase, artifacts: Mapping[str, Artifact]) -> None:
        super().__init__()
        self.adapted = adapted
        self.artifacts = artifacts

    @initialize(
        slots=st.integers(1, 3),
        slot_bytes=st.one_of(st.none(), st.integers(4000, 10000)),
        host_bytes=st.sampled_from([0, 5000, 20000, AMPLE]),
    )
    def start(self, slots: int, slot_bytes: int | None, host_bytes: int) -> None:
        self.clock = Clock()
        self.slots, self.slot_bytes, self.host_bytes = slots, slot_bytes or math.inf, host_bytes
        self.residency = Stepped(
            self.adapted,
            slots=slots,
            slot_bytes=slot_bytes,
            host_bytes=host_bytes,
            patience=PATIENCE,
            clock=self.clock,
        )
        self.names = {self.residency.register(artifact): name for name, artifact in self.artifacts.items()}
        self.digests = sorted(self.names)
        self.known = set(self.digests)
        self.held: list[tuple[str, ...]] = []
        self.pinned: set[str] = set()
        self.ready: tuple[str, ...] | None = None  # what the last want called ready

    selections = st.lists(st.integers(0, len(ADAPTERS)), min_size=1, max_size=2, unique=True)

    def chosen(self, places: list[int]) -> tuple[str, ...]:
        return tuple(self.digests[place] for place in places)

    @rule(places=selections)
    def want(self, places: list[int]) -> None:
        digests = self.chosen(places)
        if self.ready is not None and {*self.ready} == {*digests}:
            self.ready = None
        try:
            answer = self.residency.want(digests)
        except AdapterNotFound:
            assert not set(digests) <= self.known
        except TensorMismatch:
            assert "broken" in {self.names[digest] for digest in digests}
        except OutOfMemory:
            assert len({*digests, *self.pinned}) > min(self.slots, 1) or self.slot_bytes < math.inf
        else:
            assert set(digests) <= self.known
            if answer == "ready":
                assert set(digests) <= self.adapted.attached.keys()
                self.ready = digests

    @precondition(lambda self: self.ready)
    @rule()
    def hold(self) -> None:
        """What was ready can be held, whatever was called and loaded since; time makes it invalid."""
        assert self.ready
        self.residency.hold(self.ready)
        self.held.append(self.ready)
        self.ready = None

    @rule(places=selections)
    def unwant(self, places: list[int]) -> None:
        digests = self.chosen(places)
        if self.ready is not None and {*self.ready} == {*digests}:
            self.ready = None
        self.residency.unwant(digests)

    @rule(places=selections)
    def is_ready(self, places: list[int]) -> None:
        digests = self.chosen(places)
        if self.residency.ready(digests):
            assert set(digests) <= self.adapted.attached.keys() & self.known
            self.ready = digests

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digests = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.residency.release(digests)

    @rule(place=st.integers(0, len(ADAPTERS)))
    def forget(self, place: int) -> None:
        digest = self.digests[place]
        if digest in self.known:
            self.residency.forget(digest)
            self.known.remove(digest)
            self.pinned.discard(digest)
            if self.ready is not None and digest in self.ready:
                self.ready = None
        else:
            with pytest.raises(AdapterNotFound):
                self.residency.forget(digest)

    @rule(place=st.integers(0, len(ADAPTERS)))
    def register(self, place: int) -> None:
        digest = self.digests[place]
        self.residency.register(self.artifacts[self.names[digest]])
        self.known.add(digest)

    @rule(place=st.integers(0, len(ADAPTERS)))
    def pin(self, place: int) -> None:
        digest = self.digests[place]
        with suppress(AdapterNotFound, OutOfMemory):
            self.residency.pin(digest)
            self.pinned.add(digest)

    @rule(place=st.integers(0, len(ADAPTERS)))
    def unpin(self, place: int) -> None:
        with suppress(AdapterNotFound):
            self.residency.unpin(self.digests[place])
            self.pinned.discard(self.digests[place])

    @rule(places=selections)
    def prefetch(self, places: list[int]) -> None:
        self.residency.prefetch(self.chosen(places))

    @rule(seconds=st.sampled_from([0.1, 0.9, 2.5]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.ready = None

    @precondition(lambda self: self.residency.jobs)
    @rule(data=st.data())
    def run_job(self, data: st.DataObject) -> None:
        self.residency.jobs.pop(data.draw(st.integers(0, len(self.residency.jobs) - 1)))()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "residency"):
            return
        attached = self.adapted.attached.keys()
        residents = {r.digest: r for r in self.residency.snapshot()}
        assert len(attached) <= self.slots
        assert self.known <= residents.keys()
        holders = Counter(digest for digests in self.held for digest in digests)
        assert {digest: r.holders for digest, r in residents.items() if r.holders} == dict(holders)
        assert set(holders) <= attached
        assert {digest for digest, r in residents.items() if r.pinned} == self.pinned
        slots = {digest: r.bytes for digest, r in residents.items() if r.state == "slot"}
        assert slots.keys() <= attached
        assert sum(slots.values()) <= self.slot_bytes
        copies = self.residency._host.held.values()
        assert sum(copies) <= self.host_bytes or (
            len(copies) == 1 and (self.residency._asks or self.residency.jobs)
        )
        if not self.residency.jobs:
            assert attached == slots.keys()
            assert all(digest in self.known or holders[digest] for digest in residents)

    def teardown(self) -> None:
        if not hasattr(self, "residency"):
            return
        for digests in self.held:
            self.residency.release(digests)
        for digest in self.pinned & self.known:
            self.residency.unpin(digest)
        self.held, self.pinned = [], set()
        for digest in sorted(self.known):
            self.comes_to_run(digest)
        while self.residency.jobs:
            self.residency.jobs.pop()()
        self.holds()
        self.residency.close()
        assert not self.adapted.attached

    def comes_to_run(self, digest: str) -> None:
        """Asked for at every step, it is ready in the end, however the others left things."""
        for _ in range(40):
            try:
                if self.residency.want([digest]) == "ready":
                    return
            except TensorMismatch:
                assert self.names[digest] == "broken"
                return
            except OutOfMemory:
                assert self.slot_bytes < 10**4
                return
            while self.residency.jobs:
                self.residency.jobs.pop(0)()
            self.clock.now += PATIENCE / 4
        raise AssertionError(f"{self.names[digest]} never came to run: {self.residency.snapshot()}")


def test_any_order_of_calls_and_jobs(adapted: AdaptedBase, artifacts: dict[str, Artifact]) -> None:
    class Machine(ResidencyMachine):
        def __init__(self) -> None:
            adapted.close()
            super().__init__(adapted, artifacts)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
