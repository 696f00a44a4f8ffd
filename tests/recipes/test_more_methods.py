"""LoRA-FA, EVA and methods by PEFT's own configuration: what each does, trained, served and read back by plain PEFT."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings, TrainingError, TrainingInterrupted, UnsupportedAdapter
from adapthub.recipes import TrainingResult, eva, loop, plan, train
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.interrupt import StopAtStep
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.test_translate import pairs
from tests.recipes.tokenizer_kinds import byte_level

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SHORT: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "quiet": True, "seed": 3}
FEATURES = {"input_ids": [2, 5, 9, 11, 3], "token_type_ids": [0] * 5}


def ner(base: Path, data: Path, output: Path, **settings: Any) -> TrainingResult:
    return train("ner", data, base=str(base), output=output, **{**SHORT, **settings})


def served_is_peft(
    artifact: Artifact, base: Path, model_class: Any = AutoModelForTokenClassification
) -> None:
    """The served adapter's logits are those of plain PEFT."""
    labels = artifact.labels
    assert labels is not None
    plain = model_class.from_pretrained(base, num_labels=len(labels))
    peft = PeftModel.from_pretrained(plain, str(artifact.path)).eval()
    with torch.inference_mode():
        theirs = peft(**{name: torch.tensor([ids]) for name, ids in FEATURES.items()}).logits[0].numpy()
    adapted = AdaptedBase(load_base(str(base)))
    digest = adapted.attach(Artifact.read(artifact.path))
    ours = adapted.logits([FEATURES], [((1.0, digest),)])[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def checkpoint(result: TrainingResult, step: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(
        result.run.checkpoints / f"checkpoint-{step}" / "adapter_model.safetensors"
    )
    return tensors


@pytest.mark.parametrize("method", ["lora", pytest.param("rslora", marks=pytest.mark.slow)])
def test_lora_fa_leaves_a_and_trains_b_and_head(
    method: str, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    settings = {"optimizer": "lora-fa", "method": method, "eval_steps": 2, "validation": False}
    result = ner(tiny_base, ner_data, tmp_path / "run", **settings)
    first, last = checkpoint(result, 2), checkpoint(result, 4)
    for name, tensor in last.items():
        assert torch.equal(tensor, first[name]) == ("lora_A" in name), name
    served_is_peft(result.artifact, tiny_base)


def test_a_step_of_lora_fa_is_pefts(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    """B moves as PEFT's own optimiser, with one rate for all, moves it from the same A and the same gradient."""
    from peft.optimizers import create_lorafa_optimizer

    from adapthub.adapters.methods import method_settings
    from adapthub.recipes.adaptation import adapt
    from adapthub.recipes.rates import Rates, freeze_a, lora_fa

    made = []
    for ours in (True, False):
        torch.manual_seed(0)
        base = load_base(str(tiny_base))
        task: Any = "token-classification"
        model = adapt(base, task, ("O", "B-PER"), "lora", method_settings("lora", task, rank=4)).model
        freeze_a(model)
        rates = Rates(1e-2, 1e-2, ("classifier",), 0, 0.0)
        optimizer = (
            lora_fa(model, rates) if ours else create_lorafa_optimizer(model, r=4, lora_alpha=16, lr=1e-2)
        )
        inputs = {name: torch.tensor([ids]) for name, ids in FEATURES.items()}
        model(**inputs, labels=torch.tensor([[0, 1, 0, 1, 0]])).loss.backward()
        optimizer.step()
        made.append(
            {
                name: p.detach().clone()
                for name, p in model.named_parameters()
                if "lora_" in name or "classifier" in name
            }
        )
    for name, tensor in made[0].items():
        torch.testing.assert_close(tensor, made[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_lora_fa_is_resumed_bit_for_bit(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(StopAtStep):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.global_step == 2:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    settings = {"optimizer": "lora-fa", "dropout": 0.1}
    straight = ner(tiny_base, ner_data, tmp_path / "straight", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopAtStep", Stop)
        with pytest.raises(TrainingInterrupted):
            ner(tiny_base, ner_data, tmp_path / "run", **settings)
    resumed = ner(tiny_base, ner_data, tmp_path / "run", resume=True, **settings)
    name = "adapter_model.safetensors"
    assert resumed.artifact.files[name] == straight.artifact.files[name]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ner", "sentiment"])
def test_eva_takes_directions_and_ranks_from_the_data(
    task: str, tiny_base: Path, ner_data: Path, review_data: Path, tmp_path: Path
) -> None:
    data = ner_data if task == "ner" else review_data
    settings: dict[str, Any] = {**SHORT, "max_steps": 2, "rank": 2, "init": "eva", "base": str(tiny_base)}
    result = train(task, data, output=tmp_path / "run", **settings)
    config = result.artifact.config
    assert config["rank_pattern"]
    assert config["init_lora_weights"] is True  # whoever loads it needs no data
    shapes = {name: shape for name, shape in result.artifact.shapes.items() if name.endswith("lora_A.weight")}
    ranks = [shape[0] for shape in shapes.values()]
    assert len(set(ranks)) > 1
    assert sum(ranks) <= 2 * 13
    model_class = AutoModelForTokenClassification if task == "ner" else AutoModelForSequenceClassification
    served_is_peft(result.artifact, tiny_base, model_class)

    again = train(task, data, output=tmp_path / "again", **settings)
    name = "adapter_model.safetensors"
    assert again.artifact.files[name] == result.artifact.files[name]
    child = train(task, data, start=result.artifact, output=tmp_path / "child", **SHORT)
    assert child.artifact.config["rank_pattern"] == config["rank_pattern"]
    assert child.artifact.shapes == result.artifact.shapes
    planned = plan(task, data, start=result.artifact, max_steps=2)
    assert planned.trainable == sum(map(math.prod, child.artifact.shapes.values()))


def test_eva_that_cannot_work_is_refused(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSettings, match="init=eva needs 32 training rows for rank 16; there are 22"):
        ner(tiny_base, ner_data, tmp_path / "run", init="eva", rank=16)
    monkeypatch.setattr(eva, "_MOST_BATCHES", 2)
    with pytest.raises(TrainingError, match="EVA's directions have not settled after 2 batches of 8 rows"):
        ner(tiny_base, ner_data, tmp_path / "run", init="eva", rank=4)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "patterns": {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["query", "value"],
        "rank_pattern": {"layer.1.attention.self.query": 2},
        "alpha_pattern": {"layer.0.attention.self.value": 3},
    },
    "one layer": {"peft_type": "LORA", "r": 4, "target_modules": ["dense"], "layers_to_transform": [1]},
    "all": {"peft_type": "LORA", "r": 4, "use_dora": True, "target_modules": "all-linear"},
    "scales": {
        "peft_type": "IA3",
        "target_modules": ["query", "output.dense"],
        "feedforward_modules": ["output.dense"],
    },
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "patterns" else pytest.param(kind, marks=pytest.mark.slow) for kind in CONFIGURATIONS],
)
def test_pefts_own_configuration_is_a_method(
    kind: str, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    fields = CONFIGURATIONS[kind]
    settings = {"method": "peft", "peft_config": fields, "report": told.append}
    result = ner(tiny_base, ner_data, tmp_path / "run", **settings)
    assert any(
        "The runtime serves LORA, IA3, PREFIX_TUNING, PROMPT_TUNING mixed in one pass" in note
        for note in told
    )
    assert result.artifact.manifest is not None
    assert result.artifact.manifest.method == "peft"
    assert result.artifact.manifest.hyperparameters["peft_config"] == fields
    for name in fields.keys() - {"target_modules", "feedforward_modules"}:
        assert result.artifact.config[name] == fields[name]
    served_is_peft(result.artifact, tiny_base)


def test_a_configuration_that_is_not_computed_is_refused_before_the_first_step(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    fields = {"peft_type": "LORA", "target_modules": ["query"], "qalora_group_size": 4, "use_qalora": True}
    prefix = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": True}
    with pytest.raises(InvalidSettings, match="PEFT saves what prefix_projection makes and not its weights"):
        ner(tiny_base, ner_data, tmp_path / "run", method="peft", peft_config=prefix)
    with pytest.raises((UnsupportedAdapter, InvalidSettings), match="qalora"):
        ner(tiny_base, ner_data, tmp_path / "run", method="peft", peft_config=fields)
    assert not (tmp_path / "run").exists()


def test_tokens_are_trained_and_served_beside_the_matrices(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    base = load_base(str(tiny_base))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    settings = {**SHORT, "trainable_tokens": ["ada", 9], "learning_rate": 0.05}
    result = train("ner", ner_data, base=base, output=tmp_path / "run", **settings)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    manifest = result.artifact.manifest
    assert manifest is not None
    assert manifest.hyperparameters["trainable_tokens"] == [5, 9]
    (rows,) = [
        tensor
        for name, tensor in result.artifact.tensors().items()
        if name.endswith("trainable_tokens_delta")
    ]
    changed = (rows - before["embeddings.word_embeddings.weight"][[5, 9]]).norm(dim=1)
    assert changed[0] > 1e-3  # "ada" stands in the data
    served_is_peft(result.artifact, tiny_base)
    adapted = AdaptedBase(load_base(str(tiny_base)))
    digest = adapted.attach(result.artifact)
    texts = [{"input_ids": [2, 9, 5, 3]}, {"input_ids": [2, 11, 3]}, {"input_ids": [2, 5, 3]}]
    alone = [adapted.logits([text], [((1.0, digest),)])[0] for text in texts]
    mixed = adapted.logits(texts, [((1.0, digest),)] * 2 + [((1.0, digest),)])
    for one, other in zip(alone, mixed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    still: dict[str, Any] = {
        "max_steps": 1,
        "learning_rate": 1e-12,
        "head_learning_rate": 1e-12,
        "validation": False,
    }
    child = train("ner", ner_data, start=result.artifact, output=tmp_path / "child", quiet=True, **still)
    for name, tensor in child.artifact.tensors().items():
        torch.testing.assert_close(tensor, result.artifact.tensors()[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tokens_of_a_causal_base_change_its_output_too_where_it_shares_them(
    tied: bool, tmp_path: Path
) -> None:
    tokenizer = byte_level()
    sizes = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 128,
        "eos_token_id": tokenizer.eos_token_id,
    }
    base = write_causal_base(tmp_path / "base", **sizes, tie_word_embeddings=tied)
    tokenizer.save_pretrained(base)
    ids = tokenizer("Ada", add_special_tokens=False)["input_ids"][:2]
    settings = {**SHORT, "trainable_tokens": list(dict.fromkeys(ids)), "max_length": 64, "validation": False}
    result = train(
        "translate", pairs(24, 0), base=str(base), test=pairs(4, 1), output=tmp_path / "run", **settings
    )
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(result.artifact.path)
    ).eval()
    recipe = find_recipe("translate")
    assert result.artifact.manifest is not None
    encoded = recipe.encode(tokenizer, recipe.read(pairs(4, 1)), (), result.artifact.manifest.hyperparameters)
    total = count = 0.0
    for row in encoded.rows:
        learnt = sum(label != -100 for label in row["labels"])
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        with torch.inference_mode():
            total += float(model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).loss) * learnt
        count += learnt
    assert result.metrics["test"]["loss"].value == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable_tokens": ["nobody"]}, "the base's tokenizer has no token 'nobody'"),
        ({"trainable_tokens": [100_000]}, "the base's tokenizer has no token 100000"),
        ({"optimizer": "sgd"}, "optimizer is one of .*; 'sgd' is not"),
        ({"optimizer": "lora-fa", "method": "dora"}, "optimizer='lora-fa' trains LoRA's B alone, and dora"),
        ({"optimizer": "lora-fa", "method": "prefix"}, "optimizer='lora-fa' trains LoRA's B alone"),
        ({"method": "prompt"}, "prompt tuning is for text that a causal base generates"),
        ({"method": "ia3", "rank": 4}, "'rank' is no setting of ner with ia3"),
        ({"method": "ia3", "target_modules": ["keys"]}, "no linear layer is named 'keys'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    settings: dict[str, Any], message: str, tiny_base: Path, ner_data: Path
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        plan("ner", ner_data, base=str(tiny_base), **settings)
