"""Preference tuning: the loss is the papers', the base is once in memory and unchanged, and what was trained is served."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import InvalidData, InvalidSettings, TrainingInterrupted
from adapthub.adapters.samples import fetch
from adapthub.hub.embedded import EmbeddedHub
from adapthub.recipes import certify, evaluate, loop, plan, train
from adapthub.recipes.adaptation import adapt
from adapthub.recipes.answer_rows import asked, sequences
from adapthub.recipes.prefer import Prefer
from adapthub.recipes.preference_trainer import PreferenceTrainer
from adapthub.recipes.rates import Rates
from adapthub.runtime import Runtime
from tests.adapters.causal_pass import SIZES, write_causal_base
from tests.conftest import WORDS
from tests.recipes.test_training_resume import SignalAt
from tests.recipes.test_translate import TEMPLATE
from tests.recipes.tokenizer_kinds import byte_level

RATES = Rates(1e-3, None, (), warmup_steps=0, weight_decay=0.0)
OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "dpo"},
    {"objective": "dpo", "label_smoothing": 0.2, "beta": 0.3},
    {"objective": "dpo-norm"},
    {"objective": "kto"},
]


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("causal") / "llama")


def write_base(folder: Path, config: Any = None) -> Path:
    tokenizer = byte_level()
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if config is None:
        write_causal_base(folder, max_position_embeddings=128, **sizes)
    else:
        dropouts = {"hidden_dropout": 0.1, "attention_dropout": 0.0}
        write_causal_base(folder, config(**SIZES | sizes | dropouts))
    tokenizer.save_pretrained(folder)
    return folder


def pairs(rows: int, seed: int) -> list[dict[str, str]]:
    """Two words: the other way round is better than three others."""
    draw = random.Random(seed)
    words = [draw.sample([word for word in WORDS if word.isalpha()], 5) for _ in range(rows)]
    return [
        {"prompt": f"{first} {second}", "chosen": f"{second} {first}", "rejected": " ".join(rest)}
        for first, second, *rest in words
    ]


def tastes(rows: int, seed: int) -> list[dict[str, str]]:
    """Whatever is asked, kind words are better than unkind ones."""
    draw = random.Random(seed)
    return [
        {
            "prompt": f"the {draw.choice(('film', 'story'))} {draw.choice(('is', 'was'))}",
            "chosen": " ".join(draw.choices(("good", "great", "fine"), k=3)),
            "rejected": " ".join(draw.choices(("bad", "awful", "dull"), k=3)),
        }
        for _ in range(rows)
    ]


def feedback(rows: int, seed: int) -> list[dict[str, Any]]:
    return [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for pair in pairs(rows // 2, seed)
        for name in ("chosen", "rejected")
    ]


class Prepared:
    """A trainer of an adapter that is no identity, and one batch."""

    def __init__(
        self,
        base: Base,
        folder: Path,
        method: str = "lora",
        *,
        rows: Any = None,
        goes_on: bool = False,
        **options: Any,
    ) -> None:
        recipe, tokenizer = Prefer(), byte_level()
        self.data = recipe.read(rows or pairs(5, 0), **options)
        self.settings = recipe.resolve(tokenizer, self.data, max_length=64)
        self.encoded = recipe.encode(tokenizer, self.data, (), self.settings)
        adapter = {"rank": 4} if method == "lora" else {}
        self.adaptation = adapt(base, "text-generation", (), method, adapter)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.adaptation.model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        kind, arguments = recipe.training(tokenizer, self.settings, goes_on=goes_on)
        self.trainer: Any = kind(
            model=self.adaptation.model,
            rates=RATES,
            train_dataset=self.encoded.rows,
            data_collator=recipe.collator(tokenizer),
            args=arguments(output_dir=str(folder), bf16=False, use_cpu=True, report_to=[], remove_unused_columns=False),
        )  # fmt: skip
        self.batch = self.trainer.data_collator([dict(row) for row in self.encoded.rows])

    def naive(self) -> np.ndarray[Any, Any]:
        """[rows, 4] from passes of one sequence each: both answers with the adapter on, then both with it off."""
        model = self.adaptation.model.eval()
        found = []
        for row in self.encoded.rows:
            with torch.no_grad():
                own = [_likelihood(model, sequence) for sequence in sequences(row)]
                with model.disable_adapter():
                    found.append([*own, *(_likelihood(model, sequence) for sequence in sequences(row))])
        return np.array(found)


def _likelihood(model: Any, sequence: dict[str, list[int]]) -> float:
    ids = torch.tensor([sequence["input_ids"]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(ids[0]) : -1].double()
    labels = torch.tensor(sequence["labels"][1:])
    chosen = torch.log_softmax(logits, dim=-1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return float(chosen[labels != -100].sum())


def _paper(likelihoods: torch.Tensor, prepared: Prepared) -> float:
    """The objective as its paper has it."""
    settings = prepared.settings
    gain = likelihoods[:, :2] - likelihoods[:, 2:]
    beta = settings["beta"]
    if settings["objective"] == "kto":
        good = torch.tensor([row["good"] for row in prepared.encoded.rows])
        threshold = gain[:, 1].mean().clamp(min=0)
        value = torch.where(good, gain[:, 0] - threshold, threshold - gain[:, 0])
        weights = torch.where(good, settings["good_weight"], settings["bad_weight"])
        return float((weights * (1 - torch.sigmoid(beta * value))).mean())
    if settings["objective"] == "dpo-norm":
        lengths = [list(map(asked, sequences(row))) for row in prepared.encoded.rows]
        gain = gain / torch.tensor(lengths)
    margin, flipped = beta * (gain[:, 0] - gain[:, 1]), settings.get("label_smoothing", 0.0)
    robust = (1 - flipped) * -F.logsigmoid(margin) - flipped * -F.logsigmoid(-margin)
    return float((robust / (1 - 2 * flipped)).mean())


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("options", OBJECTIVES, ids=str)
def test_the_loss_of_a_step_is_the_papers_and_so_is_the_one_that_is_measured(
    causal_base: Path, options: dict[str, Any], method: str, tmp_path: Path
) -> None:
    prepared = Prepared(load_base(str(causal_base)), tmp_path, method, **options)
    naive = prepared.naive()
    expected = _paper(torch.tensor(naive), prepared)
    prepared.adaptation.model.train()
    loss = prepared.trainer.compute_loss(prepared.adaptation.model, prepared.batch)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)

    prepared.adaptation.model.eval()
    none, outputs, _ = prepared.trainer.prediction_step(prepared.adaptation.model, prepared.batch, False)
    assert none is None
    assert outputs.numpy() == pytest.approx(naive, rel=1e-5)
    measured = Prefer().measure(list(naive), prepared.data, prepared.encoded, ()).values()
    assert measured["loss"] == pytest.approx(expected, abs=1e-9)


def test_the_rarer_judgement_weighs_more_in_a_step_and_in_what_is_measured(
    causal_base: Path, tmp_path: Path
) -> None:
    judged = feedback(8, 0)
    rows = [row for row in judged if row["label"]] + [row for row in judged if not row["label"]][:2]
    prepared = Prepared(load_base(str(causal_base)), tmp_path, rows=rows)
    assert (prepared.settings["good_weight"], prepared.settings["bad_weight"]) == (1.0, 2.0)
    naive = prepared.naive()
    expected = _paper(torch.tensor(naive), prepared)
    loss = prepared.trainer.compute_loss(prepared.adaptation.model.train(), prepared.batch)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    measured = Prefer().measure(list(naive), prepared.data, prepared.encoded, ()).values()
    assert measured["loss"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("config", [None, GPTNeoXConfig])
def test_the_base_is_once_in_memory_and_given_back_as_it_was(config: Any, tmp_path: Path) -> None:
    base = load_base(str(write_base(tmp_path / "base", config)))
    # as of many bases, whose tokenizers say it
    base.model.config.pad_token_id = base.model.generation_config.pad_token_id = None
    before = _state(base)
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    prepared = Prepared(base, tmp_path / "run")
    model, trainer = prepared.adaptation.model, prepared.trainer
    assert isinstance(trainer, PreferenceTrainer)
    assert list(model.peft_config) == ["default"]
    assert vars(trainer)["ref_model"] is None
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == parameters + prepared.adaptation.trainable
    )
    assert all(
        parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad
    )
    if config is GPTNeoXConfig:  # a reference that is drawn anew at every pass is none
        assert 0.1 in {share for _, share in before["dropouts"]}
        model.train()
        losses = {float(trainer.compute_loss(model, prepared.batch).detach()) for _ in range(2)}
        assert len(losses) == 1
    trainer.args.max_steps = 1
    trainer.train()
    prepared.adaptation.release()
    assert _state(base) == before


def _state(base: Base) -> dict[str, Any]:
    return {
        "instance": {name for name in vars(base.model) if name in ("forward", "model_tags")},
        "padding": (base.model.config.pad_token_id, base.model.generation_config.pad_token_id),
        "dropouts": [(n, m.p) for n, m in base.model.named_modules() if isinstance(m, torch.nn.Dropout)],
        "weights": {name: float(value.double().sum()) for name, value in base.model.state_dict().items()},
    }


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_only_answers_and_their_end_count(template: str | None) -> None:
    recipe, tokenizer = Prefer(), byte_level()
    tokenizer.chat_template = template
    data = recipe.read(pairs(3, 0))
    encoded = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=256))
    assert encoded.supervised == encoded.targets
    assert encoded.truncated == 0
    for example, row in zip(data, encoded.rows, strict=True):
        for name, sequence in zip(("chosen", "rejected"), sequences(row), strict=True):
            counted = [label for label in sequence["labels"] if label != -100]
            before = sequence["input_ids"][: -len(counted)]
            assert tokenizer.decode(counted) == example.fields[name] + "</s>"
            assert example.fields["prompt"][0]["content"] in tokenizer.decode(before)
            assert str(tokenizer.decode(before)).endswith("assistant: " if template else "\n")


def test_conversations_are_written_by_the_chat_template() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    tokenizer.chat_template = None
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    data = recipe.read([{"prompt": prompt, "chosen": "So.", "rejected": "No."}])
    settings = recipe.resolve(tokenizer, data, max_length=256)
    with pytest.raises(
        InvalidSettings, match="data:row 1: the prompt is a conversation, and the base has no chat"
    ):
        recipe.encode(tokenizer, data, (), settings)
    tokenizer.chat_template = TEMPLATE
    (row,) = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=256)).rows
    text = "".join(f"<s>{role}: {content}</s>" for role, content in turns)
    assert tokenizer.decode(row["input_ids"]) == f"{text}<s>assistant: So.</s>"


ENDED = TEMPLATE.replace("}}</s>", "}}<unk>")
"""Ends turns with another token than the tokenizer's texts, as Gemma's and Phi's do; <unk> is special and stands for it."""


def test_an_answer_ends_as_the_template_ends_turns() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    tokenizer.chat_template = ENDED
    data = recipe.read(pairs(3, 0))
    settings = recipe.resolve(tokenizer, data, max_length=256)
    assert (settings["template"], settings["turn_end"]) == ("base", "<unk>")
    for row in recipe.encode(tokenizer, data, (), settings).rows:
        for sequence in sequences(row):
            assert tokenizer.convert_ids_to_tokens(sequence["labels"][-1]) == "<unk>"
            assert tokenizer.eos_token_id not in sequence["labels"]


def test_chatml_is_for_bases_without_a_template() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    data = recipe.read(pairs(3, 0), template="chatml")
    settings = recipe.resolve(tokenizer, data, max_length=256)
    assert (settings["template"], settings["turn_end"]) == ("chatml", "</s>")
    text = str(tokenizer.decode(recipe.encode(tokenizer, data, (), settings).rows[0]["input_ids"]))
    assert text.startswith("<|im_start|>user\n")
    assert "<|im_start|>assistant\n" in text


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_what_goes_on_from_an_adapter_is_held_against_it(
    causal_base: Path, objective: str, tmp_path: Path
) -> None:
    """The first loss is that of a policy equal to its reference, log 2 or one half; and the reference stays."""
    talk = [
        {"messages": [{"role": "user", "content": "ada"}, {"role": "assistant", "content": "good great"}]}
    ]
    first = train(
        "chat", talk * 8, base=str(causal_base), validation=False, max_steps=3, learning_rate=1e-2, max_length=64,
        answered=0, output=tmp_path / "chat", quiet=True,
    )  # fmt: skip
    assert first.artifact.manifest is not None
    result = train(
        "prefer", tastes(16, 0), start=first.artifact, base=str(causal_base), objective=objective, validation=tastes(6, 1),
        max_steps=4, eval_steps=2, batch_size=4, max_length=64, learning_rate=1e-2, optimizer="lora-fa",
        output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    losses = [entry["loss"] for entry in result.run.history if "loss" in entry]
    assert losses[0] == pytest.approx(float(np.log(2)) if objective == "dpo" else 0.5, abs=1e-4)
    assert losses[-1] < losses[0]
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (
        manifest.hyperparameters["template"]
        == "chatml"
        == first.artifact.manifest.hyperparameters["template"]
    )
    before, after = first.artifact.tensors(), result.artifact.tensors()
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("lora_A" in name)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_over_a_quantised_base_the_reference_is_the_adapter_to_the_bit(
    causal_base: Path, method: str, tmp_path: Path
) -> None:
    """And both are in float32, where TRL has bfloat16."""
    prepared = Prepared(load_base(str(causal_base), quantize="nf4"), tmp_path, method, goes_on=True)
    trained = [one.dtype for one in prepared.adaptation.model.parameters() if one.requires_grad]
    assert {*trained} == {torch.float32}
    loss = prepared.trainer.compute_loss(prepared.adaptation.model.train(), prepared.batch)
    assert float(loss.detach()) == pytest.approx(float(np.log(2)), abs=1e-6)


def test_a_prompt_as_the_base_reads_it_is_left_alone() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    tokenizer.chat_template = TEMPLATE
    row = {"prompt": "<s>user: Hi</s><s>assistant: ", "rendered": True, "chosen": "So.", "rejected": "No."}
    data = recipe.read([row])
    (encoded,) = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=256)).rows
    assert tokenizer.decode(encoded["other_input_ids"]) == f"{row['prompt']}No.</s>"


def test_what_does_not_fit_is_cut_and_counted_and_an_answer_always_stays() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    long = " ".join(["Ada was born in London"] * 9)
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": long},
        {"prompt": long, "chosen": "b", "rejected": f"c {long}"},
    ]
    data = recipe.read(rows)
    encoded = recipe.encode(tokenizer, data, (), {"max_length": 20})
    assert encoded.truncated == 2
    assert encoded.supervised < encoded.targets
    whole = recipe.encode(tokenizer, data, (), {"max_length": 999})
    for row, uncut in zip(encoded.rows, whole.rows, strict=True):
        for sequence, full in zip(sequences(row), sequences(uncut), strict=True):
            answer = [label for label in sequence["labels"] if label != -100]
            assert 0 < len(answer) <= len(sequence["input_ids"]) <= 20
            assert answer == [label for label in full["labels"] if label != -100][: len(answer)]
            prompt = full["input_ids"][: full["labels"].count(-100)]
            assert sequence["input_ids"] == [*prompt[-sequence["labels"].count(-100) :], *answer]
    assert sequences(encoded.rows[1])[0]["labels"].count(-100) == 10


def test_another_prompts_answer_stands_beside_a_judged_one() -> None:
    recipe, tokenizer = Prefer(), byte_level()
    data = recipe.read(feedback(12, 0))
    encoded = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=64))
    answers = {example.fields["answer"]: example.fields["prompt"] for example in data}
    for example, row in zip(data, encoded.rows, strict=True):
        second = [label for label in row["other_labels"] if label != -100]
        assert answers[str(tokenizer.decode(second)).removesuffix("</s>")] != example.fields["prompt"]
        assert row["good"] == example.fields["good"]


def test_the_objective_follows_the_data() -> None:
    recipe = Prefer()
    assert recipe.read(pairs(3, 0)).settings == {"objective": "dpo", "beta": 0.1, "label_smoothing": 0.0}
    assert recipe.read(feedback(4, 0)).settings == {"objective": "kto", "beta": 0.1}
    assert recipe.read([*pairs(3, 0), *feedback(4, 0)]).settings["objective"] == "kto"
    assert len(recipe.read(pairs(3, 0), objective="kto")) == 6
    with pytest.raises(
        InvalidData, match="data:row 3: an answer without another; dpo-norm learns from pairs"
    ):
        recipe.read([*pairs(2, 0), *feedback(4, 0)], objective="dpo-norm")
    good = recipe.read([row for row in feedback(6, 0) if row["label"]])
    with pytest.raises(InvalidData, match="data: every answer is good"):
        recipe.labels(good)


@pytest.mark.parametrize(("method", "objective"), [("lora", "dpo"), ("prefix", "dpo"), ("lora", "kto")])
def test_what_was_trained_is_served_measured_and_loads_in_peft(
    causal_base: Path, method: str, objective: str, tmp_path: Path
) -> None:
    data, test = pairs(24, 0), pairs(6, 1)
    result = train(
        "prefer", data, base=str(causal_base), test=test, method=method, objective=objective, max_steps=3,
        batch_size=4, max_length=64, learning_rate=1e-2, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.labels, manifest.recipe) == ("text-generation", None, "prefer")
    assert manifest.hyperparameters["objective"] == objective
    assert set(result.metrics["test"]) == {"reward_accuracy", "reward_margin", "loss"}
    assert not list((tmp_path / "run").rglob("tokenizer*"))
    assert not (tmp_path / "run" / "checkpoints" / "README.md").exists()

    again = evaluate(Artifact.read(tmp_path / "run" / "adapter"), test, objective=objective)
    assert again.metrics == result.metrics["test"]

    fresh = AutoModelForCausalLM.from_pretrained(causal_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(fresh, str(result.artifact.path)).eval()
    recipe = Prefer()
    read = recipe.read(test, objective=objective)
    encoded = recipe.encode(byte_level(), read, (), manifest.hyperparameters)
    found = []
    for row in encoded.rows:
        with torch.no_grad():
            own = [_likelihood(model, sequence) for sequence in sequences(row)]
            with model.disable_adapter():
                found.append(np.array([*own, *(_likelihood(model, sequence) for sequence in sequences(row))]))
    values = recipe.measure(found, read, encoded, ()).values()
    served = {name: estimate.value for name, estimate in result.metrics["test"].items()}
    assert values == pytest.approx(served, abs=1e-4)


@pytest.mark.parametrize("objective", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_it_learns_what_is_preferred(causal_base: Path, objective: str, tmp_path: Path) -> None:
    result = train(
        "prefer", tastes(40, 0), base=str(causal_base), test=tastes(20, 1), objective=objective, max_steps=12,
        batch_size=8, max_length=64, learning_rate=1e-2, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    accuracy = result.metrics["test"]["reward_accuracy"]
    assert accuracy.low > 0.6
    assert result.metrics["test"]["reward_margin"].low > 0
    history = result.run.history
    best = max(entry["eval_reward_accuracy"] for entry in history if "eval_loss" in entry)
    assert result.metrics["validation"]["reward_accuracy"].value == pytest.approx(best)


@pytest.mark.parametrize("objective", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_interrupted_and_resumed_is_bit_for_bit_the_unbroken_run(
    causal_base: Path, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(output: Path, **more: Any) -> Any:
        settings: dict[str, Any] = {
            "max_steps": 6,
            "eval_steps": 2,
            "batch_size": 4,
            "dropout": 0.1,
            "lora_plus_ratio": 4,
        }
        return train(
            "prefer", pairs(16, 0), base=str(causal_base), objective=objective, max_length=64, seed=7,
            output=output, quiet=True, **settings, **more,
        )  # fmt: skip

    straight = run(tmp_path / "straight")
    stop = type("Stop", (SignalAt,), {"step": 3, "number": signal.SIGINT})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopAtStep", stop)
        with pytest.raises(TrainingInterrupted, match="at step 3 of 6"):
            run(tmp_path / "run")
    resumed = run(tmp_path / "run", resume=True)
    weights = "adapter_model.safetensors"
    assert resumed.artifact.files[weights] == straight.artifact.files[weights]
    assert resumed.run.history == straight.run.history


def test_an_adapter_is_measured_on_judgements_of_the_other_kind_but_for_the_loss(
    causal_base: Path, tmp_path: Path
) -> None:
    result = train(
        "prefer", pairs(16, 0), base=str(causal_base), validation=False, max_steps=1, batch_size=4, max_length=64,
        output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert set(evaluate(result.artifact, feedback(8, 1)).metrics) == {"reward_accuracy", "reward_margin"}


def test_merged_it_is_held_against_the_base_as_it_was(causal_base: Path, tmp_path: Path) -> None:
    result = train(
        "prefer", tastes(16, 0), base=str(causal_base), validation=False, max_steps=3, batch_size=4, max_length=64,
        learning_rate=1e-2, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    merged = certify(result.artifact, tastes(6, 1), forms=["merged"]).certificates["merged"]
    own = evaluate(result.artifact, tastes(6, 1)).metrics["reward_margin"]
    assert own.value > 0.01
    assert merged.metrics["reward_margin"].value == pytest.approx(own.value, rel=1e-3)


@pytest.mark.parametrize("method", ["dora", "ia3", "prompt", "lora-fa"])
def test_other_methods_learn_what_they_learn_elsewhere(
    causal_base: Path, method: str, tmp_path: Path
) -> None:
    chosen: dict[str, Any] = {"optimizer": "lora-fa"} if method == "lora-fa" else {"method": method}
    result = train(
        "prefer", tastes(16, 0), base=str(causal_base), validation=False, max_steps=3, batch_size=4, max_length=64,
        output=tmp_path / "run", quiet=True, **chosen,
    )  # fmt: skip
    assert result.run.state == "finished"


@pytest.mark.parametrize("what", [plan, train])
def test_batches_of_one_answer_are_refused_before_a_base_is_looked_for(what: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"kto compares the answers of a batch, and batch_size is 1"):
        what("prefer", feedback(24, 0), base="nowhere/at-all", batch_size=1)
    with pytest.raises(InvalidSettings, match=r"kto compares the answers"):
        what("prefer", pairs(24, 0), base="nowhere/at-all", batch_size=1, objective="kto")


def test_a_plan_says_why(causal_base: Path) -> None:
    planned = plan("prefer", pairs(24, 0), base=str(causal_base), max_length=64, beta=0.2)
    assert planned.settings["beta"] == 0.2
    assert "beta" not in planned.reasons
    assert planned.reasons["objective"] == "the data are pairs"
    assert planned.settings["learning_rate"] == 1.4e-4
    assert planned.reasons["learning_rate"].startswith("a tenth of what supervised tuning takes")
    assert "5e-05 there, and for this one's" in planned.reasons["learning_rate"]
    assert planned.reasons["label_smoothing"]
    assert {row[1] for row in planned.samples[0].rows} == {"", "learnt"}


def test_from_data_to_a_served_adapter(causal_base: Path, tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    result = train(
        "prefer", pairs(16, 0), base=str(causal_base), max_steps=2, batch_size=4, max_length=64,
        learning_rate=1e-1, output=tmp_path / "run", quiet=True, hub=hub, name="acme/polite", push=True, alias="prod",
    )  # fmt: skip
    pulled = hub.pull("acme/polite@prod")
    assert pulled.digest == result.artifact.digest
    with Runtime(load_base(str(causal_base)), hub=hub) as runtime:
        tuned, plain = (
            runtime.generate(["ada bob"], name, max_new_tokens=8)[0] for name in ("acme/polite@prod", None)
        )
    assert tuned.text != plain.text


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["preferences", "feedback"])
def test_a_real_base_learns_from_real_judgements(sample: str, tmp_path: Path) -> None:
    data = fetch(sample)
    result = train(
        "prefer", data / "train.jsonl", base="package:smollm2-135m", validation=False, test=data / "test.jsonl",
        max_steps=2, batch_size=2, max_length=128, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert result.metrics["test"]["reward_accuracy"].n == len((data / "test.jsonl").read_text().splitlines())
    assert all("loss" in entry for entry in result.run.history[:2])
    assert evaluate(result.artifact, data / "test.jsonl").metrics == result.metrics["test"]


@pytest.mark.filterwarnings("error:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_training_warns_of_nothing_that_users_could_change(
    causal_base: Path, objective: str, tmp_path: Path
) -> None:
    train(
        "prefer", pairs(16, 0), base=str(causal_base), objective=objective, max_length=64, max_steps=1, batch_size=4,
        output=tmp_path / "run", quiet=True,
    )  # fmt: skip
