"""Settings that make a run cheaper learn the same: losses and gradients of whole runs are compared."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes import economy, plan, train
from adapthub.recipes.economy import padding
from adapthub.recipes.settings import OPTIMIZERS, REASONS
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.conftest import calm_copy
from tests.recipes.test_captured_layers import Counted
from tests.recipes.tokenizer_kinds import byte_level

WORDS = ("ada", "bob", "was", "born", "in", "london", "paris")


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("causal") / "base", byte_level()
    write_causal_base(
        folder,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calm_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without dropout, which would be drawn otherwise without padding."""
    return calm_copy(tiny_base, tmp_path_factory.mktemp("calm") / "base")


def talks(rows: int) -> list[dict[str, str]]:
    """Prompts and answers of unlike lengths."""
    draw = random.Random(0)
    return [
        {"prompt": " ".join(draw.choices(WORDS, k=at + 1)), "completion": " ".join(draw.choices(WORDS, k=2 * at + 1))}
        for at in range(rows)
    ]  # fmt: skip


def history(task: str, data: Any, base: Any, output: Path, **settings: Any) -> list[tuple[float, float]]:
    """Loss and norm of the gradient at each step."""
    given: dict[str, Any] = {
        "max_steps": 2,
        "batch_size": 6,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "warmup": 0.0,
        "validation": False,
    } | settings
    result = train(task, data, base=base, output=output, quiet=True, **given)
    return [(entry["loss"], entry["grad_norm"]) for entry in result.run.history if "grad_norm" in entry]


def same(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> None:
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("changed", [{"packing": True}, {"gradient_checkpointing": True}])
def test_a_language_model_learns_the_same(causal_base: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    base = load_base(str(causal_base), device="cpu")
    plain = history("chat", talks(12), base, tmp_path / "plain", answered=0, packing=False)
    same(history("chat", talks(12), base, tmp_path / "changed", answered=0, **changed), plain)
    assert not base.model.is_activation_checkpointing


def test_an_encoder_learns_the_same(calm_base: Path, ner_data: Path, tmp_path: Path) -> None:
    train_file, base = ner_data / "train.conll", str(calm_base)
    plain = history("ner", train_file, base, tmp_path / "padded", packing=False)
    same(history("ner", train_file, base, tmp_path / "packed", packing=True), plain)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="there graphs are what is recorded, and the base is on a CPU"
)
@pytest.mark.parametrize(("task", "accumulated"), [("chat", 1), ("ner", 2)])
def test_replayed_layers_learn_the_same(
    task: str,
    accumulated: int,
    causal_base: Path,
    calm_base: Path,
    ner_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole run by what a GPU's batches go through, evaluations between its steps; work runs again for graphs."""
    data: Any = talks(12) if task == "chat" else ner_data / "train.conll"
    base = load_base(str(causal_base if task == "chat" else calm_base), device="cpu")
    given: dict[str, Any] = {"max_steps": 8, "batch_size": 11, "gradient_accumulation": accumulated}
    given |= {"validation": data, "eval_steps": 3, **({"answered": 0} if task == "chat" else {})}
    plain = history(task, data, base, tmp_path / "plain", packing=False, **given)
    recorders: list[Counted] = []

    def recorder(device: torch.device) -> Counted:
        recorders.append(Counted())
        return recorders[-1]

    monkeypatch.setattr(economy, "kernels_run", lambda device: True)
    monkeypatch.setattr(economy, "Cuda", recorder)
    same(history(task, data, base, tmp_path / "replayed", **given), plain)
    assert recorders[-1].replayed


@pytest.mark.parametrize("task", ["chat", "ner"])
def test_accumulated_batches_are_one_batch(
    task: str, causal_base: Path, calm_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    """Rows of unlike lengths, so that a mean of the batches' means would be another loss."""
    data: Any = talks(6) if task == "chat" else ner_data / "train.conll"
    base, rows = str(causal_base if task == "chat" else calm_base), 6 if task == "chat" else 22
    whole = history(task, data, base, tmp_path / "whole", max_steps=1, batch_size=rows)
    parts = {"batch_size": rows // 2 - 1, "gradient_accumulation": 3}
    same(history(task, data, base, tmp_path / "parts", max_steps=1, **parts), whole)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if not name.startswith("paged")])
def test_every_optimizer_learns(optimizer: str, causal_base: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 6, "learning_rate": 1e-2, "answered": 0}
    losses = history("chat", talks(6), str(causal_base), tmp_path / "run", optimizer=optimizer, **given)
    assert losses[-1][0] < losses[0][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_paged_optimizers_want_a_gpu(causal_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="optimizer=paged-adamw needs a GPU"):
        plan("chat", talks(6), base=str(causal_base), optimizer="paged-adamw")
    with pytest.raises(InvalidSettings, match="optimizer=paged-adamw-8bit needs a GPU"):
        history("chat", talks(6), str(causal_base), tmp_path / "run", optimizer="paged-adamw-8bit")


def test_padding_is_known_before_it_is_made() -> None:
    assert padding([4, 4, 2, 2], 2) == 0
    assert padding([4, 2], 2) == pytest.approx(0.25)
    assert padding([1] * 32, 8) == 0


def test_plans_say_why(causal_base: Path) -> None:
    planned = plan(
        "chat",
        talks(12),
        base=str(causal_base),
        batch_size=2,
        epochs=1,
        gradient_accumulation=2,
        packing=False,
    )
    assert planned.steps == 3  # of 11 rows that are left
    assert planned.settings["optimizer"] == "adamw"
    assert {"optimizer", "gradient_checkpointing"} <= planned.reasons.keys()
    assert not {"packing", "gradient_accumulation"} & planned.reasons.keys()
    assert set(REASONS) <= set(planned.settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packing", "on"),
        ("gradient_checkpointing", 1),
        ("gradient_accumulation", 0),
        ("gradient_accumulation", 1.5),
        ("optimizer", "sgd"),
    ],
)
def test_what_cannot_be_is_named(name: str, value: Any, causal_base: Path) -> None:
    with pytest.raises(InvalidSettings, match=name):
        plan("chat", talks(12), base=str(causal_base), **{name: value})


def test_training_keeps_few_shapes_but_as_many_as_the_environment_says(
    causal_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "")
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    history("chat", talks(6), str(causal_base), tmp_path / "run", answered=0, max_steps=1)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ["LRU_CACHE_CAPACITY"] == "64"
