"""Texts of encoder-decoders, learnt: what was trained is served, measured as served, and loads in plain PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.embedded import EmbeddedHub
from adapthub.recipes import completions, evaluate, plan, train
from adapthub.recipes.summarize import Summarize
from adapthub.runtime import Runtime
from adapthub.runtime.instructions import all_read_ids
from tests.recipes.test_translate import pairs
from tests.recipes.tokenizer_kinds import sentencepiece


def write_base(folder: Path, family: str) -> Path:
    """A random T5 or BART of 2 + 2 layers of 32."""
    tokenizer = sentencepiece()
    torch.manual_seed(0)
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "d_model": 32,
    }
    if family == "t5":
        sizes = {"d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "initializer_factor": 1.5}
        config = cast(Any, T5Config)(**ids, **sizes, decoder_start_token_id=tokenizer.pad_token_id)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    else:
        sizes = {
            f"{part}_{name}": size
            for part in ("encoder", "decoder")
            for name, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))
        }
        ids |= {"bos_token_id": tokenizer.bos_token_id, "decoder_start_token_id": tokenizer.eos_token_id}
        config = cast(Any, BartConfig)(**ids, **sizes, max_position_embeddings=96, forced_eos_token_id=None)
        BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoder-decoders")
    return {family: write_base(folder / family, family) for family in ("t5", "bart")}


def test_the_encoder_reads_the_prompt_and_the_decoder_the_target() -> None:
    recipe, tokenizer = Summarize(), sentencepiece()
    rows = [
        {"text": "Ada was born in London", "summary": "Ada"},
        {"text": "Bob " * 30, "summary": "Bob " * 30},
    ]
    data = recipe.read(rows)
    settings = {**recipe.resolve(tokenizer, data, max_length=20), **recipe.decoding_from(1)}
    encoded = recipe.encode(tokenizer, data, (), settings)
    first, second = encoded.rows
    assert first["input_ids"] == tokenizer("Summarize: Ada was born in London")["input_ids"]
    assert first["labels"] == tokenizer("Ada")["input_ids"]
    assert first["labels"][-1] == tokenizer.eos_token_id
    for row in encoded.rows:
        assert row["decoder_input_ids"] == [1, *row["labels"][:-1]]
    assert len(second["input_ids"]) == len(second["labels"]) == 20
    assert second["input_ids"][-1] == tokenizer.eos_token_id != second["labels"][-1]
    assert encoded.truncated == 1
    assert encoded.supervised == len(first["labels"]) + 20 < encoded.targets
    preview = recipe.preview(tokenizer, data, encoded, (), 0)
    assert [cells[1] for cells in preview.rows] == [""] * len(first["input_ids"]) + ["learnt"] * len(
        first["labels"]
    )


def test_only_prompts_that_are_cut_are_tokenised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def tell(tokenizer: Any, prompts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        told.extend(prompts)
        return all_read_ids(tokenizer, prompts, max_length)

    monkeypatch.setattr(completions, "all_read_ids", tell)
    short, long = "Ada was born", "Bob " * 30
    completions.encode_sequences(sentencepiece(), [short, long], ["Ada", "Bob"], max_length=20, start=1)
    assert told == [short, long, long]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("t5", "lora"),
        pytest.param("t5", "dora", marks=pytest.mark.slow),
        pytest.param("t5", "ia3", marks=pytest.mark.slow),
        ("bart", "lora"),
    ],
)
def test_what_was_trained_is_served_measured_and_loads_in_peft(
    bases: dict[str, Path], family: str, method: str, tmp_path: Path
) -> None:
    base, hub = bases[family], EmbeddedHub(tmp_path / "hub")
    # More than the base reads; and what it reads, but without room for as long an answer as there may be.
    long = [{"source": "ada " * count, "target": "ada"} for count in (1200, 200, 18)]
    test = [*pairs(5, 1), *long]
    result = train(
        "translate", pairs(24, 0), base=str(base), validation=pairs(4, 2), test=test, method=method, max_steps=6,
        batch_size=8, gradient_accumulation=2, max_length=48, learning_rate=1e-2, output=tmp_path / "run", quiet=True,
        hub=hub, name="acme/turn", push=True,
    )  # fmt: skip
    assert result.artifact.config["task_type"] == "SEQ_2_SEQ_LM"
    assert "AutoModelForSeq2SeqLM.from_pretrained(" in (result.artifact.path / "README.md").read_text()
    losses = [entry["loss"] for entry in result.run.history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert evaluate(result.artifact, test).metrics == result.metrics["test"]

    tokenizer = sentencepiece()
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(plain, str(result.artifact.path)).eval()
    total = count = 0.0
    for pair in test:
        inputs = tokenizer(
            f"Translate: {pair['source']}", return_tensors="pt", truncation=True, max_length=48
        )
        labels = tokenizer(pair["target"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model(input_ids=inputs["input_ids"], labels=labels).loss
        total, count = total + float(loss) * labels.shape[1], count + labels.shape[1]
    assert result.metrics["test"]["loss"].value == pytest.approx(total / count, rel=1e-4)

    prompts = [f"Translate: {pair['source']}" for pair in pairs(5, 1)]
    with Runtime(str(base), hub=hub) as runtime:
        instruction = runtime.instruction("acme/turn")
        assert instruction is not None
        asked = [instruction.prompt_ids(tokenizer, pair["source"]) for pair in pairs(5, 1)]
        assert asked == [tokenizer(prompt)["input_ids"] for prompt in prompts]
        mixed = ["acme/turn", None, "acme/turn", "acme/turn", None]
        found = runtime.generate(asked, mixed, max_new_tokens=8)
    bare: Any = AutoModelForSeq2SeqLM.from_pretrained(base).eval()
    for prompt, name, one in zip(prompts, mixed, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        theirs = (model if name else bare).generate(
            input_ids=ids, max_new_tokens=8, do_sample=False, num_beams=1
        )
        assert one.token_ids == theirs[0].tolist()[1:]


def test_a_plan_and_what_is_not_learnt_on_such_bases(bases: dict[str, Path]) -> None:
    rows = [{"text": f"ada bob {row}", "summary": "ada"} for row in range(12)]
    planned = plan("summarize", rows, base=str(bases["t5"]), max_length=32)
    assert {row[1] for row in planned.samples[0].rows} == {"", "learnt"}
    talk = [{"prompt": f"Who {row}?", "completion": "Ada."} for row in range(12)]
    with pytest.raises(InvalidSettings, match="chat learns on bases that go on with a text"):
        plan("chat", talk, base=str(bases["t5"]), template="chatml", max_length=32)
