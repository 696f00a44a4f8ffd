"""Preflight: each check passes on what works and names what does not."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import Conflict, InvalidData, InvalidReference, StorageError, TrainingError
from adapthub.hub.embedded import EmbeddedHub
from adapthub.recipes.preflight import (
    check_disk,
    check_head,
    check_name,
    check_reload,
    check_supervision,
)
from adapthub.recipes.recipe import Encoded

BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}
TARGETS = ["query", "value", "dense"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(
        task_type="TOKEN_CLS", r=4, target_modules=TARGETS, modules_to_save=["classifier"]
    ),
    "dora": lambda: peft.LoraConfig(
        task_type="TOKEN_CLS", r=4, use_dora=True, target_modules=["query"], modules_to_save=["classifier"]
    ),
    "prefix": lambda: peft.PrefixTuningConfig(
        task_type="TOKEN_CLS", num_virtual_tokens=4, modules_to_save=["classifier"]
    ),
}


def model(method: str, labels: int = 3) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    config.num_labels = labels
    auto: Any = AutoModelForTokenClassification
    base = auto.from_config(config)
    return peft.get_peft_model(base, CONFIGS[method]())


def encoded(rows: int, supervised: int, targets: int, truncated: int) -> Encoded:
    return Encoded([{}] * rows, supervised, targets, truncated)


def test_supervision_says_what_is_cut() -> None:
    assert check_supervision({"train": encoded(3, 9, 9, 0), "test": encoded(2, 4, 6, 1)}) == [
        "test: max_length cuts 1 of 2 rows; labels not seen: 2 of 6",
    ]
    with pytest.raises(
        InvalidData, match=r"validation: none of its 5 labels is left after truncation\. Raise"
    ):
        check_supervision({"train": encoded(1, 1, 1, 0), "validation": encoded(1, 0, 5, 1)})


def test_the_head_has_a_column_a_label_and_finite_logits() -> None:
    built = model("lora")
    check_head(built, BATCH, ["O", "B-X", "I-X"])
    with pytest.raises(TrainingError, match="the head has 3 outputs for 2 labels"):
        check_head(built, BATCH, ["O", "B-X"])
    next(p for p in built.parameters() if p.requires_grad).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite before training"):
        check_head(built, BATCH, ["O", "B-X", "I-X"])


def test_room_on_disk_is_asked_of_the_folder_that_will_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    asked = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return usage(10**9, 0, 70_000_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert check_disk(tmp_path / "runs" / "new", 10_000_000, 2) == "disk: about 70 MB of 70 MB free"
    assert asked == [tmp_path]
    with pytest.raises(StorageError, match="70 MB free; this run writes about 100 MB"):
        check_disk(tmp_path, 10_000_000, 3)


@pytest.fixture
def hub(tmp_path: Path) -> EmbeddedHub:
    """A hub that holds acme/tags, an adapter for token classification."""
    model("lora").save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()
    registry = EmbeddedHub(tmp_path / "hub")
    registry.push(Artifact.read(tmp_path / "adapter"), "acme/tags")
    return registry


def test_a_name_is_new_or_becomes_the_next_version(hub: EmbeddedHub) -> None:
    assert check_name("acme/other", "token-classification", hub) == "name: acme/other is new"
    assert (
        check_name("acme/tags", "token-classification", hub) == "name: acme/tags exists; this run becomes v2"
    )


def test_a_name_of_another_task_and_names_that_cannot_be_published_are_refused(hub: EmbeddedHub) -> None:
    with pytest.raises(Conflict, match="acme/tags is taken by an adapter for token-classification"):
        check_name("acme/tags", "text-classification", hub)
    with pytest.raises(InvalidReference, match="'acme/tags@v1' names a version"):
        check_name("acme/tags@v1", "token-classification", hub)
    with pytest.raises(InvalidReference):
        check_name("no namespace", "token-classification", hub)


@pytest.mark.parametrize("method", sorted(CONFIGS))
def test_a_reload_is_exact_and_leaves_the_model_as_it_was(method: str) -> None:
    built = model(method).train()
    built.base_model.dropout = torch.nn.Dropout(0.5).eval()
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in built.named_parameters()}
    modes = [module.training for module in built.modules()]
    state = torch.get_rng_state()

    assert check_reload(built, BATCH) <= 1e-6

    after = dict(built.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, (value, _) in before.items())
    assert {name: p.requires_grad for name, p in after.items()} == {
        name: flag for name, (_, flag) in before.items()
    }
    assert [module.training for module in built.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert list(built.peft_config) == ["default"]


def test_a_part_that_is_not_saved_is_found() -> None:
    """A trained matrix whose file never gets it: the reload has another one."""
    built = model("lora")
    saved = built.save_pretrained

    def forgetful(folder: str, **options: Any) -> None:
        lost = next(p for name, p in built.named_parameters() if "lora_B" in name)
        kept = lost.detach().clone()
        lost.data.zero_()
        saved(folder, **options)
        lost.data.copy_(kept)

    built.save_pretrained = forgetful
    with pytest.raises(TrainingError, match="saved and loaded again, the adapter gives other logits"):
        check_reload(built, BATCH)
    assert list(built.peft_config) == ["default"]
