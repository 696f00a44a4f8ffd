"""Training goes on from a published adapter: its weights, method and settings, its head where the labels are equal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import BaseMismatch, InvalidSettings, TensorMismatch, TrainingInterrupted
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lineage import parent_of
from adapthub.recipes import TrainingResult, loop, train
from adapthub.recipes.interrupt import StopAtStep
from adapthub.recipes.planning import plan
from tests.conftest import write_tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SHORT: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "quiet": True}
# So slow that what is trained is what was there before.
STILL: dict[str, Any] = {**SHORT, "max_steps": 1, "learning_rate": 1e-12, "head_learning_rate": 1e-12}


def trained(base: Path, data: Path, output: Path, **settings: Any) -> TrainingResult:
    return train("ner", data, output=output, **{**SHORT, "base": str(base), "validation": False, **settings})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedHub:
    return EmbeddedHub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def parent(
    tiny_base: Path, ner_data: Path, hub: EmbeddedHub, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    """acme/ner@v1: a LoRA of rank 4."""
    output = tmp_path_factory.mktemp("parent") / "run"
    settings = {"rank": 4, "alpha": 12, "name": "acme/ner", "hub": hub, "push": True}
    return trained(tiny_base, ner_data / "train.conll", output, **settings)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return artifact.tensors()


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dora", "prefix", "nf4"))]
)
def test_weights_and_head_are_the_parents(
    method: str, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    kind = {"quantize": "nf4"} if method == "nf4" else {"method": method}
    data = ner_data / "train.conll"
    before = trained(tiny_base, data, tmp_path / "before", **kind).artifact
    after = train(
        "ner", data, start=before, output=tmp_path / "after", validation=False, seed=1, **STILL
    ).artifact
    assert after.manifest is not None
    assert before.manifest is not None
    assert after.manifest.method == before.manifest.method
    assert after.manifest.quantization == before.manifest.quantization
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, rtol=0, atol=1e-7)


def test_the_manifest_names_the_parent_and_the_hub_shows_both_ways(
    tiny_base: Path, ner_data: Path, hub: EmbeddedHub, parent: TrainingResult, tmp_path: Path
) -> None:
    version = hub.resolve("acme/ner@v1")
    told: list[str] = []
    settings: dict[str, Any] = {
        "start": "acme/ner",
        "name": "acme/child",
        "hub": hub,
        "push": True,
        "report": told.append,
    }
    child = train("ner", ner_data, output=tmp_path / "run", **SHORT, **settings)
    assert child.artifact.manifest is not None
    assert child.artifact.manifest.parents == [parent_of(version)]
    assert child.artifact.manifest.hyperparameters["rank"] == 4
    assert child.artifact.config["lora_alpha"] == 12
    assert not any("head" in note for note in told)
    lineage = hub.lineage("acme/child")
    assert [(one.name, one.number) for one in lineage.versions.values()] == [
        ("acme/child", 1),
        ("acme/ner", 1),
    ]
    assert hub.lineage("acme/ner").descendants.keys() == {child.artifact.digest}


def test_a_head_of_other_labels_is_drawn_anew_and_said(
    tiny_base: Path, ner_data: Path, hub: EmbeddedHub, parent: TrainingResult, tmp_path: Path
) -> None:
    text = (ner_data / "train.conll").read_text().replace("B-LOC", "B-ORG")
    (tmp_path / "train.conll").write_text(text)
    told: list[str] = []
    settings = {**STILL, "hub": hub, "report": told.append, "validation": False}
    child = train("ner", tmp_path / "train.conll", start="acme/ner", output=tmp_path / "run", **settings)
    assert told[-1] == (
        f"start: {parent_of(hub.resolve('acme/ner'))} has the labels O, B-LOC, B-PER; the data has O, B-ORG, B-PER,"
        " so the head is drawn anew"
    )
    old, new = weights(parent.artifact), weights(child.artifact)
    head = {name for name in old if "classifier" in name}
    assert len(head) == 2
    assert not any(torch.allclose(old[name], new[name]) for name in head)  # of the same shape
    assert all(torch.allclose(old[name], new[name], atol=1e-7) for name in old.keys() - head)


@pytest.mark.slow
def test_a_head_of_another_size_is_drawn_anew(
    ner_data: Path, hub: EmbeddedHub, parent: TrainingResult, tmp_path: Path
) -> None:
    lines = (line for line in (ner_data / "train.conll").read_text().splitlines() if "B-LOC" not in line)
    (tmp_path / "train.conll").write_text("\n".join(lines) + "\n")
    settings = {**SHORT, "hub": hub, "validation": False}
    child = train("ner", tmp_path / "train.conll", start="acme/ner", output=tmp_path / "run", **settings)
    assert child.artifact.labels == ("O", "B-PER")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 8}, r"rank=8 is not what acme/ner@\w+ was trained with, 4"),
        ({"target_modules": ["query"]}, r"target_modules=\['query'\] is not what acme/ner.*'all-linear'"),
        ({"method": "dora"}, r"method='dora' is not what acme/ner@\w+ was trained with, 'lora'"),
        (
            {"task": "sentiment"},
            r"is an adapter for token-classification, and this run trains text-classification",
        ),
        ({"start": "acme/nre"}, r"acme/nre.*acme/ner"),
    ],
)
def test_what_differs_from_the_parent_is_refused_by_name(
    given: dict[str, Any],
    message: str,
    ner_data: Path,
    hub: EmbeddedHub,
    parent: TrainingResult,
    tmp_path: Path,
) -> None:
    arguments = {"task": "ner", "start": "acme/ner", "hub": hub, **SHORT, **given}
    with pytest.raises((InvalidSettings, LookupError), match=message):
        train(data=ner_data, output=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_another_base_is_refused_and_both_are_named(
    tiny_base: Path, ner_data: Path, hub: EmbeddedHub, parent: TrainingResult, tmp_path: Path
) -> None:
    other = write_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(
        BaseMismatch, match=rf"trained on {tiny_base}, and this run is over {other}: weights differ"
    ):
        train("ner", ner_data, start="acme/ner", hub=hub, base=str(other), output=tmp_path / "run", **SHORT)


def test_settings_that_are_the_parents_may_be_given(
    tiny_base: Path, ner_data: Path, hub: EmbeddedHub, parent: TrainingResult
) -> None:
    planned = plan(
        "ner", ner_data, base=str(tiny_base), start=parent.artifact, method="lora", rank=4, alpha=12.0
    )
    assert planned.settings["rank"] == 4
    assert "rank" not in planned.reasons  # the default's reason is not this run's
    assert planned.method == "lora"


def test_a_folder_is_a_parent_and_is_found_by_its_digest_once_it_is_published(
    ner_data: Path, parent: TrainingResult, tmp_path: Path
) -> None:
    child = train("ner", ner_data, start=parent.artifact.path, output=tmp_path / "run", **SHORT)
    assert child.artifact.manifest is not None
    digest = parent.artifact.digest.removeprefix("sha256:")
    assert child.artifact.manifest.parents == [f"unpublished/run@{digest}"]
    hub = EmbeddedHub(tmp_path / "hub")
    hub.push(child.artifact, "acme/child")
    assert [one.found for one in hub.lineage("acme/child").versions.values()] == [True, False]
    hub.push(parent.artifact, "acme/late")
    assert [one.name for one in hub.lineage("acme/child").versions.values()] == ["acme/child", "acme/late"]


def test_a_plain_peft_folder_does_not_say_enough(
    ner_data: Path, parent: TrainingResult, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((parent.artifact.path / name).read_bytes())
    with pytest.raises(
        InvalidSettings, match=r"does not say which base it was trained on.*no adapthub\.json"
    ):
        train("ner", ner_data, start=tmp_path, **SHORT)


def test_tensors_that_the_manifest_does_not_account_for_are_refused(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    from adapthub.adapters.artifact import write_artifact

    made = trained(tiny_base, ner_data / "train.conll", tmp_path / "made", rank=4).artifact
    assert made.manifest is not None
    manifest = made.manifest.model_copy(
        update={"hyperparameters": {**made.manifest.hyperparameters, "rank": 8}}
    )
    told = write_artifact(
        tmp_path / "told", config=dict(made.config), tensors=made.tensors(), manifest=manifest, card=""
    )
    with pytest.raises(TensorMismatch, match=r"lora_A\.weight is \[4, 64\], and this run needs \[8, 64\]"):
        train("ner", ner_data, start=told, output=tmp_path / "run", **SHORT)


@pytest.mark.slow
def test_a_run_from_a_parent_is_resumed_bit_for_bit(
    ner_data: Path, hub: EmbeddedHub, parent: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(StopAtStep):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.global_step == 2:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    arguments = {**SHORT, "hub": hub, "start": "acme/ner", "seed": 7}
    straight = train("ner", ner_data, output=tmp_path / "straight", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopAtStep", Stop)
        with pytest.raises(TrainingInterrupted, match="at step 2 of 4"):
            train("ner", ner_data, output=tmp_path / "run", **arguments)
    base = parent.run.configuration["base"]["id"]
    anew = {**arguments, "start": None, "rank": 4, "alpha": 12, "base": base}
    with pytest.raises(InvalidSettings, match=r"start was 'sha256:\w+', is now None"):
        train("ner", ner_data, output=tmp_path / "run", resume=True, **anew)
    resumed = train("ner", ner_data, output=tmp_path / "run", resume=True, **arguments)
    name = "adapter_model.safetensors"
    assert resumed.artifact.files[name] == straight.artifact.files[name]
    assert resumed.run.history == straight.run.history
