"""Real weights and real data: MiniLM in 4 bits learns CoNLL-2003 in a hundred steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapthub.adapters.base import resolve_base
from adapthub.adapters.samples import fetch
from adapthub.adapters.weights import weight_files
from adapthub.recipes import evaluate, train


@pytest.mark.slow
def test_minilm_learns_names_and_places(tmp_path: Path) -> None:
    data = fetch("conll2003")
    result = train(
        "ner",
        data / "train.conll",
        base="package:minilm",
        quantize="nf4",
        test=data / "test.conll",
        output=tmp_path / "run",
        max_steps=100,
        rank=8,
        quiet=True,
    )
    f1 = result.metrics["test"]["f1"]
    assert f1.n == 3453
    assert f1.low > 0.6
    assert evaluate(result.artifact, data / "test.conll", quantize="nf4").metrics["f1"] == f1
    base_bytes = sum(path.stat().st_size for path in weight_files(resolve_base("package:minilm").path))
    assert result.artifact.files["adapter_model.safetensors"].size < 0.02 * base_bytes
