"""What a push refuses by the header alone: halves without their other half, ranks that are not the configuration's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import TensorMismatch
from adapthub.hub.completeness import check_complete

Q = "base_model.model.encoder.layer.0.attention.self.query"
V = "base_model.model.encoder.layer.1.attention.self.value"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}


def pair(module: str, rank: int = 2, *, ending: str = ".weight") -> dict[str, tuple[int, ...]]:
    return {f"{module}.lora_A{ending}": (rank, 8), f"{module}.lora_B{ending}": (8, rank)}


def artifact(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Artifact:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {name: numpy.ones(shape, dtype=numpy.float32) for name, shape in shapes.items()}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    return Artifact.read(folder)


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_a_half_alone_is_refused_by_the_name_of_the_other(tmp_path: Path, lost: str) -> None:
    shapes = {**pair(Q), **pair(V)}
    del shapes[f"{V}.{lost}.weight"]
    with pytest.raises(TensorMismatch) as caught:
        check_complete(artifact(tmp_path / "a", LORA, shapes))
    assert f"lacks '{V}.{lost}.weight'" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "shapes", "named"),
    [
        (LORA, {**pair(Q), **pair(V, 4)}, f"{V}.lora_A.weight"),
        ({**LORA, "rank_pattern": {"query": 4}}, {**pair(Q), **pair(V)}, f"{Q}.lora_A.weight"),
        ({**LORA, "rank_pattern": {"layer.1.*value": 4}}, {**pair(Q), **pair(V, 2)}, f"{V}.lora_A.weight"),
        (LORA, {**pair(Q), f"{Q}.lora_B.weight": (8, 3)}, f"{Q}.lora_B.weight"),
        (
            LORA,
            {f"{Q}.lora_embedding_A": (2, 50), f"{Q}.lora_embedding_B": (8, 5)},
            f"{Q}.lora_embedding_B",
        ),
        (LORA, {f"{Q}.lora_A.weight": (16,), f"{Q}.lora_B.weight": (16,)}, "no matrix"),
        ({**LORA, "use_dora": True}, pair(Q), f"{Q}.lora_magnitude_vector"),
        (LORA, {"base_model.model.classifier.weight": (2, 8)}, "no LoRA tensor"),
        (PREFIX, {"base_model.classifier.weight": (2, 8)}, "prompt_embeddings"),
        (PREFIX, {"prompt_embeddings": (4, 32)}, "num_virtual_tokens=3"),
    ],
)
def test_what_does_not_agree_with_the_configuration(
    tmp_path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], named: str
) -> None:
    with pytest.raises(TensorMismatch) as caught:
        check_complete(artifact(tmp_path / "a", config, shapes))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (LORA, {**pair(Q), **pair(V), "base_model.model.classifier.weight": (2, 8)}),
        ({**LORA, "rank_pattern": {"layer.1.attention.self.value": 5}}, {**pair(Q), **pair(V, 5)}),
        ({**LORA, "rank_pattern": {r"layer\.[0-9].*": 5}, "r": 3}, {**pair(Q, 5), **pair(V, 5)}),
        ({**LORA, "use_dora": True}, {**pair(Q), f"{Q}.lora_magnitude_vector": (8,)}),
        (LORA, {f"{Q}.lora_embedding_A": (2, 50), f"{Q}.lora_embedding_B": (8, 2)}),
        (LORA, {f"{Q}.lora_A.weight": (2, 8, 3, 3), f"{Q}.lora_B.weight": (8, 1, 1, 1)}),
        ({**LORA, "target_parameters": ["experts.w"]}, pair(Q, 16)),
        (PREFIX, {"prompt_embeddings": (3, 32)}),
    ],
)
def test_what_agrees_is_let_through(
    tmp_path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    check_complete(artifact(tmp_path / "a", config, shapes))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_what_peft_writes_is_let_through(tmp_path: Path, tiny_base: Path, options: Mapping[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_base)
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=3,
        target_modules="all-linear",
        rank_pattern={r"layer\.1\..*": 5, "query": 7, "0.output.dense": 2},
        **options,
    )
    get_peft_model(model, config).save_pretrained(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "README.md").unlink()
    check_complete(Artifact.read(tmp_path / "theirs"))
