"""Adapters on a language model's input and output embeddings, tied or not: what PEFT saves and computes is the oracle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import UnsupportedAdapter
from adapthub.adapters.selections import Selection
from tests.adapters.causal_pass import CAUSAL, causal_logits, write_causal_base
from tests.adapters.peft_oracle import expected_logits, lora_config, save_adapter
from tests.adapters.test_attach import close

ROWS = [[2, 5, 6, 7, 8, 9, 3], [2, 10, 3]]
FEATURES = [{"input_ids": row} for row in ROWS]

VARIANTS: Mapping[str, dict[str, Any]] = {
    "lora-output": {"target_modules": ["q_proj", "lm_head"]},
    "lora-output-pattern": {"target_modules": ".*(lm_head|q_proj)"},
    "lora-input": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora-both": {"target_modules": ["lm_head", "embed_tokens"]},
    "dora-output": {"target_modules": ["lm_head"], "use_dora": True},
    "saved-output": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved-input": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved-both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}
# What PEFT itself can keep tied when asked to.
TIED = ("lora-output", "lora-output-pattern", "lora-input", "lora-both", "saved-output", "saved-input")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {tied: write_causal_base(folder / str(tied), tie_word_embeddings=tied) for tied in (False, True)}


def attached(base: Path, path: Path, quantize: str | None = None) -> tuple[AdaptedBase, Selection]:
    adapted = AdaptedBase(load_base(str(base), quantize=quantize, device="cpu"))
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    adapted.selections.check_generation(selection)
    return adapted, selection


@pytest.mark.parametrize(
    ("name", "tied", "together"),
    [(name, tied, False) for name in VARIANTS for tied in (False, True)]
    + [(name, True, True) for name in TIED]
    + [("lora-output", False, True)],
)
def test_equal_to_peft_alone_and_beside_the_base(
    bases: Mapping[bool, Path], tmp_path: Path, name: str, tied: bool, together: bool
) -> None:
    config = lora_config(CAUSAL, **VARIANTS[name], ensure_weight_tying=together)
    path = save_adapter(bases[tied], tmp_path / "a", CAUSAL, config)
    adapted, selection = attached(bases[tied], path)
    expected = expected_logits(bases[tied], path, CAUSAL, FEATURES)
    plain = causal_logits(adapted, ROWS, [(), ()])
    mixed = causal_logits(adapted, [*ROWS, *ROWS], [selection, (), (), selection])
    for ours, theirs in zip(mixed, [expected[0], plain[1], plain[0], expected[1]], strict=True):
        close(ours, theirs)
    assert not torch.allclose(expected[0], plain[0], rtol=0.01), "the adapter does something"


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_lora_on_the_output_of_a_quantised_base(
    bases: Mapping[bool, Path], tmp_path: Path, quantize: str
) -> None:
    config = lora_config(CAUSAL, **VARIANTS["lora-output"])
    path = save_adapter(bases[False], tmp_path / "a", CAUSAL, config)
    adapted, selection = attached(bases[False], path, quantize)
    expected = expected_logits(bases[False], path, CAUSAL, FEATURES, quantize=quantize)
    for ours, theirs in zip(causal_logits(adapted, ROWS, [selection, selection]), expected, strict=True):
        close(ours, theirs)


def test_a_pass_that_keeps_no_row(bases: Mapping[bool, Path], tmp_path: Path) -> None:
    """Every row of the step may be in the middle of its prompt."""
    config = lora_config(CAUSAL, **VARIANTS["lora-output"])
    adapted, selection = attached(bases[True], save_adapter(bases[True], tmp_path / "a", CAUSAL, config))
    for segments in ([Segment(0, 3, selection)], [Segment(0, 1, ()), Segment(1, 3, selection)]):
        with torch.inference_mode(), adapted.applying(segments, []):
            logits = adapted.base.model(
                input_ids=torch.tensor([[5, 6, 7]]),
                logits_to_keep=torch.tensor([], dtype=torch.long),
                use_cache=False,
            ).logits
        assert logits.shape == (1, 0, 160)


def test_a_whole_embedding_that_is_not_the_bases_is_refused(
    bases: Mapping[bool, Path], tmp_path: Path
) -> None:
    config = lora_config(CAUSAL, **VARIANTS["lora-output"])
    path = save_adapter(bases[False], tmp_path / "a", CAUSAL, config)
    weights = path / "adapter_model.safetensors"
    tensors = load_file(weights)
    own = tensors["base_model.model.lm_head.base_layer.weight"]
    tensors["base_model.model.model.embed_tokens.weight"] = own.clone()  # the base is untied, so it differs
    save_file(tensors, weights)
    with pytest.raises(UnsupportedAdapter, match=r"'model\.embed_tokens\.weight' differs from the base"):
        attached(bases[False], path)
    own += 1
    del tensors["base_model.model.model.embed_tokens.weight"]
    save_file(tensors, weights)
    with pytest.raises(UnsupportedAdapter, match=r"'lm_head\.base_layer\.weight' differs from the base"):
        attached(bases[False], path)


def test_all_linear_written_as_such_leaves_the_output_out(bases: Mapping[bool, Path], tmp_path: Path) -> None:
    path = save_adapter(
        bases[False], tmp_path / "a", CAUSAL, lora_config(CAUSAL, target_modules="all-linear")
    )
    fields = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(fields | {"target_modules": "all-linear"}))
    adapted, selection = attached(bases[False], path)
    expected = expected_logits(bases[False], path, CAUSAL, FEATURES)
    close(causal_logits(adapted, [ROWS[0]], [selection])[0], expected[0])
