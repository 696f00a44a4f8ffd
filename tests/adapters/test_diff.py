"""What differs between two artifacts: every part of them, and nothing where nothing does."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.diff import MetricChange, difference
from adapthub.adapters.manifest import DataRecord, Metric
from tests.adapters.saves import METHODS, adapted, manifest


@pytest.fixture(params=METHODS)
def first(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    return write_artifact(
        tmp_path / "first", peft_model=adapted(request.param), manifest=manifest(), card="# A\n"
    )


def changed(first: Artifact, target: Path, name: str) -> Artifact:
    """The same adapter with twice the tensor whose key ends in `name`."""
    tensors = {
        key: tensor * 2 if key.endswith(name) else tensor
        for key, tensor in Artifact.read(first.path).tensors().items()
    }
    return write_artifact(target, config=first.config, tensors=tensors, manifest=manifest(), card="# A\n")


def test_an_adapter_does_not_differ_from_its_copy(first: Artifact, tmp_path: Path) -> None:
    shutil.copytree(first.path, tmp_path / "copy")
    found = difference(first, Artifact.read(tmp_path / "copy"))
    assert found.before == found.after
    assert found.modules
    assert all(comparison.difference == pytest.approx(0, abs=1e-13) for comparison in found.modules.values())
    assert (found.configuration, found.manifest, found.metrics, found.files) == ((), (), (), ())


@pytest.mark.parametrize(
    ("method", "tensor", "module"),
    [
        ("lora", "layer.1.attention.self.query.lora_B.weight", "bert.encoder.layer.1.attention.self.query"),
        (
            "dora",
            "layer.0.output.dense.lora_magnitude_vector",
            "bert.encoder.layer.0.output.dense.lora_magnitude_vector",
        ),
        ("prefix", "prompt_embeddings", "prompt_embeddings"),
        ("lora", "classifier.weight", "classifier.weight"),
    ],
)
def test_the_module_that_changed_is_first_and_alone(
    tmp_path: Path, method: str, tensor: str, module: str
) -> None:
    first = write_artifact(tmp_path / "a", peft_model=adapted(method), manifest=manifest(), card="# A\n")
    found = difference(first, changed(first, tmp_path / "b", tensor))
    name, comparison = next(iter(found.modules.items()))
    assert name == module
    assert comparison.after == pytest.approx(2 * (comparison.before or 0))
    assert comparison.difference == pytest.approx(comparison.before)
    assert comparison.cosine == pytest.approx(1)
    assert all((each.difference or 0) < 1e-12 for each in list(found.modules.values())[1:])
    assert [file.name for file in found.files] == ["adapter_model.safetensors", "adapthub.json"]


def test_configuration_manifest_metrics_and_files(tmp_path: Path) -> None:
    model = adapted("lora")
    first = write_artifact(
        tmp_path / "a", peft_model=model, manifest=manifest(), card="# A\n", extra={"x.txt": b"1"}
    )
    second = write_artifact(
        tmp_path / "b",
        config={**first.config, "lora_alpha": 99, "target_modules": first.config["target_modules"][::-1]},
        tensors=Artifact.read(first.path).tensors(),
        manifest=manifest(
            hyperparameters={"rank": 8, "target_modules": "all-linear"},
            data={"test": DataRecord(fingerprint="sha256:" + "f" * 64, rows=12, source="test.conll")},
            metrics={
                "test": {"f1": Metric(value=0.9, low=0.8, high=0.95, n=12)},
                "validation": {"f1": Metric(value=0.9, n=3)},
            },
            parents=[first.digest],
        ),
        card="# B, longer\n",
    )
    found = difference(first, second)
    assert [dataclasses.astuple(change) for change in found.configuration] == [
        ("lora_alpha", first.config["lora_alpha"], 99)
    ]
    assert [dataclasses.astuple(change) for change in found.manifest or ()] == [
        ("data.test.fingerprint", "sha256:" + "e" * 64, "sha256:" + "f" * 64),
        ("hyperparameters.rank", 16, 8),
        ("parents", [], [first.digest]),
    ]
    assert [(change.split, change.name, change.apart) for change in found.metrics] == [
        ("test", "f1", True),
        ("validation", "f1", None),
    ]
    assert {
        change.name: (change.before, change.after) for change in found.files if change.name != "adapthub.json"
    } == {
        "README.md": (4, 12),
        "adapter_config.json": (
            first.files["adapter_config.json"].size,
            second.files["adapter_config.json"].size,
        ),
        "x.txt": (1, None),
    }
    # The scale is the whole difference: every update grew by 99 / alpha.
    grown = 99 / first.config["lora_alpha"]
    lora = [each for each in found.modules.values() if each.before_rank is not None]
    assert lora
    assert all(each.after == pytest.approx(grown * (each.before or 0)) for each in lora)


@pytest.mark.parametrize(
    ("before", "after", "apart"),
    [
        (Metric(value=0.5, low=0.4, high=0.6, n=9), Metric(value=0.7, low=0.61, high=0.8, n=9), True),
        (Metric(value=0.7, low=0.61, high=0.8, n=9), Metric(value=0.5, low=0.4, high=0.6, n=9), True),
        (Metric(value=0.5, low=0.4, high=0.6, n=9), Metric(value=0.7, low=0.6, high=0.8, n=9), False),
        (Metric(value=0.5, n=9), Metric(value=0.7, low=0.6, high=0.8, n=9), None),
        (None, Metric(value=0.7, low=0.6, high=0.8, n=9), None),
    ],
)
def test_intervals_that_are_apart(before: Metric | None, after: Metric | None, apart: bool | None) -> None:
    assert MetricChange("test", "f1", before, after).apart is apart


def test_a_plain_folder_has_no_manifest_to_compare(tmp_path: Path) -> None:
    first = write_artifact(tmp_path / "a", peft_model=adapted("lora"), manifest=manifest(), card="# A\n")
    shutil.copytree(first.path, tmp_path / "b")
    (tmp_path / "b" / "adapthub.json").unlink()
    found = difference(first, Artifact.read(tmp_path / "b"))
    assert found.manifest is None
    assert [(change.name, change.after) for change in found.metrics] == [("f1", None)]
    assert [(change.name, change.after) for change in found.files] == [("adapthub.json", None)]


def test_adapters_of_two_methods(tmp_path: Path) -> None:
    first, second = (
        write_artifact(
            tmp_path / method, peft_model=adapted(method), manifest=manifest(method=method), card=""
        )
        for method in ("lora", "prefix")
    )
    found = difference(first, second)
    prefix = found.modules["prompt_embeddings"]
    assert (prefix.before, prefix.difference) == (None, prefix.after)
    assert any(each.after is None for each in found.modules.values())
    assert "peft_type" in {change.name for change in found.configuration}
    assert torch.tensor([each.difference for each in found.modules.values()]).isfinite().all()
