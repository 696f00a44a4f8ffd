"""Portability: what is measured over other forms of the base, and what is written of it."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import Conflict, InvalidSettings, OutOfMemory
from adapthub.adapters.manifest import Form, Manifest
from adapthub.recipes import certification, certify, evaluate, train, write_certified
from adapthub.recipes.certification import FORMS, _changed, _nearest
from adapthub.recipes.evaluation import encode_for, read_for, recipe_of
from adapthub.recipes.merging import merged_answers
from tests.recipes.conftest import write_ner
from tests.recipes.test_translate import causal_base, pairs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

__all__ = ["causal_base"]
SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 5e-3, "validation": False, "quiet": True}
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, ner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("trained") / "run"
    settings = {**SETTINGS, "max_steps": 60, "base": str(tiny_base)}
    return train("ner", ner_data / "train.conll", output=output, **settings).artifact


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ner(tmp_path_factory.mktemp("data") / "test.conll", 30, seed=8)


def test_each_form_is_measured_as_evaluate_measures_it_one_base_at_a_time(
    adapter: Artifact, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases: list[weakref.ref[Any]] = []

    def load(*given: Any, **more: Any) -> Any:
        assert not [base for base in bases if base() is not None]
        base = load_base(*given, **more)
        bases.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(certification, "load_base", load)
    found = certify(adapter, data)
    assert len(bases) == 5
    assert (found.reference, found.left_out, found.headline) == ("float32", {}, ("f1", "precision", "recall"))
    assert list(found.certificates) == ["nf4", "int8", "bf16", "merged"]
    own = evaluate(adapter, data).metrics
    kinds: dict[Form, dict[str, Any]] = {
        "nf4": {"quantize": "nf4"},
        "int8": {"quantize": "int8"},
        "bf16": {"dtype": "bfloat16"},
    }
    for form, kind in kinds.items():
        alone = evaluate(adapter, data, **kind).metrics
        certificate = found.certificates[form]
        assert certificate.metrics["f1"].value == alone["f1"].value
        assert certificate.metrics["f1"].reference == own["f1"].value
        assert certificate.reference == "float32"
        assert 1e-4 < certificate.max_drift < 1
        assert 0 < certificate.mean_drift < certificate.max_drift
        assert certificate.data.rows == 30
    merged = found.certificates["merged"]
    assert merged.max_drift < 1e-5
    assert (merged.changed, merged.verdict) == (0, "holds")
    nf4, int8 = found.certificates["nf4"], found.certificates["int8"]
    assert nf4.mean_drift > int8.mean_drift > merged.mean_drift


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("rslora", "dora"))]
)
def test_merged_is_what_peft_and_transformers_make_of_it(
    method: str, tiny_base: Path, ner_data: Path, data: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_steps": 4, "base": str(tiny_base), "method": method}
    made = train("ner", ner_data / "train.conll", output=tmp_path / "run", **settings).artifact
    recipe, manifest = recipe_of(made)
    dataset = read_for(recipe, manifest, data, 64, {})
    base = load_base(str(tiny_base))
    encoded = encode_for(recipe, manifest, dataset, base)
    ours = merged_answers(recipe, made, base, dataset, encoded, batch_size=7).outputs
    plain: Any = AutoModelForTokenClassification.from_pretrained(tiny_base, num_labels=3)
    theirs = PeftModel.from_pretrained(plain, str(made.path)).merge_and_unload().eval()
    for row, output in zip(encoded.rows, ours, strict=True):
        inputs = {name: torch.tensor([ids]) for name, ids in row.items() if name != "labels"}
        with torch.inference_mode():
            np.testing.assert_allclose(output, theirs(**inputs).logits[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_adapter_trained_over_nf4_is_held_against_that(
    tiny_base: Path, ner_data: Path, data: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_steps": 4, "base": str(tiny_base), "quantize": "nf4"}
    made = train("ner", ner_data / "train.conll", output=tmp_path / "run", **settings).artifact
    found = certify(made, data)
    assert found.reference == "nf4"
    assert list(found.certificates) == ["float32", "int8", "bf16", "merged"]
    reference = evaluate(made, data).metrics["f1"].value
    assert found.certificates["float32"].metrics["f1"].reference == reference


def test_an_adapter_trained_in_bf16_is_held_against_that(
    tiny_base: Path, ner_data: Path, data: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_steps": 20, "base": str(tiny_base), "dtype": "bfloat16", "device": "cpu"}
    made = train("ner", ner_data / "train.conll", output=tmp_path / "run", **settings).artifact
    told: list[str] = []
    found = certify(made, data, forms=["float32"], device="cpu", report=told.append)
    assert told[0] == "measuring over the base in bf16, as the adapter was trained"
    assert found.reference == found.certificates["float32"].reference == "bf16"
    drift = found.certificates["float32"].metrics["f1"]
    in_bf16, in_float32 = (evaluate(made, data, dtype=kind).metrics for kind in ("bfloat16", "float32"))
    assert (drift.reference, drift.value) == (in_bf16["f1"].value, in_float32["f1"].value)
    assert found.certificates["float32"].max_drift > 1e-4
    with pytest.raises(InvalidSettings, match="bf16 is what the adapter was trained on"):
        certify(made, data, forms=["bf16"])


@pytest.mark.parametrize(
    ("hardware", "quantization", "form", "words"),
    [
        ({}, None, "float32", "; the adapter does not say in which numbers it was trained"),
        ({"dtype": "float16"}, None, "float32", "; the adapter was trained in float16"),
        ({"dtype": "bfloat16"}, "nf4", "nf4", ", the rest of it in bfloat16, as the adapter was trained"),
    ],
)
def test_in_what_an_adapter_was_trained_is_said(
    hardware: Any, quantization: Any, form: str, words: str, adapter: Artifact
) -> None:
    assert adapter.manifest is not None
    manifest = adapter.manifest.model_copy(update={"hardware": hardware, "quantization": quantization})
    reference, dtype = certification._as_trained(manifest)
    assert (reference, certification._how_trained(manifest, dtype)) == (form, words)


def test_merging_warns_of_nothing_that_users_could_change(adapter: Artifact, data: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="`is_gradient_checkpointing`")
        assert certify(adapter, data, forms=["merged"]).certificates.keys() == {"merged"}


def test_a_prefix_has_nothing_to_merge(tiny_base: Path, ner_data: Path, data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_steps": 2, "base": str(tiny_base), "method": "prefix"}
    made = train("ner", ner_data / "train.conll", output=tmp_path / "run", **settings).artifact
    found = certify(made, data, forms=["merged", "bf16"])
    assert list(found.certificates) == ["bf16"]
    assert found.left_out == {"merged": "prefix tuning changes no weight, so there is nothing to merge"}


def test_a_form_that_memory_does_not_hold_is_left_out(
    adapter: Artifact, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(ref: str, **kind: Any) -> Any:
        if kind["quantize"] == "int8":
            raise OutOfMemory("loading it needs about 30 GB")
        return load_base(ref, **kind)

    monkeypatch.setattr(certification, "load_base", load)
    found = certify(adapter, data, forms=("int8", "bf16"))
    assert (list(found.certificates), found.left_out) == (["bf16"], {"int8": "loading it needs about 30 GB"})


def test_what_is_clearly_worse_is_said(
    adapter: Artifact, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ref: str, **kind: Any) -> Any:
        base = load_base(ref, **kind)
        if kind["quantize"] == "int8":
            cast(Any, base.model).embeddings.word_embeddings.weight.data.zero_()
        return base

    monkeypatch.setattr(certification, "load_base", broken)
    found = certify(adapter, data, forms=("int8",)).certificates["int8"]
    assert found.verdict == "worse"
    assert found.metrics["f1"].high < 0
    assert found.changed is not None
    assert found.changed > 0.2


@pytest.mark.slow
def test_texts_that_are_written_are_compared_and_merged_too(causal_base: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_steps": 3, "base": str(causal_base)}
    made = train("translate", pairs(24, 0), output=tmp_path / "run", **settings).artifact
    found = certify(made, pairs(6, 1))
    assert set(found.certificates) == set(FORMS) - {"float32"}
    merged = found.certificates["merged"]
    assert merged.changed == 0
    assert merged.max_drift < 1e-4
    assert set(merged.metrics) == {"chrf", "bleu", "loss"}
    own = evaluate(made, pairs(6, 1)).metrics
    assert merged.metrics["loss"].reference == own["loss"].value
    assert merged.metrics["chrf"].value == own["chrf"].value
    some = certify(made, pairs(6, 1), forms=["nf4"], answered=3).certificates["nf4"]
    assert {name: drift.n for name, drift in some.metrics.items()} == {"chrf": 3, "bleu": 3, "loss": 6}
    assert some.changed in (0, 1 / 3, 2 / 3, 1)  # of the texts that were written
    none = certify(made, pairs(6, 1), forms=["nf4"], answered=0)
    assert none.certificates["nf4"].changed is None
    assert set(none.certificates["nf4"].metrics) == {"loss"}
    card = (write_certified(none, tmp_path / "none").path / "README.md").read_text()
    (line,) = (line for line in card.splitlines() if line.startswith("| nf4 |"))
    assert "0.00%" not in line


def test_where_nothing_was_decided_no_share_of_it_changed() -> None:
    assert _changed([], []) is None
    assert (_changed(["a", "b"], ["a", "b"]), _changed(["a", "b"], ["a", "c"])) == (0, 0.5)


def test_the_decision_of_vectors_is_the_nearest_passage() -> None:
    """Whichever of their numbers is the largest; a passage that stands twice is one."""
    before = [np.array(pair, float) for pair in ([[1, 0.1], [1, 0]], [[0.1, 1], [0, 1]], [[1, 0.2], [1, 0]])]
    turned = [
        np.array(pair, float) for pair in ([[0.1, -1], [0, -1]], [[1, 0.1], [1, 0]], [[0.2, -1], [0, -1]])
    ]
    passages = [[5, 6], [7], [5, 6]]
    assert _nearest(passages, before) == _nearest(passages, turned) == [0, 1, 0]
    confused = [before[0], np.array([[1, 0.1], [0, 1]]), before[2]]
    assert _nearest(passages, confused) == [0, 0, 0]


def test_what_was_found_is_written_beside_the_same_weights(
    adapter: Artifact, data: Path, tmp_path: Path
) -> None:
    found = certify(adapter, data, forms=["nf4"])
    written = write_certified(found, tmp_path / "certified")
    assert written.manifest is not None
    assert adapter.manifest is not None
    assert dict(written.manifest.certificates) == dict(found.certificates)
    assert written.files.keys() == adapter.files.keys()
    assert written.files[FILES[1]] == adapter.files[FILES[1]]
    assert (written.path / FILES[0]).read_bytes() == (adapter.path / FILES[0]).read_bytes()
    assert (written.path / "loss.png").read_bytes() == (adapter.path / "loss.png").read_bytes()
    card = (written.path / "README.md").read_text()
    assert "## Portability\n\nMeasured against the base in float32, on 30 rows of test.conll." in card
    assert f"| nf4 | {found.certificates['nf4'].verdict} | f1 |" in card
    before = (adapter.path / "README.md").read_text()
    assert card.index("## Results" if "## Results" in before else "## Training") < card.index(
        "## Portability"
    )
    assert card.index("## Portability") < card.index("## With AdaptHub")

    more = write_certified(certify(written, data, forms=["bf16"]), tmp_path / "more")
    assert more.manifest is not None
    assert more.manifest.certificates.keys() == {"nf4", "bf16"}
    assert (more.path / "README.md").read_text().count("## Portability") == 1
    assert (
        (more.path / "README.md")
        .read_text()
        .replace("\n\n\n", "\n\n")
        .startswith(before.partition("## With")[0].rstrip())
    )
    with pytest.raises(Conflict):
        write_certified(found, tmp_path / "more")

    fewer = tmp_path / "fewer.conll"
    fewer.write_text("\n\n".join(data.read_text().split("\n\n")[:7]))
    both = write_certified(certify(written, fewer, forms=["bf16"]), tmp_path / "both")
    card = (both.path / "README.md").read_text()
    assert "## Portability\n\nMeasured against the base in float32.\n" in card
    for form, rows in (("nf4", "30 rows of test.conll"), ("bf16", "7 rows of fewer.conll")):
        assert all(rows in line for line in card.splitlines() if line.startswith(f"| {form} |"))


def test_a_card_of_ones_own_keeps_its_words(adapter: Artifact, data: Path, tmp_path: Path) -> None:
    from adapthub.adapters.artifact import write_artifact

    assert adapter.manifest is not None
    mine = write_artifact(
        tmp_path / "mine",
        config=dict(adapter.config),
        tensors=adapter.tensors(),
        manifest=adapter.manifest,
        card="# Mine\n\nMy own words.\n",
    )
    written = write_certified(certify(mine, data, forms=["bf16"]), tmp_path / "written")
    card = (written.path / "README.md").read_text()
    assert card.startswith("# Mine\n\nMy own words.\n\n## Portability\n")


def test_a_manifest_without_certificates_is_as_it_was(adapter: Artifact) -> None:
    assert adapter.manifest is not None
    data = adapter.manifest.to_json()
    assert b"certificates" not in data
    assert Manifest.from_json(data, "here") == adapter.manifest


@pytest.mark.parametrize(
    ("forms", "message"),
    [(["fp8"], "no form 'fp8'.*nf4"), (["float32"], "float32 is what the adapter was trained on")],
)
def test_forms_that_mean_nothing_are_refused(
    forms: list[str], message: str, adapter: Artifact, data: Path
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        certify(adapter, data, forms=forms)
