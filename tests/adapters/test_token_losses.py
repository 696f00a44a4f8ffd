"""The losses of given tokens on the served path, against plain PEFT; and passes under one selection for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import Gemma2Config, T5Config, T5ForConditionalGeneration

from adapthub.adapters import token_losses as module
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput, UnsupportedAdapter
from adapthub.adapters.token_losses import IGNORED, token_losses
from tests.adapters.causal_pass import CAUSAL, SIZES, write_causal_base
from tests.adapters.peft_oracle import expected_logits, load_plain, lora_config, prefix_config, save_adapter
from tests.adapters.test_attach import close
from tests.conftest import write_tokenizer

LINEAR = ["q_proj", "v_proj", "down_proj"]
ROWS = [
    {"input_ids": [2, 5, 6, 7, 8, 9, 3], "labels": [IGNORED, IGNORED, IGNORED, 7, 8, 9, 3]},
    {"input_ids": [2, 10, 3], "labels": [IGNORED] * 3},
    {
        "input_ids": [12, 30, 31, 32],
        "labels": [12, 30, IGNORED, 32],
    },  # nothing can be asked of the first token
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_base(tmp_path_factory.mktemp("causal") / "llama")


def expected(base: Path, folder: Path | None) -> list[torch.Tensor]:
    """By PEFT, of each unpadded row."""
    features = [{"input_ids": row["input_ids"]} for row in ROWS]
    if folder is not None:
        logits = expected_logits(base, folder, CAUSAL, features)
    else:
        plain = load_plain(base, CAUSAL, 0)
        with torch.inference_mode():
            logits = [plain(torch.tensor([row["input_ids"]])).logits[0] for row in ROWS]
    results = []
    for row, found in zip(ROWS, logits, strict=True):
        targets = torch.tensor(row["labels"][1:])
        results.append(F.cross_entropy(found[:-1], targets, reduction="none")[targets != IGNORED])
    return results


@pytest.mark.parametrize("passes", ["one", "many"])
@pytest.mark.parametrize("method", ["lora", "prefix", "base"])
def test_losses_are_those_of_peft(
    llama: Path, method: str, passes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == "many":
        monkeypatch.setattr(module, "_PASS_TARGETS", 3)
    adapted = AdaptedBase(load_base(str(llama)))
    selection: tuple[tuple[float, str], ...] = ()
    folder = None
    if method != "base":
        config = lora_config(CAUSAL, target_modules=LINEAR) if method == "lora" else prefix_config(CAUSAL)
        folder = save_adapter(llama, tmp_path / method, CAUSAL, config, seed=1)
        selection = ((1.0, adapted.attach(Artifact.read(folder))),)
    losses = token_losses(adapted, ROWS, selection)
    assert [len(row) for row in losses] == [4, 0, 2]
    for ours, theirs in zip(losses, expected(llama, folder), strict=True):
        assert (ours.dtype, ours.shape) == (torch.float32, theirs.shape)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_family_that_cannot_run_flattened_runs_row_by_row(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "gemma", Gemma2Config(**SIZES, head_dim=16))
    folder = save_adapter(base, tmp_path / "lora", CAUSAL, lora_config(CAUSAL, target_modules=LINEAR), seed=1)
    adapted = AdaptedBase(load_base(str(base)))
    assert adapted.layout == "padded"
    selection = ((1.0, adapted.attach(Artifact.read(folder))),)
    for ours, theirs in zip(token_losses(adapted, ROWS, selection), expected(base, folder), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ids", [[], [5] * 65])
def test_rows_that_do_not_fit_are_named(llama: Path, ids: list[int]) -> None:
    adapted = AdaptedBase(load_base(str(llama)))
    with pytest.raises(InvalidInput, match=rf"row 1 has {len(ids)} tokens; this base takes 1 to 64"):
        token_losses(adapted, [ROWS[0], {"input_ids": ids, "labels": ids}], ())


def test_any_pass_of_an_encoder_decoder_runs_under_one_selection(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = T5Config(vocab_size=160, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    write_tokenizer(tmp_path / "t5")
    base = load_base(str(tmp_path / "t5"))
    folder = save_adapter(
        tmp_path / "t5",
        tmp_path / "lora",
        "text-to-text",
        lora_config("text-to-text", target_modules=["q", "v", "wo"]),
        seed=1,
    )
    adapted = AdaptedBase(base)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 1]]),
        "decoder_input_ids": torch.tensor([[0, 4], [0, 5]]),
    }
    with torch.inference_mode():
        alone = base.model(**inputs).logits
        with adapted.applying_to_all(((1.0, adapted.attach(Artifact.read(folder))),)):
            ours = base.model(**inputs).logits
        plain = PeftModel.from_pretrained(load_plain(tmp_path / "t5", "text-to-text", 0), str(folder)).eval()
        close(ours, plain(**inputs).logits)
        assert torch.equal(base.model(**inputs).logits, alone)
    assert not torch.allclose(ours, alone, atol=1e-3)


def test_a_prefix_is_refused_where_passes_are_not_rows_of_tokens(llama: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(llama)))
    folder = save_adapter(llama, tmp_path / "prefix", CAUSAL, prefix_config(CAUSAL), seed=1)
    selection = ((1.0, adapted.attach(Artifact.read(folder))),)
    with (
        pytest.raises(UnsupportedAdapter, match="prefix adapters are not run"),
        adapted.applying_to_all(selection),
    ):
        pass
