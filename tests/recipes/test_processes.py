"""Several processes train as one does: two of them, over gloo, by the launcher of torch that accelerate uses too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings, TrainingError
from adapthub.recipes import train
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.preflight import check_shares
from adapthub.recipes.processes import ALONE, Processes, join
from adapthub.recipes.run import load
from adapthub.recipes.sharding import check_shardable
from adapthub.recipes.shares import Shares
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.conftest import calm_copy
from tests.recipes.together import launch
from tests.recipes.tokenizer_kinds import byte_level

COMMON: dict[str, Any] = {"learning_rate": 1e-2, "precision": "fp32", "quiet": True, "device": "cpu"}
WORDS = ("ada", "bob", "was", "born", "in", "london", "paris")
Said = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def runs(folder: Path, tiny_base: Path, ner_data: Path, review_data: Path) -> dict[str, dict[str, Any]]:
    """22 rows in batches of 7 or 3: the last batch has one row, and the second process none. Of 11 rows in evaluations of 10
    too."""
    calm, tokenizer = calm_copy(tiny_base, folder / "calm"), byte_level()
    causal = write_causal_base(
        folder / "causal",
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(causal)
    talks = folder / "talks.jsonl"
    rows = (
        {"prompt": " ".join(WORDS[: at % 5 + 1]), "completion": " ".join(WORDS[at % 3 : at % 4 + 4])}
        for at in range(22)
    )
    talks.write_text("\n".join(json.dumps(row) for row in rows))
    labelling = {"base": str(calm), "max_steps": 5, "eval_steps": 2}
    chat = {"task": "chat", "data": str(talks), "base": str(causal), "validation": str(talks), "max_steps": 4}
    chat |= {"batch_size": 3, "eval_steps": 2, "gradient_accumulation": 2, "answered": 4}
    return {
        "ner": {"task": "ner", "data": str(ner_data), "batch_size": 7, **labelling},
        "sentiment": {
            "task": "sentiment",
            "data": str(review_data),
            "batch_size": 5,
            "eval_rows": 11,
            **labelling,
        },
        "chat": chat,
        "sharded": {**chat, "quantize": "nf4", "sharded": True},
        "sharded-whole": {**chat, "sharded": True, "gradient_checkpointing": True},
    }


def started(
    names: Sequence[str], runs: dict[str, dict[str, Any]], folder: Path, **more: Any
) -> dict[str, Said]:
    """By name: what both processes say of each run."""
    asked = {name: {**runs[name], **COMMON, "output": folder / name} for name in names}
    asked |= {name: {**asked[names[0]], "output": folder / name, **given} for name, given in more.items()}
    return dict(zip(asked, launch(list(asked.values()), folder), strict=True))


@pytest.fixture(scope="module")
def some(folder: Path, runs: dict[str, dict[str, Any]]) -> dict[str, Said]:
    return started(("ner", "sharded"), runs, folder, few={"batch_size": 1})


@pytest.fixture(scope="module")
def others(folder: Path, runs: dict[str, dict[str, Any]]) -> dict[str, Said]:
    """And one run without a break, one that is stopped, and the same resumed."""
    below = folder / "others"
    below.mkdir()
    drop = {"dropout": 0.1}
    return started(
        ("sharded-whole", "chat", "sentiment"),
        runs,
        below,
        unbroken=drop,
        stopped={**drop, "stop": 1},
        resumed={**drop, "resume": True, "output": below / "stopped"},
    )


@pytest.mark.parametrize("name", ["ner", "sharded"])
def test_two_processes_learn_what_one_does(
    name: str, folder: Path, runs: dict[str, dict[str, Any]], some: dict[str, Said]
) -> None:
    check_same(name, folder, runs[name], some[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chat", "sentiment", "sharded-whole"])
def test_two_processes_learn_what_one_does_of_all_kinds(
    name: str, folder: Path, runs: dict[str, dict[str, Any]], others: dict[str, Said]
) -> None:
    check_same(name, folder / "others", runs[name], others[name])


def check_same(name: str, folder: Path, run: dict[str, Any], said: Said) -> None:
    """Losses, norms of gradients, metrics and weights are those of one process; and there is one run."""
    alone = {key: value for key, value in run.items() if key not in ("task", "data", "sharded")}
    one = train(run["task"], run["data"], output=folder / f"{name}-alone", **alone, **COMMON)
    ours, theirs = load(folder / name).history, one.run.history
    assert [entry.keys() for entry in ours] == [entry.keys() for entry in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        # Sums are in another order, of which Adam's first steps make more in the gradients of later ones.
        assert mine.get("grad_norm", 0) == pytest.approx(other.get("grad_norm", 0), rel=5e-4)
        assert mine | {"grad_norm": 0} == pytest.approx(other | {"grad_norm": 0}, rel=1e-4, abs=1e-6)
    artifact = Artifact.read(folder / name / "adapter")
    assert said[0]["digest"] == said[1]["digest"] == artifact.digest
    assert said[0]["metrics"] == said[1]["metrics"]
    trained = one.artifact.tensors()
    for key, tensor in artifact.tensors().items():
        # A hundredth of a step on average: where a gradient is nothing but rounding, Adam makes a whole step of it, in
        # either direction.
        assert (tensor - trained[key]).abs().mean() < COMMON["learning_rate"] / 100, key
    assert load(folder / name).environment["hardware"]["processes"] == 2
    assert artifact.manifest is not None
    assert artifact.manifest.hardware["processes"] == 2
    assert len(list((folder / name / "tensorboard").iterdir())) == 2  # of training, and what it came to


@pytest.mark.slow
def test_each_process_holds_its_half_of_the_layers(
    runs: dict[str, dict[str, Any]], others: dict[str, Said]
) -> None:
    """Embeddings, the output layer and the adapter stay whole."""
    whole, parts = others["chat"][0]["held"], others["sharded-whole"][0]["held"]
    stored = load_file(Path(runs["chat"]["base"]) / "model.safetensors")
    layers = sum(tensor.nbytes for name, tensor in stored.items() if ".layers." in name)
    assert whole[0] - parts[0] == pytest.approx(layers / 2, rel=0.02)
    assert len(set(parts)) == 1  # after each step as after the first


@pytest.mark.slow
def test_stopping_one_stops_both_and_a_resume_ends_with_the_same_bytes(
    folder: Path, others: dict[str, Said]
) -> None:
    for said in others["stopped"]:
        assert said["kind"] == "TrainingInterrupted"
        assert "interrupted at step 2 of 4; checkpoint-2 is kept in" in said["error"]
    unbroken, resumed = folder / "others" / "unbroken", folder / "others" / "stopped"
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (unbroken, resumed)]
    assert weights[0] == weights[1]
    assert load(unbroken).history == load(resumed).history


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_refused_in_every_process(some: dict[str, Said]) -> None:
    for said in some["few"]:
        assert said["kind"] == "InvalidSettings"
        assert "batch_size=1 is less than the 2 processes that share it" in said["error"]
    for task in ("embed", "prefer"):
        with pytest.raises(InvalidSettings, match=f"{task} compares rows of a batch"):
            check_shares(find_recipe(task), 8, Processes(0, 2), loaded=False)
    with pytest.raises(InvalidSettings, match="loaded already"):
        check_shares(find_recipe("ner"), 8, Processes(0, 2, shards=True), loaded=True)
    check_shares(find_recipe("embed"), 1, ALONE, loaded=True)


def test_an_int8_base_is_not_cut(tiny_base: Path) -> None:
    with pytest.raises(InvalidSettings, match="int8 base cannot be cut into parts"):
        check_shardable(load_base(str(tiny_base), quantize="int8", device="cpu"))


@pytest.mark.parametrize(("rows", "batch_size", "count"), [(22, 7, 2), (22, 7, 3), (9, 4, 4), (3, 8, 2)])
def test_every_row_is_in_one_share(rows: int, batch_size: int, count: int) -> None:
    order = list(LengthGroups([5] * rows, batch_size, seed=0))
    shares = [
        list(Shares(LengthGroups([5] * rows, batch_size, seed=0), batch_size, Processes(at, count)))
        for at in range(count)
    ]
    assert len({len(one) for one in shares}) == 1
    for at, batches in enumerate(zip(*shares, strict=True)):
        asked = [row for batch in batches for row in batch if row >= 0]
        assert sorted(asked) == sorted(order[at * batch_size : (at + 1) * batch_size])
        assert all(batches)


def test_a_run_of_its_own_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert join("auto") == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidSettings, match="cannot all train on the one device 'cuda:1'"):
        join("cuda:1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InvalidSettings, match="Launch with --fsdp_version 2"):
        join("cpu")


def test_a_process_that_is_gone_before_the_first_step_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broadcast(*_: Any, **__: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3412")

    monkeypatch.setattr("adapthub.recipes.processes.distributed.broadcast", broadcast)
    with pytest.raises(TrainingError, match="process 1 of 2 stops: another one of this run is gone"):
        Processes(1, 2).share_values([torch.nn.Parameter(torch.zeros(2))])
