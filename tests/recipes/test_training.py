"""`train` end to end on a tiny BERT: what it writes, what it refuses, and what survives a failure."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import (
    Conflict,
    InvalidData,
    InvalidReference,
    InvalidSettings,
    OutOfMemory,
    StorageError,
    TrainingError,
)
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Version
from adapthub.recipes import TrainingResult, evaluate, train
from adapthub.recipes import outcome as outcomes
from adapthub.recipes.adaptation import adapt
from adapthub.recipes.job import prepare
from adapthub.recipes.served import served_outputs
from adapthub.recipes.trainer import AdapterTrainer

# PEFT 0.21 reads a name that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SHORT: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "quiet": True}


def train_ner(base: Path, data: Path, output: Path, **settings: Any) -> TrainingResult:
    splits = {"validation": data / "validation.conll", "test": data / "test.conll"}
    arguments = {**SHORT, **splits, **settings}
    return train("ner", data / "train.conll", base=str(base), output=output, **arguments)


def train_sentiment(base: Path, data: Path, output: Path, **settings: Any) -> TrainingResult:
    splits = {"validation": data / "validation.csv", "test": data / "test.csv"}
    arguments = {**SHORT, **splits, **settings}
    return train("sentiment", data / "train.csv", base=str(base), output=output, **arguments)


@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_computes_in_the_precision_asked_for_and_serves_in_the_bases_own(
    precision: str,
    quantize: str | None,
    tiny_base: Path,
    ner_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()
    before = AdapterTrainer.compute_loss

    def compute_loss(self: AdapterTrainer, model: Any, *arguments: Any, **options: Any) -> Any:
        linear = model.get_submodule("base_model.model.bert.encoder.layer.0.output.dense.lora_A.default")
        hook = linear.register_forward_hook(lambda _module, _x, y: seen.add(y.dtype))
        result = before(self, model, *arguments, **options)
        hook.remove()
        return result

    monkeypatch.setattr(AdapterTrainer, "compute_loss", compute_loss)
    result = train_ner(tiny_base, ner_data, tmp_path / "run", precision=precision, quantize=quantize)

    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    manifest = result.artifact.manifest
    assert manifest is not None
    assert manifest.hyperparameters["precision"] == precision
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_bf16_where_the_processor_multiplies_it(
    native: bool,
    chosen: str,
    tiny_base: Path,
    ner_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapthub.recipes.adaptation.multiplies_bfloat16", lambda: native)
    result = train_ner(tiny_base, ner_data, tmp_path / "run")
    assert result.run.configuration["settings"]["precision"] == chosen


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3", "prefix"])
@pytest.mark.parametrize("task", ["ner", "sentiment"])
def test_what_is_trained_is_what_plain_peft_loads_and_what_is_served(
    task: str, method: str, tiny_base: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if task == "ner":
        data = request.getfixturevalue("ner_data")
        result = train_ner(tiny_base, data, tmp_path / "run", method=method)
        model_class: Any = AutoModelForTokenClassification
    else:
        data = request.getfixturevalue("review_data")
        result = train_sentiment(tiny_base, data, tmp_path / "run", method=method)
        model_class = AutoModelForSequenceClassification
    labels = result.artifact.labels
    assert labels is not None
    features = {"input_ids": [2, 5, 9, 11, 3], "token_type_ids": [0] * 5}

    peft = PeftModel.from_pretrained(
        model_class.from_pretrained(tiny_base, num_labels=len(labels)), str(result.artifact.path)
    ).eval()
    with torch.inference_mode():
        theirs = peft(**{name: torch.tensor([ids]) for name, ids in features.items()}).logits[0].numpy()
    adapted = AdaptedBase(load_base(str(tiny_base)))
    digest = adapted.attach(Artifact.read(result.artifact.path))
    ours = adapted.logits([features], [((1.0, digest),)])[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    assert set(result.metrics) == {"validation", "test"}
    headline = result.metrics["test"]["f1" if task == "ner" else "macro_f1"]
    assert headline.n == 12
    assert headline.low <= headline.value <= headline.high


def test_the_artifact_says_what_it_is(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    result = train_ner(tiny_base, ner_data, tmp_path / "run", rank=4)
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.recipe, manifest.method, manifest.seed) == ("ner", "lora", 0)
    assert manifest.hyperparameters["rank"] == 4
    assert manifest.hyperparameters["label_token"] == "first"
    assert manifest.data["train"].rows == 22
    assert manifest.data["train"].source == "train.conll"  # not where this machine keeps it
    assert manifest.metrics["test"]["f1"].n == 12
    assert result.artifact.config["modules_to_save"] == ["classifier"]
    targets = result.artifact.config["target_modules"]
    assert targets == sorted(targets)
    assert str(tmp_path) not in (result.artifact.path / "README.md").read_text()
    assert (result.artifact.path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_folder_holds_the_whole_run(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    run = train_ner(tiny_base, ner_data, tmp_path / "run", eval_steps=2).run
    assert run.state == "finished"
    assert run.configuration["settings"]["batch_size"] == 4
    assert run.environment["libraries"]["torch"] == version("torch")
    assert [entry["step"] for entry in run.history if "loss" in entry] == [1, 2, 3, 4]
    assert [entry["step"] for entry in run.history if "eval_f1" in entry] == [2, 4]
    assert run.curve.read_bytes().startswith(b"\x89PNG")
    assert list(run.tensorboard.iterdir())
    assert run.fact("metrics")["test"]["f1"]["n"] == 12


def test_a_base_given_is_given_back_as_it_was(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_base))
    modules = dict(base.model.named_modules())
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    for method in ("dora", "prefix"):
        train("ner", ner_data / "train.conll", base=base, output=tmp_path / method, method=method, **SHORT)
        assert dict(base.model.named_modules()) == modules
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training


def test_one_seed_gives_one_adapter(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    weights = [
        train_ner(tiny_base, ner_data, tmp_path / name, seed=seed, dropout=0.1).artifact.files[
            "adapter_model.safetensors"
        ]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_no_progress_stops_early_and_keeps_the_best(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-9, "head_learning_rate": 1e-9, "eval_steps": 2, "patience": 1}
    result = train_ner(tiny_base, ner_data, tmp_path / "run", max_steps=50, **settings)
    assert [entry["step"] for entry in result.run.history if "loss" in entry][-1] == 4
    best = load_file(result.run.checkpoints / "checkpoint-2" / "adapter_model.safetensors")
    last = load_file(result.run.checkpoints / "checkpoint-4" / "adapter_model.safetensors")
    kept = result.artifact.tensors()
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert any(not torch.equal(kept[name], last[name]) for name in last)


def test_a_lower_loss_is_progress_where_the_metric_stands_still(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    """Steps differ by their loss alone, and the last is kept, not the first."""
    settings = {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "eval_steps": 2, "patience": 1}
    result = train_ner(tiny_base, ner_data, tmp_path / "run", max_steps=6, **settings)
    seen = [entry for entry in result.run.history if "eval_loss" in entry]
    assert [entry["step"] for entry in seen] == [2, 4, 6]
    assert len({entry["eval_f1"] for entry in seen}) == 1
    assert seen[0]["eval_loss"] > seen[1]["eval_loss"] > seen[2]["eval_loss"]
    last = load_file(result.run.checkpoints / "checkpoint-6" / "adapter_model.safetensors")
    kept = result.artifact.tensors()
    assert all(torch.equal(kept[name], last[name]) for name in last)


def test_a_folder_is_data_and_a_missing_validation_split_is_set_aside(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    given = train("ner", ner_data, base=str(tiny_base), output=tmp_path / "given", **SHORT)
    named = train_ner(tiny_base, ner_data, tmp_path / "named")
    assert (
        given.artifact.files["adapter_model.safetensors"] == named.artifact.files["adapter_model.safetensors"]
    )
    told: list[str] = []
    lone = train_ner(tiny_base, ner_data, tmp_path / "run", validation=None, report=told.append)
    assert told[0].startswith("validation: no such split given, so 2 of 22 training rows are set aside")
    assert told == lone.run.fact("notes")
    assert lone.artifact.manifest is not None
    records = lone.artifact.manifest.data
    assert (records["train"].rows, records["train"].source) == (20, "train.conll (without rows set aside)")
    assert (records["validation"].rows, records["validation"].source) == (2, "train.conll (rows set aside)")
    assert lone.metrics["validation"]["f1"].n == 2


def test_notes_go_to_stderr_unless_quiet(
    tiny_base: Path, ner_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in (True, False):
        train_ner(tiny_base, ner_data, tmp_path / str(quiet), validation=None, max_steps=1, quiet=quiet)
        streams = capsys.readouterr()
        assert ("rows are set aside" in streams.err) == (not quiet)
        assert streams.out == ""


def test_without_validation_data_the_last_weights_are_kept(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    result = train_ner(tiny_base, ner_data, tmp_path / "run", validation=False, test=None)
    assert result.metrics == {}
    last = load_file(result.run.checkpoints / "checkpoint-4" / "adapter_model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in result.artifact.tensors().items())


def test_what_is_published_is_what_was_trained(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    result = train_ner(
        tiny_base, ner_data, tmp_path / "run", name="acme/ner", hub=hub, push=True, alias="prod"
    )
    assert result.version is not None
    assert result.version.digest == result.artifact.digest
    assert hub.resolve("acme/ner@prod") == result.version


class FullHub(EmbeddedHub):
    """A hub whose disk is full when it comes to it."""

    def push(self, *_: Any, **__: Any) -> Version:
        raise StorageError("the disk is full", hint="Free some space.")


def test_a_failed_push_loses_nothing_and_says_where_it_is(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    hub = FullHub(tmp_path / "hub")
    with pytest.raises(StorageError, match=r"the disk is full\. .* kept at .*run.adapter.*adapt push"):
        train_ner(tiny_base, ner_data, tmp_path / "run", name="acme/ner", hub=hub, push=True)
    artifact = Artifact.read(tmp_path / "run" / "adapter")
    assert evaluate(artifact, ner_data / "test.conll").rows == 12


def test_a_taken_name_is_refused_before_anything_is_trained(
    tiny_base: Path, ner_data: Path, review_data: Path, tmp_path: Path
) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    train_sentiment(tiny_base, review_data, tmp_path / "first", name="acme/one", hub=hub, push=True)
    with pytest.raises(Conflict, match="acme/one is taken"):
        train_ner(tiny_base, ner_data, tmp_path / "second", name="acme/one", hub=hub, push=True)
    assert not (tmp_path / "second").exists()


def test_a_base_that_cannot_be_served_as_trained_is_refused_before_training(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = outcomes.compared_outputs
    monkeypatch.setattr(outcomes, "compared_outputs", lambda *given: [row + 0.01 for row in honest(*given)])
    with pytest.raises(TrainingError, match=r"is not served as it is trained.*nothing was trained"):
        train_ner(tiny_base, ner_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_row_that_is_served_as_no_number_is_seen_whichever_it_is(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_lost(*given: Any, **options: Any) -> list[Any]:
        rows = served_outputs(*given, **options)
        return [*rows[:-1], rows[-1] * np.nan]

    monkeypatch.setattr(outcomes, "served_outputs", last_lost)
    with pytest.raises(TrainingError, match=r"logits differ by nan.*nothing was trained"):
        train_ner(tiny_base, ner_data, tmp_path / "run")


def test_more_rows_are_rehearsed_where_numbers_are_coarse(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding is told from a difference by the largest value, which a few rows may not have."""
    seen: list[int] = []
    honest = outcomes.compared_outputs

    def compared(*given: Any) -> list[Any]:
        seen.append(len(given[-1]))
        return honest(*given)

    monkeypatch.setattr(outcomes, "compared_outputs", compared)
    for dtype in ("float32", "bfloat16"):
        base = load_base(str(tiny_base), device="cpu", dtype=dtype)
        job = prepare(
            "ner", ner_data, base=base.resolved, quantize=None, method="lora", validation=None, test=None,
            seed=0, given={},
        )  # fmt: skip
        outcomes.rehearse(job, base)
    assert seen == [2, 16]


def test_an_adapter_that_is_served_otherwise_is_no_success_and_is_kept(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = outcomes.compared_outputs
    errors = iter((0.0, 0.01))

    def later_wrong(*given: Any) -> list[Any]:
        error = next(errors)
        return [row + error for row in honest(*given)]

    monkeypatch.setattr(outcomes, "compared_outputs", later_wrong)
    with pytest.raises(TrainingError, match=r"is not served as it is trained.*kept at"):
        train_ner(tiny_base, ner_data, tmp_path / "run")
    assert Artifact.read(tmp_path / "run" / "adapter").manifest is not None


def test_a_loss_that_is_no_number_ends_the_run(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+"):
        train_ner(tiny_base, ner_data, tmp_path / "run", learning_rate=1e30, warmup=0)


def test_out_of_memory_says_what_to_change(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AdapterTrainer, "training_step", exhaust)
    with pytest.raises(OutOfMemory, match=r"out of memory while training.*batch_size \(now 4\)"):
        train_ner(tiny_base, ner_data, tmp_path / "run")


def test_bad_settings_are_refused_before_a_folder_is_made(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"learning_rat": 1e-3}, "'learning_rat' is no setting.*learning_rate"),
        ({"learning_rate": 0}, "learning_rate is a number above 0"),
        ({"warmup": 1.5}, "warmup is a share"),
        ({"batch_size": 2.5}, "batch_size is a whole number"),
        ({"target_modules": ["querry"]}, "no linear layer is named 'querry'.*query"),
        ({"method": "prefix", "prefix_length": 64}, "exceed .* 64 positions"),
        ({"method": "prefix", "rank": 4}, "'rank' is no setting of ner with prefix"),
        ({"method": "prefix", "lora_plus_ratio": 4}, "'lora_plus_ratio' is no setting of ner with prefix"),
        ({"quantize": "int3"}, "unknown quantisation"),
    ]
    for settings, message in bad:
        with pytest.raises(InvalidSettings, match=message):
            train_ner(tiny_base, ner_data, tmp_path / "run", **settings)
    with pytest.raises(InvalidData, match=r"nowhere\.conll"):
        train_ner(tiny_base, ner_data, tmp_path / "run", test=tmp_path / "nowhere.conll")
    assert not (tmp_path / "run").exists()


def test_a_family_without_past_keys_takes_no_prefix(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=160, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    DistilBertModel(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    with pytest.raises(InvalidSettings, match="prefix tuning does not work on distilbert models"):
        train_ner(tmp_path / "base", ner_data, tmp_path / "run", method="prefix")


def test_a_folder_in_use_is_not_overwritten_and_said_before_a_base_is_loaded(
    ner_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    with pytest.raises(Conflict, match="is not empty"):
        train_ner(Path("no-base"), ner_data, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_a_backbone_without_pooler_weights_gets_its_pooler_from_the_adapter(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(tiny_base, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    result = train_sentiment(tmp_path / "base", review_data, tmp_path / "run")
    saved = set(result.artifact.tensors())
    assert "base_model.model.bert.pooler.dense.weight" in saved
    assert result.artifact.config["modules_to_save"] == ["classifier", "pooler"]


def test_a_base_whose_pooler_was_trained_is_given_back_as_it_was(tiny_base: Path, tmp_path: Path) -> None:
    """In its number format too: what is trained is float32."""
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(tiny_base, add_pooling_layer=False).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device="cpu", dtype="bfloat16")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    adaptation = adapt(
        base, "text-classification", ("a", "b"), "lora", {"target_modules": "all-linear", "rank": 2}
    )
    for parameter in adaptation.model.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    adaptation.release()
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(value.dtype == torch.bfloat16 for value in after.values() if value.is_floating_point())
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_a_decoder_learns_to_classify(tiny_base: Path, review_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    result = train_sentiment(tmp_path / "base", review_data, tmp_path / "run")
    assert result.artifact.config["modules_to_save"] == ["score"]
    assert result.metrics["test"]["accuracy"].n == 12


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_base_in_bfloat16_trains_a_float32_adapter(
    quantize: str | None, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    result = train_ner(
        tiny_base, ner_data, tmp_path / "run", dtype="bfloat16", device="cpu", quantize=quantize
    )
    assert {tensor.dtype for tensor in result.artifact.tensors().values()} == {torch.float32}
    assert result.artifact.manifest is not None
    assert result.artifact.manifest.quantization == quantize


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 1}, "'lr' is no setting of ner with lora. Did you mean 'learning_rate'"),
        ({"colour": 1}, "'colour' is no setting of ner with lora. There is: alpha, batch_size"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_names_there_are(
    given: dict[str, Any], message: str, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        train_ner(tiny_base, ner_data, tmp_path / "run", **given)


def test_an_alias_that_cannot_be_is_refused_before_the_first_step(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidReference, match="v3"):
        train_ner(tiny_base, ner_data, tmp_path / "run", name="acme/ner", push=True, alias="v3")
    assert not (tmp_path / "run").exists()
