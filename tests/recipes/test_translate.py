"""A recipe that generates, from pairs of texts to an adapter that is served as it was trained."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import Plan, evaluate, plan, train
from adapthub.recipes.completions import encode_completions, longest_target, target_ids
from adapthub.recipes.job import prepare
from adapthub.recipes.paired import differences
from adapthub.recipes.recipe import lengths_of
from adapthub.recipes.text_metrics import bleu_tokenizer, summary_statistics, translation_statistics
from adapthub.recipes.translate import Translate
from adapthub.recipes.trial import last_measure
from adapthub.recipes.warm_start import Parent
from adapthub.runtime import Runtime
from adapthub.runtime.instructions import prompt_ids
from tests.adapters.causal_pass import write_causal_base
from tests.conftest import WORDS
from tests.recipes.tokenizer_kinds import byte_level

PAIRS = [{"source": "Ada was born", "target": "Bob"}, {"source": "Paris", "target": "Ada met Bob in Paris"}]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal") / "llama"
    tokenizer = byte_level()
    write_causal_base(
        folder, vocab_size=len(tokenizer), max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id
    )
    tokenizer.save_pretrained(folder)
    return folder


def pairs(rows: int, seed: int) -> list[dict[str, str]]:
    """Two words, and the same the other way round."""
    draw = random.Random(seed)
    words = [draw.sample([word for word in WORDS if word.isalpha()], 2) for _ in range(rows)]
    return [{"source": f"{first} {second}", "target": f"{second} {first}"} for first, second in words]


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_only_the_target_and_its_end_are_learnt(template: str | None) -> None:
    recipe, tokenizer = Translate(), byte_level()
    tokenizer.chat_template = template
    data = recipe.read(PAIRS, prompt="To German: {source}")
    settings = recipe.resolve(tokenizer, data, max_length=256)
    encoded = recipe.encode(tokenizer, data, (), settings)
    for pair, row in zip(PAIRS, encoded.rows, strict=True):
        learnt = [label for label in row["labels"] if label != -100]
        before = row["input_ids"][: len(row["input_ids"]) - len(learnt)]
        assert tokenizer.decode(learnt) == pair["target"] + "</s>"
        assert row["input_ids"][len(before) :] == learnt
        assert f"To German: {pair['source']}" in tokenizer.decode(before)
        assert str(tokenizer.decode(before)).endswith("assistant: " if template else "\n")
    assert (
        encoded.supervised == encoded.targets == sum(len(target_ids(tokenizer, p["target"])) for p in PAIRS)
    )
    assert settings["max_new_tokens"] >= max(len(target_ids(tokenizer, pair["target"])) for pair in PAIRS)


def test_many_texts_are_tokenised_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer keeps more of each text than its ids."""
    tokenizer, told = byte_level(), list[int]()
    real = type(tokenizer).__call__

    def tell(self: Any, texts: list[str], **how: Any) -> Any:
        told.append(len(texts))
        return real(self, texts, **how)

    texts = ["Ada was born", "Bob"] * 1_100
    expected = encode_completions(tokenizer, texts[:2], texts[:2], max_length=64).rows
    monkeypatch.setattr(type(tokenizer), "__call__", tell)
    encoded = encode_completions(tokenizer, texts, texts, max_length=64)
    assert encoded.rows == [*expected] * 1_100
    assert max(told) <= 1_000
    assert encode_completions(tokenizer, [], [], max_length=64).rows == []


def test_the_longest_answer_is_looked_for_all_over_the_data() -> None:
    tokenizer = byte_level()
    texts = ["Ada"] * 25_000
    texts[24_999] = "Ada met Bob " * 20  # every third is looked at
    read = Translate().read([{"source": "Ada", "target": text} for text in texts])
    found = longest_target(tokenizer, read, lambda example: str(example.fields["target"]))
    assert found == len(tokenizer(texts[24_999], add_special_tokens=False)["input_ids"]) * 3 // 2
    few = longest_target(tokenizer, read.select(range(3)), lambda example: str(example.fields["target"]))
    assert few == 16


def test_a_target_ends_as_the_template_ends_turns(causal_base: Path, tmp_path: Path) -> None:
    """As with Gemma and Phi, whose tokenizers end texts otherwise; <unk> is special and stands for such a token."""
    recipe, tokenizer = Translate(), byte_level()
    tokenizer.chat_template = TEMPLATE.replace("}}</s>", "}}<unk>")
    data = recipe.read(PAIRS)
    settings = recipe.resolve(tokenizer, data, max_length=256)
    assert settings["turn_end"] == "<unk>"
    ended = tokenizer.convert_tokens_to_ids("<unk>")
    assert all(row["labels"][-1] == ended for row in recipe.encode(tokenizer, data, (), settings).rows)

    base = tmp_path / "base"
    shutil.copytree(causal_base, base)
    tokenizer.save_pretrained(base)
    result = train(
        "translate", pairs(24, 0), base=str(base), validation=pairs(4, 1), max_steps=25, batch_size=8, max_length=64,
        learning_rate=2e-2, output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    parent, options = Parent(result.artifact, "acme/turn", "acme/turn"), recipe.options
    assert parent.asked_as("translate", options, {"prompt": None}) == {"prompt": "Translate: {source}"}
    assert parent.asked_as("translate", options, {"prompt": "{source}"}) == {"prompt": "{source}"}
    assert parent.asked_as("summarize", options, {}) == {}
    with Runtime(str(base)) as runtime:
        instruction = runtime.instruction(result.artifact.path)
        assert instruction is not None
        ends = instruction.style.ends(tokenizer)
        assert ends == [ended]
        prompt = instruction.prompt_ids(tokenizer, "ada bob")
        (found,) = runtime.generate(
            [prompt], str(result.artifact.path), max_new_tokens=60, stop_token_ids=ends
        )
        assert found.finish_reason == "stop"


def test_what_does_not_fit_is_cut_at_the_end_and_counted() -> None:
    recipe, tokenizer = Translate(), byte_level()
    data = recipe.read(PAIRS)
    length = len(prompt_ids(tokenizer, "Translate: Paris")) + 2
    encoded = recipe.encode(tokenizer, data, (), {**recipe.resolve(tokenizer, data, max_length=length)})
    assert [len(row["input_ids"]) for row in encoded.rows] == [length, length]
    assert encoded.truncated == 2
    assert encoded.supervised < encoded.targets


def test_bad_input_is_named(tmp_path: Path) -> None:
    recipe = Translate()
    with pytest.raises(InvalidSettings, match="has no {source}"):
        recipe.read(PAIRS, prompt="Translate")
    wrong: list[Any] = ["many", 12.7, "12.7", -1, True, [3]]
    for answered in wrong:
        with pytest.raises(InvalidSettings, match=r"is no number of examples\. Give a whole number from 0"):
            recipe.read(PAIRS, answered=answered)
    assert recipe.read(PAIRS, answered="3").settings["answered"] == 3
    with pytest.raises(InvalidData, match=r"data:row 2: the target in column 'target' is empty"):
        recipe.read([PAIRS[0], {"source": "a", "target": " "}])
    with pytest.raises(InvalidData, match="no target column"):
        recipe.read([{"source": "a"}])


def test_texts_by_their_language_are_columns(tmp_path: Path) -> None:
    """As in the Hub's sets of translations."""
    rows = [{"id": at, "translation": {"en": f"one {at}", "de": f"eins {at}"}} for at in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for source in (rows, tmp_path / "a.parquet", tmp_path / "a.json"):
        data = Translate().read(source, source_column="en", target_column="de")
        assert [dict(example.fields) for example in data] == [
            {"source": "one 0", "target": "eins 0"},
            {"source": "one 1", "target": "eins 1"},
        ]
    with pytest.raises(
        InvalidData, match="no source column .* the columns are 'en', 'de', 'id'. Set source_column"
    ):
        Translate().read(rows)
    with pytest.raises(InvalidData, match="data:row 2: the target in column 'de' is empty"):
        Translate().read([rows[0], {"translation": {"en": "one"}}], source_column="en", target_column="de")
    text = [{"source": "one", "translation": "eins"}]
    assert dict(Translate().read(text)[0].fields) == {"source": "one", "target": "eins"}


def test_one_column_is_no_pair() -> None:
    with pytest.raises(
        InvalidSettings, match="source_column and target_column are both 'source'. Name two columns"
    ):
        Translate().read(PAIRS, target_column="source")


def test_a_row_that_does_not_fit_costs_its_own_text_alone(causal_base: Path, tmp_path: Path) -> None:
    """One leaves no room for an answer, one less than max_new_tokens: 128 positions."""
    rows = [
        {"source": "ada met bob in london " * 40, "target": "bob"},
        {"source": " ".join(["ada"] * 30), "target": "bob"},
        *pairs(2, seed=1),
    ]
    result = train(
        "translate",
        pairs(12, seed=0),
        validation=rows,
        base=str(causal_base),
        output=tmp_path / "run",
        max_steps=1,
        max_length=100,
        quiet=True,
    )
    assert result.metrics["validation"]["chrf"].n == 4


def test_metrics_are_sacrebleus() -> None:
    import numpy as np
    import sacrebleu

    texts = ["the cat sat on the mat", "a dog", "it rains in spain today"]
    references = ["the cat sat on a mat", "a big dog", "it rains in spain"]
    losses = [np.array([1.0, 2.0]), np.array([3.0]), np.array([])]
    statistics = translation_statistics(texts, references, losses)
    values = statistics.values()
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)
    assert values["loss"] == pytest.approx(2.0)
    assert statistics.estimates(resamples=20)["bleu"].n == 3


def test_metrics_are_of_the_texts_that_were_asked_for() -> None:
    import numpy as np
    import sacrebleu

    texts = ["the cat sat on the mat", "", "it rains in spain today", ""]
    references = ["the cat sat on a mat", "a big dog", "it rains in spain", "so it is"]
    losses = [np.array([1.0, 2.0]), np.array([3.0]), np.array([]), np.array([6.0])]
    some, wanted = [texts[0], texts[2]], [references[0], references[2]]
    translation = translation_statistics(texts, references, losses, [0, 2])
    found, alone = translation.estimates(), translation_statistics(some, wanted, losses[:2]).estimates()
    assert found["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(some, [wanted]).score)
    assert found["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(some, [wanted]).score)
    summaries = summary_statistics(texts, references, losses, [0, 2])
    found |= summaries.estimates()
    alone |= summary_statistics(some, wanted, losses[:2]).estimates()
    assert found["loss"].value == pytest.approx(3.0)
    assert found["loss"].n == 4
    for name in ("bleu", "chrf", "rouge1", "rougeL", "rougeLsum"):
        assert found[name].n == 2
        # Draws without any of the two define nothing, and are left out.
        assert (found[name].low, found[name].high) == pytest.approx((alone[name].low, alone[name].high))
        both = differences(*2 * [translation if name in ("bleu", "chrf") else summaries])[name]
        assert (both.n, both.low, both.high) == (2, 0, 0)
    for measure in (translation_statistics, summary_statistics):
        assert measure(texts, references, losses, []).values() == {"loss": 3.0}


def test_chinese_references_are_cut_into_characters() -> None:
    import numpy as np
    import sacrebleu

    texts, references = ["今天天气很好我们去公园"], ["今天天气真好我们去公园"]
    values = translation_statistics(texts, references, [np.zeros(1)]).values()
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score)
    assert values["bleu"] > 10


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (["the cat sat", "日本"], "13a"),
        (["나는 학교에 간다"], "13a"),
        (["今天天气真好我们去公园", "他说 OK"], "zh"),
        (["今日はとても良い天気ですね", "私は学生です"], "char"),
        (["ฉันชอบอ่านหนังสือ"], "char"),
        ([""], "13a"),
    ],
)
def test_bleu_cuts_words_as_the_script_has_them(references: list[str], tokenizer: str) -> None:
    assert bleu_tokenizer(references) == tokenizer


def test_rouge_is_rouge_scores_on_english_and_knows_other_scripts() -> None:
    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    texts = ["The cat sat on the mat.\nIt slept.", "A dog barks loudly at night"]
    references = ["it slept\nthe cat lay on a mat", "dogs bark at night"]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    theirs = [RougeScorer(kinds).score(*pair) for pair in zip(references, texts, strict=True)]
    values = summary_statistics(texts, references, [np.ones(2), np.zeros(1)]).values()
    for kind in kinds:
        assert values[kind] == pytest.approx(np.mean([score[kind].fmeasure for score in theirs]))
    assert values["rougeLsum"] > values["rougeL"]
    assert values["loss"] == pytest.approx(2 / 3)
    same = summary_statistics(
        ["Привет, мир", "天气很好"], ["привет мир", "天气真好"], [np.zeros(1)] * 2
    ).values()
    assert same["rouge1"] == pytest.approx((1 + 3 / 4) / 2)


@pytest.mark.parametrize(
    "method", ["lora", "prefix", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ia3", "prompt"))]
)
def test_what_was_trained_is_served_measured_and_loads_in_peft(
    causal_base: Path, method: str, tmp_path: Path
) -> None:
    data, test = pairs(24, 0), pairs(6, 1)
    settings: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "max_length": 64, "prompt": "Turn: {source}"}
    notes: list[str] = []
    result = train(
        "translate", data, base=str(causal_base), test=test, method=method, output=tmp_path / "run", quiet=True,
        answered=4, report=notes.append, **settings,
    )  # fmt: skip
    said = "texts of 4 of 6 rows are written and measured (answered), the loss of all"
    assert f"test: {said}" in notes
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.labels, manifest.recipe) == ("text-generation", None, "translate")
    assert manifest.hyperparameters["prompt"] == "Turn: {source}"
    assert "head_learning_rate" not in manifest.hyperparameters
    assert set(result.metrics) == {"validation", "test"}
    assert set(result.metrics["test"]) == {"chrf", "bleu", "loss"}

    assert {name: found.n for name, found in result.metrics["test"].items()} == {
        "chrf": 4,
        "bleu": 4,
        "loss": 6,
    }
    again = evaluate(Artifact.read(tmp_path / "run" / "adapter"), test, answered=4)
    assert again.metrics == result.metrics["test"]
    assert again.notes == (said,)

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(causal_base, dtype=torch.float32), str(result.artifact.path)
    ).eval()
    recipe, tokenizer = Translate(), byte_level()
    with Runtime(str(causal_base)) as runtime:
        every, some = (
            recipe.answers(
                runtime, str(result.artifact.path), recipe.read(test, answered=rows), manifest.hyperparameters
            )
            for rows in (6, 4)
        )
    assert some == [text if at in (0, 1, 3, 4) else "" for at, text in enumerate(every)]
    encoded = recipe.encode(tokenizer, recipe.read(test), (), manifest.hyperparameters)
    total = count = 0.0
    for row in encoded.rows:
        with torch.inference_mode():
            batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
            learnt = sum(label != -100 for label in row["labels"])
            total += float(model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).loss) * learnt
            count += learnt
    assert result.metrics["test"]["loss"].value == pytest.approx(total / count, rel=1e-4)


def test_a_base_without_a_language_model_head_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"no language-model head|no end token"):
        train("translate", pairs(24, 0), base=str(tiny_base), output=tmp_path / "run", quiet=True)


def test_what_is_looked_at_during_training_is_bounded_by_its_cost_and_said(causal_base: Path) -> None:
    def planned(rows: int, **settings: Any) -> Plan:
        data, validation = pairs(24, 0), pairs(rows, 1)
        return plan(
            "translate", data, base=str(causal_base), validation=validation, max_length=64, **settings
        )

    bounded = planned(200, max_steps=60, batch_size=1)
    assert bounded.settings["eval_rows"] == 64
    assert (
        "validation: every 12 steps 64 of 200 rows are looked at, the same each time; fewer would take less time, and"
        " tell too little (eval_rows); at the end all are"
    ) in bounded.notes
    assert "quarter" in bounded.reasons["eval_rows"]
    dear = planned(200, max_steps=5, batch_size=160)
    assert (
        "validation: every 1 steps 80 of 200 rows are looked at, the same each time, which takes about a quarter of the time"
        " of these steps (eval_rows); at the end all are"
    ) in dear.notes
    assert dear.settings["eval_rows"] == 80
    for other in (planned(64, max_steps=50), planned(200, max_steps=50, eval_rows=200)):
        assert not any("looked at" in note for note in other.notes)


def test_how_many_texts_are_written_at_the_end_is_bounded_and_said(causal_base: Path) -> None:
    def planned(**settings: Any) -> Plan:
        return plan(
            "translate",
            pairs(24, 0),
            base=str(causal_base),
            validation=pairs(200, 1),
            max_length=64,
            **settings,
        )

    bounded, chosen = planned(), planned(answered=5)
    note = "validation: texts of {} of 200 rows are written and measured (answered), the loss of all"
    assert bounded.settings["answered"] == 128
    assert "longest" in bounded.reasons["answered"]
    assert note.format(128) in bounded.notes
    assert "answered" not in chosen.reasons
    assert note.format(5) in chosen.notes
    assert not any("texts of" in text for text in planned(answered=200).notes)


def test_time_counts_the_texts_that_are_written(causal_base: Path) -> None:
    job = prepare(
        "translate", pairs(24, 0), base=str(causal_base), quantize=None, method=None, validation=pairs(200, 1),
        test=pairs(300, 2), seed=0, given={"max_length": 64},
    )  # fmt: skip
    splits = job.splits
    tried = replace(job, splits={"train": splits["train"], "validation": splits["validation"].some(32)})
    tokens = [
        int(lengths_of(split.encoded.rows).sum())
        for split in (splits["validation"], splits["test"], tried.splits["validation"])
    ]
    reading, writing = 2.0 * (tokens[0] + tokens[1]) / tokens[2], 8.0 * (128 + 128) / 32
    assert last_measure(job, tried, 2.0, 10.0) == pytest.approx(reading + writing)
    alone = replace(job, splits={"train": splits["train"]})
    assert last_measure(alone, tried, 2.0, 10.0) == 0


def test_a_plan_says_what_is_learnt(causal_base: Path) -> None:
    planned = plan("translate", pairs(24, 0), base=str(causal_base), max_length=64)
    assert planned.labels == ()
    assert planned.trainable > 0
    assert "head_learning_rate" not in planned.settings
    assert {row[1] for row in planned.samples[0].rows} == {"", "learnt"}
