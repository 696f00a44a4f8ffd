"""A tiny random BERT under real PEFT adapters, and a manifest that fits them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import BertConfig, BertForTokenClassification

from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.manifest import BaseRecord, DataRecord, Manifest, Metric
from adapthub.adapters.methods import method_config

LABELS = ("O", "B-PER", "I-PER")
METHODS = ("lora", "rslora", "dora", "prefix")


def token_classifier() -> BertForTokenClassification:
    """A 2-layer BertForTokenClassification of hidden size 32; every call gives the same weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
    )
    config.id2label = dict(enumerate(LABELS))
    model = BertForTokenClassification(config)
    model.train(False)
    return model


def adapted(method: str) -> PeftModel:
    """The classifier under a PEFT adapter of `method` whose trainable tensors are random."""
    config = method_config(method, "token-classification", modules_to_save=["classifier"])
    with peft_as_it_is():
        model = get_peft_model(token_classifier(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def loaded_by_peft(folder: Path) -> PeftModel:
    """The classifier with the adapter of `folder`, as any user of PEFT loads it."""
    with peft_as_it_is():
        return PeftModel.from_pretrained(token_classifier(), str(folder)).eval()


@contextmanager
def peft_as_it_is() -> Iterator[None]:
    """PEFT 0.21 reads an attribute that transformers 5.23 renamed; any other warning is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def logits(model: Any) -> torch.Tensor:
    """[2, 7, labels] for two fixed rows."""
    torch.manual_seed(2)
    tokens = torch.randint(0, 60, (2, 7))
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return result


def manifest(**fields: Any) -> Manifest:
    """A manifest for the classifier; keyword arguments replace fields."""
    given: dict[str, Any] = {
        "task": "token-classification",
        "labels": LABELS,
        "base": BaseRecord(id="acme/base", fingerprint=Fingerprint("a" * 64, "b" * 64, "c" * 64, "d" * 64)),
        "method": "lora",
        "recipe": "ner",
        "hyperparameters": {"rank": 16, "target_modules": "all-linear"},
        "seed": 7,
        "data": {"test": DataRecord(fingerprint="sha256:" + "e" * 64, rows=12, source="test.conll")},
        "metrics": {"test": {"f1": Metric(value=0.5, low=0.25, high=0.75, n=12)}},
        "libraries": {"peft": "0.21.2"},
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return Manifest(**{**given, **fields})
