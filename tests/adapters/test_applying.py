"""Adapters of a language model in a pass that somebody else runs: `applying`, against plain PEFT on the same base."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import Qwen3Config

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import AdapterNotFound, InvalidExpression, UnsupportedAdapter
from adapthub.adapters.selections import Selection
from tests.adapters.causal_pass import CAUSAL, SIZES, causal_logits, write_causal_base
from tests.adapters.peft_oracle import (
    expected_logits,
    ia3_config,
    load_plain,
    lora_config,
    prefix_config,
    prompt_config,
    save_adapter,
)
from tests.adapters.test_attach import close

ROWS = [[2, 5, 6, 7, 8, 9, 3], [2, 10, 3], [2, 30, 31, 32, 33, 34, 35, 36, 37], [12]]
FEATURES = [{"input_ids": row} for row in ROWS]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

VARIANTS: Mapping[str, Callable[[], PeftConfig]] = {
    "lora": lambda: lora_config(CAUSAL, target_modules=LINEAR),
    "rslora": lambda: lora_config(CAUSAL, target_modules=LINEAR, use_rslora=True, r=8),
    "dora": lambda: lora_config(CAUSAL, target_modules=LINEAR, use_dora=True),
    "lora-bias": lambda: lora_config(CAUSAL, target_modules=["q_proj", "down_proj"], lora_bias=True),
    "norms": lambda: lora_config(CAUSAL, target_modules=["q_proj"], modules_to_save=["norm"]),
    "untold-task": lambda: lora_config(CAUSAL, target_modules=["q_proj"]),
    "ia3": lambda: ia3_config(
        CAUSAL,
        target_modules=["k_proj", "v_proj", "down_proj", "lm_head"],
        feedforward_modules=["down_proj"],
    ),
    "prefix": lambda: prefix_config(CAUSAL),
    "prompt": lambda: prompt_config(CAUSAL, 6),
}


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_base(tmp_path_factory.mktemp("causal") / "llama")


@pytest.fixture(scope="module")
def saved(causal_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    result = {}
    for seed, (name, config) in enumerate(VARIANTS.items()):
        result[name] = save_adapter(causal_base, folder / name, CAUSAL, config(), seed=seed)
    path = result["untold-task"] / "adapter_config.json"
    path.write_text(path.read_text().replace('"CAUSAL_LM"', "null"))
    return result


@pytest.fixture(scope="module", params=[None, "nf4", "int8"])
def adapted(request: pytest.FixtureRequest, causal_base: Path) -> AdaptedBase:
    return AdaptedBase(load_base(str(causal_base), quantize=request.param, device="cpu"))


@pytest.mark.parametrize("name", VARIANTS)
def test_alone_equals_peft(
    adapted: AdaptedBase, causal_base: Path, saved: Mapping[str, Path], name: str
) -> None:
    selection = ((1.0, adapted.attach(Artifact.read(saved[name]))),)
    adapted.selections.check_generation(selection)
    expected = expected_logits(causal_base, saved[name], CAUSAL, FEATURES, quantize=adapted.base.quantization)
    for row, theirs in zip(ROWS, expected, strict=True):
        close(causal_logits(adapted, [row], [selection])[0], theirs)


def test_a_prefix_under_weighted_adapters(
    causal_base: Path, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    """PEFT cannot have both in one model: the oracle is PEFT's prefix over a base with PEFT's LoRA in its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_plain(causal_base, CAUSAL, 2), str(saved["lora"]))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(0.6)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = expected_logits(tmp_path / "merged", saved["prefix"], CAUSAL, FEATURES)
    adapted = AdaptedBase(load_base(str(causal_base), device="cpu"))
    lora, prefix = (adapted.attach(Artifact.read(saved[name])) for name in ("lora", "prefix"))
    ours = causal_logits(adapted, ROWS, [((0.6, lora), (1.0, prefix))] * len(ROWS))
    for row, theirs in zip(ours, expected, strict=True):
        close(row, theirs)


@pytest.mark.parametrize("last", [False, True])
def test_mixed_rows_equal_each_row_alone(adapted: AdaptedBase, saved: Mapping[str, Path], last: bool) -> None:
    digests = [adapted.attach(Artifact.read(path)) for path in saved.values()]
    selections: list[Selection] = [(), *(((1.0, digest),) for digest in digests)]
    selections += [((0.7, digests[0]), (-0.4, digests[2])), ((0.5, digests[5]), (1.0, digests[6]))]
    selections = random.Random(4).sample(selections * 2, len(selections) * 2)
    rows = [ROWS[i % len(ROWS)] for i in range(len(selections))]
    mixed = causal_logits(adapted, rows, selections, last)
    for row, selection, together in zip(rows, selections, mixed, strict=True):
        close(together, causal_logits(adapted, [row], [selection], last)[0])


def test_decoding_rows_under_many_adapters(adapted: AdaptedBase, causal_base: Path, tmp_path: Path) -> None:
    """One token a row, as many adapters as rows, rows coming and going: what stacks of LoRAs are for."""
    digests = []
    for seed in range(9):
        config = lora_config(CAUSAL, target_modules=LINEAR[seed % 3 :], r=4 if seed < 6 else 2)
        path = save_adapter(causal_base, tmp_path / str(seed), CAUSAL, config, seed=seed)
        digests.append(adapted.attach(Artifact.read(path)))
    chooser = random.Random(2)
    for _ in range(4):
        selections: list[Selection] = [((1.0, digest),) for digest in chooser.sample(digests, 8)]
        selections += [(), selections[0], ((0.5, digests[0]), (0.5, digests[7]))]
        rows = [[chooser.randrange(5, 150)] for _ in selections]
        together = causal_logits(adapted, rows, selections)
        for row, selection, logits in zip(rows, selections, together, strict=True):
            close(logits, causal_logits(adapted, [row], [selection])[0])


def test_the_pass_has_the_base_for_itself(adapted: AdaptedBase, saved: Mapping[str, Path]) -> None:
    digest = adapted.attach(Artifact.read(saved["lora"]))
    attached = threading.Event()

    def attach() -> None:
        adapted.attach(Artifact.read(saved["dora"]))
        attached.set()

    adapted.detach(adapted.attach(Artifact.read(saved["dora"])))
    thread = threading.Thread(target=attach)
    with adapted.applying([Segment(0, 1, ((1.0, digest),))], []):
        thread.start()
        assert not attached.wait(0.05)
    thread.join()
    assert attached.is_set()


def test_an_adapter_that_is_not_attached_is_named_before_the_pass(adapted: AdaptedBase) -> None:
    segment = Segment(0, 1, ((1.0, "sha256:0123"),))
    with pytest.raises(AdapterNotFound, match="sha256:0123"), adapted.applying([segment], []):
        raise AssertionError("entered")
    with pytest.raises(AdapterNotFound):
        adapted.selections.check_generation(((1.0, "sha256:0123"),))


def test_selections_that_cannot_generate(
    adapted: AdaptedBase, causal_base: Path, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    tokens = lora_config("token-classification", target_modules=["q_proj"])
    head = adapted.attach(
        Artifact.read(save_adapter(causal_base, tmp_path / "h", "token-classification", tokens))
    )
    lora, prefix = (adapted.attach(Artifact.read(saved[name])) for name in ("lora", "prefix"))
    other = adapted.attach(
        Artifact.read(save_adapter(causal_base, tmp_path / "p", CAUSAL, prefix_config(CAUSAL, 3), seed=9))
    )
    with pytest.raises(UnsupportedAdapter, match="token-classification has a head and does not generate"):
        adapted.selections.check_generation(((1.0, head),))
    with pytest.raises(InvalidExpression, match="unlike tasks"):
        adapted.selections.check_generation(((1.0, head), (1.0, lora)))
    with pytest.raises(InvalidExpression, match="2 prefix adapters cannot be summed"):
        adapted.selections.check_generation(((1.0, prefix), (1.0, other)))
    with pytest.raises(InvalidExpression, match=r"cannot be weighted, here by 0\.5"):
        adapted.selections.check_generation(((0.5, prefix), (1.0, lora)))
    adapted.selections.check_generation(((1.0, prefix), (0.5, lora)))
    adapted.selections.check_generation(())


def test_an_adapter_under_attention_heads_is_named(tmp_path: Path) -> None:
    """Qwen3's norm of each head sees [1, T, heads, size], which segments of tokens do not describe."""
    base = write_causal_base(tmp_path / "base", Qwen3Config(**SIZES, head_dim=16))
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    config = lora_config(CAUSAL, target_modules=["q_proj"], modules_to_save=["q_norm"])
    path = save_adapter(base, tmp_path / "a", CAUSAL, config)
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    expected = expected_logits(base, path, CAUSAL, FEATURES)
    close(causal_logits(adapted, [ROWS[0]], [selection])[0], expected[0])
    message = r"'model\.layers\.\d\.self_attn\.q_norm' does not see the batch's tokens.*merge the adapter"
    with pytest.raises(UnsupportedAdapter, match=message):
        causal_logits(adapted, ROWS[:2], [selection, ()])
    with pytest.raises(UnsupportedAdapter, match=message):
        adapted.selections.check_generation(selection)
