"""The runtime's arithmetic against PEFT's: every variant alone, and all of them mixed in one batch."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import (
    AdapterNotFound,
    BaseMismatch,
    InvalidExpression,
    InvalidInput,
    TensorMismatch,
    UnsupportedAdapter,
)
from adapthub.adapters.selections import Selection
from tests.adapters.peft_oracle import (
    combined_logits,
    expected_logits,
    ia3_config,
    lora_config,
    prefix_config,
    save_adapter,
)
from tests.conftest import write_tokenizer

TOKENS, TEXT = "token-classification", "text-classification"
ROWS = [
    {"input_ids": [2, *row, 3]} for row in ([5, 6, 7, 8, 9], [10, 11], [30, 31, 32, 33, 34, 35, 36, 37], [12])
]

VARIANTS: Mapping[str, Callable[[str], PeftConfig]] = {
    "lora": lambda task: lora_config(task),
    "rslora": lambda task: lora_config(task, use_rslora=True, r=8),
    "dora": lambda task: lora_config(task, use_dora=True),
    "dora-rslora": lambda task: lora_config(task, use_dora=True, use_rslora=True, r=2),
    "patterns": lambda task: lora_config(
        task, rank_pattern={"query": 8, "layer.1.*value": 2}, alpha_pattern={"dense": 3}
    ),
    "bias-lora-only": lambda task: lora_config(task, bias="lora_only"),
    "bias-all": lambda task: lora_config(task, bias="all"),
    "bias-all-dora": lambda task: lora_config(task, bias="all", use_dora=True),
    "lora-bias": lambda task: lora_config(task, lora_bias=True),
    "few-targets": lambda task: lora_config(task, target_modules=["query", "value"], r=16),
    "one-layer": lambda task: lora_config(task, target_modules=["query"], layers_to_transform=[1]),
    "with-pooler": lambda task: lora_config(task, target_modules=["query", "dense"]),
    "embedding": lambda task: lora_config(task, target_modules=["query", "word_embeddings"]),
    "modules-to-save": lambda task: lora_config(
        task, target_modules=["query"], modules_to_save=["intermediate", "LayerNorm"]
    ),
    "ia3": lambda task: ia3_config(task),
    "ia3-with-pooler": lambda task: ia3_config(
        task, target_modules=["query", "dense"], feedforward_modules=r".*\.intermediate\.dense"
    ),
    "ia3-modules-to-save": lambda task: ia3_config(task, modules_to_save=["LayerNorm"]),
    "prefix": lambda task: prefix_config(task),
    "prefix-projection": lambda task: prefix_config(task, 3, prefix_projection=True, encoder_hidden_size=16),
}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.fixture(scope="module")
def saved(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, int]]:
    """Every variant for both tasks, each with its own seed and label count, saved by PEFT."""
    folder = tmp_path_factory.mktemp("adapters")
    result = {}
    for seed, (task, name) in enumerate(itertools.product((TOKENS, TEXT), VARIANTS)):
        labels = 2 + seed % 4
        path = save_adapter(
            tiny_base, folder / f"{task}-{name}", task, VARIANTS[name](task), labels=labels, seed=seed
        )
        result[task, name] = (path, labels)
    return result


@pytest.fixture(scope="module", params=[None, "nf4", "int8"])
def adapted(request: pytest.FixtureRequest, tiny_base: Path) -> AdaptedBase:
    return AdaptedBase(load_base(str(tiny_base), quantize=request.param, device="cpu"))


def test_the_tiny_base_runs_flat(adapted: AdaptedBase) -> None:
    assert adapted.layout == "flat"


@pytest.mark.parametrize("task", [TOKENS, TEXT])
@pytest.mark.parametrize("name", VARIANTS)
def test_alone_equals_peft(
    adapted: AdaptedBase,
    tiny_base: Path,
    saved: Mapping[tuple[str, str], tuple[Path, int]],
    task: str,
    name: str,
) -> None:
    path, labels = saved[task, name]
    quantization = adapted.base.quantization
    if quantization and name == "modules-to-save":
        with pytest.raises(
            RuntimeError, match="floating point"
        ):  # PEFT copies the quantised layer and wants gradients
            expected_logits(tiny_base, path, task, ROWS, labels=labels, quantize=quantization)
        return
    expected = expected_logits(tiny_base, path, task, ROWS, labels=labels, quantize=quantization)
    digest = adapted.attach(Artifact.read(path))
    for row, theirs in zip(ROWS, expected, strict=True):
        close(adapted.logits([row], [((1.0, digest),)])[0], theirs)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_rows_equal_each_row_alone(
    adapted: AdaptedBase, saved: Mapping[tuple[str, str], tuple[Path, int]], seed: int
) -> None:
    digests = [adapted.attach(Artifact.read(path)) for path, _ in saved.values()]
    rows = [*itertools.islice(itertools.cycle(ROWS), len(digests)), *ROWS]
    selections: list[Selection] = [((1.0, digest),) for digest in digests] + [()] * len(ROWS)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    mixed = adapted.logits([rows[i] for i in order], [selections[i] for i in order])
    for place, i in enumerate(order):
        close(mixed[place], adapted.logits([rows[i]], [selections[i]])[0])


def test_an_expression_is_the_exact_sum_of_updates(tiny_base: Path, tmp_path: Path) -> None:
    """The dense sum is the oracle; heads are averaged by weight."""
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    paths = [
        save_adapter(tiny_base, tmp_path / name, TEXT, lora_config(TEXT, r=rank), seed=rank)
        for name, rank in (("first", 4), ("second", 8))
    ]
    first, second = (adapted.attach(Artifact.read(path)) for path in paths)
    expected = combined_logits(tiny_base, paths, (0.7, 0.3), TEXT, ROWS)
    for row, theirs in zip(ROWS, expected, strict=True):
        close(adapted.logits([row], [((0.7, first), (0.3, second))])[0], theirs)


def test_expressions_of_dora_and_lora_run_mixed(tiny_base: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    lora = adapted.attach(Artifact.read(save_adapter(tiny_base, tmp_path / "l", TOKENS, lora_config(TOKENS))))
    dora_config = lora_config(TOKENS, use_dora=True)
    dora = adapted.attach(Artifact.read(save_adapter(tiny_base, tmp_path / "d", TOKENS, dora_config, seed=5)))
    selections: list[Selection] = [
        ((0.5, lora), (0.5, dora)),
        (),
        ((2.0, dora), (-1.0, lora)),
        ((1.0, lora),),
    ]
    mixed = adapted.logits(ROWS, selections)
    for row, selection, together in zip(ROWS, selections, mixed, strict=True):
        close(together, adapted.logits([row], [selection])[0])
    # w * d(x, y) with one adapter twice as half and half is that adapter: DoRA's d must see the base's y both times.
    whole = adapted.logits([ROWS[0]], [((1.0, dora),)])[0]
    copy = save_adapter(tiny_base, tmp_path / "d2", TOKENS, dora_config, seed=5)
    (copy / "README.md").write_text("another digest, the same weights\n")
    twin = adapted.attach(Artifact.read(copy))
    assert twin != dora
    close(adapted.logits([ROWS[0]], [((0.5, dora), (0.5, twin))])[0], whole)


@pytest.mark.parametrize(
    ("weights", "tasks", "message"),
    [((1.0, -1.0), (TEXT, TEXT), "sum to zero"), ((0.5, 0.5), (TEXT, TOKENS), "unlike tasks")],
)
def test_sums_without_meaning_are_refused(
    tiny_base: Path, tmp_path: Path, weights: tuple[float, float], tasks: tuple[str, str], message: str
) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    digests = [
        adapted.attach(
            Artifact.read(save_adapter(tiny_base, tmp_path / str(i), task, lora_config(task), seed=i))
        )
        for i, task in enumerate(tasks)
    ]
    with pytest.raises(InvalidExpression, match=message):
        adapted.logits([ROWS[0]], [tuple(zip(weights, digests, strict=True))])


def test_heads_with_unlike_label_counts_are_not_summed(tiny_base: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    digests = [
        adapted.attach(
            Artifact.read(save_adapter(tiny_base, tmp_path / str(n), TEXT, lora_config(TEXT), labels=n))
        )
        for n in (2, 3)
    ]
    with pytest.raises(InvalidExpression, match="unlike labels"):
        adapted.logits([ROWS[0]], [((0.5, digests[0]), (0.5, digests[1]))])


def test_a_prefix_is_neither_weighted_nor_summed(tiny_base: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    digest = adapted.attach(Artifact.read(save_adapter(tiny_base, tmp_path / "p", TEXT, prefix_config(TEXT))))
    with pytest.raises(InvalidExpression, match="prefix"):
        adapted.logits([ROWS[0]], [((0.5, digest),)])


def test_detaching_leaves_the_base_as_it_was(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_base), device="cpu")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.inference_mode():
        plain = base.model(input_ids=ids).last_hidden_state
    adapted = AdaptedBase(base)
    digest = adapted.attach(
        Artifact.read(save_adapter(tiny_base, tmp_path / "a", TOKENS, lora_config(TOKENS)))
    )
    adapted.logits([ROWS[0]], [((1.0, digest),)])
    with torch.inference_mode():
        assert torch.equal(base.model(input_ids=ids).last_hidden_state, plain), "plain use sees no adapter"
    adapted.detach(digest)
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    with pytest.raises(AdapterNotFound):
        adapted.logits([ROWS[0]], [((1.0, digest),)])
    with pytest.raises(AdapterNotFound):
        adapted.detach(digest)


def test_attach_and_detach_while_others_run(tiny_base: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    steady = adapted.attach(
        Artifact.read(save_adapter(tiny_base, tmp_path / "s", TOKENS, lora_config(TOKENS)))
    )
    others = [
        Artifact.read(save_adapter(tiny_base, tmp_path / f"o{i}", TEXT, lora_config(TEXT, r=1 + i), seed=i))
        for i in range(4)
    ]
    expected = adapted.logits(ROWS, [((1.0, steady),)] * len(ROWS))
    done = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        try:
            for _ in range(10):
                for other in others:
                    adapted.attach(other)
                for other in others:
                    adapted.detach(other.digest)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    passes = 0
    while not done.is_set() or passes < 3:
        for ours, theirs in zip(adapted.logits(ROWS, [((1.0, steady),)] * len(ROWS)), expected, strict=True):
            assert torch.equal(ours, theirs)
        passes += 1
    thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["query"], TensorMismatch, r"LoRA weights for '.*value', which its configuration does not target"),
        (None, UnsupportedAdapter, "no target_modules"),
    ],
)
def test_weights_that_peft_would_leave_out_are_refused(
    tiny_base: Path, tmp_path: Path, targets: object, error: type[Exception], message: str
) -> None:
    config = lora_config(TOKENS, target_modules=["query", "value"])
    path = save_adapter(tiny_base, tmp_path / "a", TOKENS, config)
    fields = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(fields | {"target_modules": targets}))
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    with pytest.raises(error, match=message):
        adapted.attach(Artifact.read(path))
    assert not adapted.attached


def test_a_module_to_save_that_was_not_saved_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    config = lora_config(TOKENS, target_modules=["query"], modules_to_save=["LayerNorm"])
    path = save_adapter(tiny_base, tmp_path / "a", TOKENS, config)
    weights = path / "adapter_model.safetensors"
    kept = {key: value for key, value in load_file(weights).items() if "1.output.LayerNorm" not in key}
    save_file(kept, weights)
    with pytest.raises(
        TensorMismatch, match=r"'bert.*1\.output\.LayerNorm', and the adapter lacks its weight"
    ):
        AdaptedBase(load_base(str(tiny_base), device="cpu")).attach(Artifact.read(path))


def test_a_prefix_on_a_base_without_a_pooler_must_bring_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=160, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    adapted = AdaptedBase(load_base(str(tmp_path / "base"), device="cpu"))
    without = save_adapter(tmp_path / "base", tmp_path / "w", TEXT, prefix_config(TEXT))
    with pytest.raises(BaseMismatch, match="the head reads the pooler"):
        adapted.attach(Artifact.read(without))
    own = prefix_config(TEXT, modules_to_save=["classifier", "pooler"])
    path = save_adapter(tmp_path / "base", tmp_path / "p", TEXT, own)
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    expected = expected_logits(tmp_path / "base", path, TEXT, ROWS)
    for ours, theirs in zip(adapted.logits(ROWS, [selection] * len(ROWS)), expected, strict=True):
        close(ours, theirs)


def test_a_prefix_must_have_the_bases_shape_and_leave_room(tiny_base: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    path = save_adapter(tiny_base, tmp_path / "p", TOKENS, prefix_config(TOKENS))
    fields = json.loads((path / "adapter_config.json").read_text())
    digest = adapted.attach(Artifact.read(path))
    assert adapted.selections.longest(((1.0, digest),)) == 64 - 5
    with pytest.raises(InvalidInput, match="row 0 has 60 tokens; this base takes 1 to 59"):
        adapted.logits([{"input_ids": [5] * 60}], [((1.0, digest),)])
    (path / "adapter_config.json").write_text(json.dumps(fields | {"num_attention_heads": 8}))
    with pytest.raises(TensorMismatch, match="num_attention_heads=8; this base has 4"):
        adapted.attach(Artifact.read(path))
    long = save_adapter(tiny_base, tmp_path / "l", TOKENS, prefix_config(TOKENS, 64))
    with pytest.raises(UnsupportedAdapter, match="no positions for a text"):
        adapted.attach(Artifact.read(long))


def test_rows_that_cannot_run_are_named(tiny_base: Path) -> None:
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    with pytest.raises(InvalidInput, match="row 1 has 65 tokens"):
        adapted.logits([ROWS[0], {"input_ids": [5] * 65}], [(), ()])
    with pytest.raises(InvalidInput, match="row 0 has 0 tokens"):
        adapted.logits([{"input_ids": []}], [()])
    with pytest.raises(InvalidInput, match="1 rows and 2 selections"):
        adapted.logits([ROWS[0]], [(), ()])
    assert adapted.logits([], []) == []
