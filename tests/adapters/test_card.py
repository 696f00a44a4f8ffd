"""The card: metadata that the Hub's own classes read, nothing that is not recorded, and code that runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from adapthub.adapters.artifact import write_artifact
from adapthub.adapters.card import card
from adapthub.adapters.manifest import Manifest
from adapthub.adapters.methods import method_config
from tests.adapters.saves import LABELS, manifest, peft_as_it_is
from tests.conftest import write_tokenizer

CLASSES: dict[str, Any] = {
    "token-classification": AutoModelForTokenClassification,
    "text-classification": AutoModelForSequenceClassification,
    "text-generation": AutoModelForCausalLM,
}


def test_metadata_as_the_hub_reads_it() -> None:
    data = _metadata(
        card(manifest(), name="acme/ner", language=["en"], datasets=["conll2003"], license="mit")
    )
    assert data.base_model == "acme/base"
    assert data.base_model_relation == "adapter"
    assert data.library_name == "peft"
    assert data.pipeline_tag == "token-classification"
    assert data.tags == ["adapthub", "lora", "base_model:adapter:acme/base"]
    assert (data.language, data.datasets, data.license) == (["en"], ["conll2003"], "mit")
    assert data.model_name == "acme/ner"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("f1", 0.5, "test")
    assert result.dataset_name == "test.conll"
    assert "95 % 0.2500 to 0.7500, n = 12" in result.metric_name


@pytest.mark.parametrize("reference", ["package:minilm", "/srv/models/base", "./base", "here"])
def test_a_base_that_is_not_on_the_hub_is_not_claimed_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    base = manifest().base.model_copy(update={"id": reference})
    text = card(manifest(base=base), name="x")
    assert _metadata(text).base_model is None
    assert "base_model" not in text
    assert reference in text


def test_what_it_says_is_what_is_recorded() -> None:
    text = card(manifest(quantization="nf4"), name="acme/ner")
    for part in ("trained over it in nf4", "`B-PER`", "| seed | 7 |", "| rank | 16 |", "test.conll, 12 rows"):
        assert part in text
    assert "| test | f1 | 0.5000 | 0.2500 to 0.7500 | 12 |" in text
    assert manifest().base.fingerprint.digest in text
    assert text.endswith("\n")
    bare = card(Manifest(task=None, method="lora", base=manifest().base), name="x")
    assert "## Results" not in bare
    assert "None" not in bare
    assert _metadata(bare).eval_results is None


def test_recorded_text_cannot_break_the_page() -> None:
    hostile = "x|y`z```\n# title"
    text = card(manifest(labels=(hostile,), hyperparameters={hostile: hostile}), name="a\n---\nb")
    assert "\n# title" not in text.split("```python")[0]
    assert text.count("\n# ") == 1
    assert all(
        line.count("|") - line.count("\\|") == 3 for line in text.splitlines() if line.startswith("| x\\|y")
    )
    assert _metadata(text).model_name == "a\n---\nb"
    compile(_code(text, "PEFT alone"), "card", "exec")


def _metadata(text: str) -> Any:
    return ModelCard(text).data


def _code(text: str, section: str) -> str:
    found = re.search(rf"## With {section}\n\n```python\n(.*?)\n```\n", text, re.DOTALL)
    assert found is not None
    return found[1]


def tiny_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=160
        )
    ).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_the_code_for_plain_peft_runs_and_computes_what_was_trained(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any, method: str
) -> None:
    base = tiny_llama(tmp_path / "llama") if task == "text-generation" else tiny_base
    labels = None if task == "text-generation" else LABELS
    torch.manual_seed(3)
    plain = CLASSES[task].from_pretrained(base, **({"num_labels": 3} if labels else {}))
    config = method_config(method, task, modules_to_save=["classifier"] if labels else [])
    with peft_as_it_is():
        model = get_peft_model(plain, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    record = manifest(
        task=task, labels=labels, method=method, base=manifest().base.model_copy(update={"id": str(base)})
    )
    text = card(record, name="acme/x")
    write_artifact(tmp_path / "a", peft_model=model, manifest=record, card=text)

    monkeypatch.chdir(tmp_path / "a")
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed), peft_as_it_is():
        exec(_code(text, "PEFT alone"), names)
    inputs = AutoTokenizer.from_pretrained(base)("some text.", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(names["model"](**inputs).logits, model(**inputs).logits)
    assert printed.getvalue().strip()


def test_the_code_for_adapthub_compiles_and_names_the_base() -> None:
    code = _code(card(manifest(quantization="int8"), name="acme/ner"), "AdaptHub")
    compile(code, "card", "exec")
    assert "Runtime('acme/base', quantize='int8')" in code
    assert "'acme/ner'" in code
    assert "predict" in code
    assert "generate" in _code(card(manifest(task="text-generation", labels=None), name="x"), "AdaptHub")
