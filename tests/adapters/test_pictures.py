"""Adapters of models that read pictures against PEFT: every kind of layer alone, and all of them mixed in one pass."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base, load_base, resolve_base
from adapthub.adapters.base_record import record_base
from adapthub.adapters.errors import (
    InvalidExpression,
    InvalidInput,
    InvalidSettings,
    TensorMismatch,
    UnsupportedAdapter,
)
from adapthub.adapters.fit import check_fit
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.quantized import WeightOnlyInt8, WeightOnlyNf4
from adapthub.adapters.selections import Selection
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from tests.adapters.picture_bases import (
    FAMILIES,
    SIDE,
    expected_logits,
    lora_config,
    save_adapter,
    write_base,
)

VIT = ["q_proj", "v_proj", "fc1", "fc2"]
# By family: what each adapter acts on.
VARIANTS: dict[str, dict[str, Any]] = {
    "vit": {
        "linear": lora_config(VIT),
        "patches": lora_config(["projection", "q_proj"]),
        "dora": lora_config(["projection", "q_proj"], use_dora=True),
        "rslora": lora_config(VIT, use_rslora=True, r=8),
        "bias": lora_config(["projection", "q_proj"], bias="all"),
        "norm": lora_config(["q_proj"], modules_to_save=["classifier", "layernorm"]),
    },
    "resnet": {
        "convolutions": lora_config(["convolution"]),
        "dora": lora_config(["convolution"], use_dora=True),
        "lora-bias": lora_config(["convolution"], lora_bias=True, rank_pattern={"stages.1": 8}),
        "bias": lora_config(["convolution"], bias="all"),
        "norm": lora_config(["convolution"], modules_to_save=["classifier", "normalization"]),
    },
    "convnext": {
        # Depthwise layers: PEFT takes them where the rank is a multiple of their groups.
        "depthwise": lora_config(["dwconv"], r=48),
        "all": lora_config(["dwconv", "pwconv1", "pwconv2", "patch_embeddings"], r=48),
        "bias": lora_config(["pwconv1"], bias="all"),
        "norm": lora_config(["pwconv1"], modules_to_save=["classifier", "layernorm"]),
    },
    "efficientnet": {
        "convolutions": lora_config(
            ["convolution", "expand_conv", "project_conv", "reduce", "expand", "top_conv"]
        ),
    },
    "swin": {"linear": lora_config(["q_proj", "fc1"]), "patches": lora_config(["projection"])},
}
ALL = [(family, name) for family, variants in VARIANTS.items() for name in variants]


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"


def pictures(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return list(torch.randn(count, 3, SIDE, SIDE, generator=generator))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_base(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def saved(bases: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every variant, each with its own seed and label count (`labels_of`), saved by PEFT."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        (family, name): save_adapter(
            bases[family],
            folder / f"{family}-{name}",
            VARIANTS[family][name],
            labels=labels_of(name),
            seed=seed,
        )
        for seed, (family, name) in enumerate(ALL)
    }


def labels_of(name: str) -> int:
    return 2 + len(name) % 4


@pytest.fixture(scope="module")
def adapted(bases: Mapping[str, Path]) -> dict[str, AdaptedBase]:
    return {family: AdaptedBase(load_base(str(path), device="cpu")) for family, path in bases.items()}


@pytest.mark.parametrize(("family", "name"), ALL)
def test_alone_equals_peft(
    adapted: Mapping[str, AdaptedBase],
    bases: Mapping[str, Path],
    saved: Mapping[tuple[str, str], Path],
    family: str,
    name: str,
) -> None:
    rows = pictures(2)
    expected = expected_logits(bases[family], saved[family, name], rows, labels=labels_of(name))
    ours = adapted[family]
    digest = ours.attach(Artifact.read(saved[family, name]))
    for result, theirs in zip(ours.image_logits(rows, [((1.0, digest),)] * 2), expected, strict=True):
        close(result, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_rows_equal_peft_row_by_row(
    adapted: Mapping[str, AdaptedBase],
    bases: Mapping[str, Path],
    saved: Mapping[tuple[str, str], Path],
    family: str,
) -> None:
    names = list(VARIANTS[family])
    ours = adapted[family]
    rows = pictures(2 * len(names))
    chosen = [*names, *random.Random(1).sample(names, len(names))]
    digests = {name: ours.attach(Artifact.read(saved[family, name])) for name in names}
    mixed = ours.image_logits([*rows, rows[0]], [*(((1.0, digests[name]),) for name in chosen), ()])
    for row, name, result in zip(rows, chosen, mixed, strict=False):
        path = saved[family, name]
        close(result, expected_logits(bases[family], path, [row], labels=labels_of(name))[0])
    close(mixed[-1], ours.image_logits([rows[0]], [()])[0])


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_on_a_quantised_vit(
    bases: Mapping[str, Path], saved: Mapping[tuple[str, str], Path], quantize: str
) -> None:
    base = load_base(str(bases["vit"]), quantize=quantize, device="cpu")
    kinds = {"nf4": WeightOnlyNf4, "int8": WeightOnlyInt8}
    quantised = {name for name, module in base.model.named_modules() if isinstance(module, kinds[quantize])}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}
    assert {name.rpartition(".")[2] for name in quantised} == projections
    ours = AdaptedBase(base)
    rows = pictures(3)
    names = ("linear", "patches", "dora")
    digests = [ours.attach(Artifact.read(saved["vit", name])) for name in names]
    mixed = ours.image_logits(rows, [((1.0, digest),) for digest in digests])
    for row, name, result in zip(rows, names, mixed, strict=True):
        theirs = expected_logits(
            bases["vit"], saved["vit", name], [row], labels=labels_of(name), quantize=quantize
        )
        close(result, theirs[0])


def test_a_model_of_convolutions_alone_is_not_quantised(bases: Mapping[str, Path]) -> None:
    with pytest.raises(InvalidSettings, match="no linear layer, and nf4"):
        load_base(str(bases["resnet"]), quantize="nf4", device="cpu")


def test_one_pass_serves_rows_that_differ(
    adapted: Mapping[str, AdaptedBase], saved: Mapping[tuple[str, str], Path]
) -> None:
    """Unless a module sees something else than rows: Swin's attention sees windows."""
    for family, passes in (("resnet", 1), ("convnext", 1), ("vit", 1), ("swin", 3)):
        ours = adapted[family]
        digests = [ours.attach(Artifact.read(saved[family, name])) for name in VARIANTS[family]][:2]
        selections: list[Selection] = [((1.0, digest),) for digest in digests]
        ours.image_logits(pictures(2), selections)  # the first finds out what modules see
        calls: list[torch.Size] = []
        count = ours.base.model.register_forward_hook(
            lambda _, __, output, calls=calls: calls.append(output.last_hidden_state.shape)
        )
        ours.image_logits(pictures(4), selections * 2)
        count.remove()
        # Swin's first pass, for all, is given up in its first layer.
        assert len(calls) == (passes if passes == 1 else 2), family


def test_sums_of_adapters_and_heads(
    adapted: Mapping[str, AdaptedBase], bases: Mapping[str, Path], tmp_path: Path
) -> None:
    ours = adapted["resnet"]
    paths = [
        save_adapter(bases["resnet"], tmp_path / str(seed), lora_config(["convolution"]), seed=seed)
        for seed in range(2)
    ]
    first, second = (ours.attach(Artifact.read(path)) for path in paths)
    row = pictures(1)
    whole = ours.image_logits(row, [((1.0, first),)])[0]
    close(ours.image_logits(row, [((0.4, first), (0.6, first))])[0], whole)
    halves = ours.image_logits(row, [((0.5, first), (0.5, second))])[0]
    assert (halves - whole).abs().max() > 1e-3
    other = ours.attach(
        Artifact.read(save_adapter(bases["resnet"], tmp_path / "x", lora_config(["convolution"]), labels=5))
    )
    with pytest.raises(InvalidExpression, match="unlike labels"):
        ours.image_logits(row, [((0.5, first), (0.5, other))])


def test_nothing_is_left_on_the_base(
    bases: Mapping[str, Path], saved: Mapping[tuple[str, str], Path]
) -> None:
    base = load_base(str(bases["resnet"]), device="cpu")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    ours = AdaptedBase(base)
    for name in VARIANTS["resnet"]:
        digest = ours.attach(Artifact.read(saved["resnet", name]))
        ours.image_logits(pictures(2), [((1.0, digest),), ()])
    ours.close()
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks for module in base.model.modules())


def test_what_peft_cannot_do_is_refused_by_name(bases: Mapping[str, Path], tmp_path: Path) -> None:
    path = save_adapter(bases["convnext"], tmp_path / "depthwise", lora_config(["dwconv"], r=48))
    config = json.loads((path / "adapter_config.json").read_text())
    ours = AdaptedBase(load_base(str(bases["convnext"]), device="cpu"))
    (path / "adapter_config.json").write_text(json.dumps(config | {"r": 20, "lora_alpha": 20}))
    with pytest.raises(UnsupportedAdapter, match=r"dwconv'\) is not computed: its 16 groups do not divide"):
        ours.attach(Artifact.read(path))
    (path / "adapter_config.json").write_text(json.dumps(config | {"r": 96}))
    with pytest.raises(
        TensorMismatch, match=r"lora_A of .*dwconv' is \[48, 16, 7, 7\]; here it is \[96, 16, 7, 7\]"
    ):
        ours.attach(Artifact.read(path))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, dilation=2), "dilated"),
        (
            type("Own", (nn.Conv2d,), {"__init__": lambda self, size: nn.Conv2d.__init__(self, 4, 4, size)})(
                3
            ),
            "arguments",
        ),
    ],
)
def test_layers_that_peft_makes_otherwise_are_refused(layer: nn.Conv2d, reason: str) -> None:
    from adapthub.adapters.convolutions import update_under

    parts = {"lora_A": torch.zeros(2, 4, 3, 3), "lora_B": torch.zeros(4, 2, 1, 1)}
    with pytest.raises(UnsupportedAdapter, match=reason):
        update_under(layer, "layer", parts, 2, 1.0, lambda tensor: tensor)


def test_the_processor_is_the_bases_own(bases: Mapping[str, Path], tiny_base: Path) -> None:
    base = load_base(str(bases["vit"]), device="cpu")
    assert base.processor is not None
    picture = Image.new("RGB", (50, 40), (255, 0, 127))
    pixels = base.processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIDE, SIDE)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1, -1, 2 * 127 / 255 - 1], abs=1e-6)
    assert base.tokenizer is None
    assert load_base(str(tiny_base), device="cpu").processor is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_task_class_shares_the_backbone(bases: Mapping[str, Path], family: str) -> None:
    base: Base = load_base(str(bases[family]), device="cpu")
    model = task_model(base, IMAGE_CLASSIFICATION, ["cat", "dog", "owl"])
    assert head_modules(model) == ("classifier",)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    own = {id(parameter) for parameter in base.model.parameters()}
    outside = [name for name, parameter in model.named_parameters() if id(parameter) not in own]
    assert outside
    assert all(name.startswith("classifier.") for name in outside)


def test_pictures_that_make_no_batch(adapted: Mapping[str, AdaptedBase]) -> None:
    with pytest.raises(InvalidInput, match="make no batch"):
        adapted["resnet"].image_logits([torch.zeros(3, 32, 32), torch.zeros(3, 32, 40)], [(), ()])
    with pytest.raises(InvalidInput, match="1 pictures and 2 selections"):
        adapted["resnet"].image_logits([torch.zeros(3, 32, 32)], [(), ()])
    assert adapted["resnet"].image_logits([], []) == []


@pytest.mark.parametrize(("family", "name"), ALL)
def test_what_a_hub_says_of_it_without_torch(
    bases: Mapping[str, Path], saved: Mapping[tuple[str, str], Path], family: str, name: str
) -> None:
    """It fits its own base, and no other family's."""
    artifact = Artifact.read(saved[family, name])
    for other, path in bases.items():
        record = record_base(resolve_base(str(path)))
        if other == family:
            check_fit(record, artifact.config, artifact.shapes)
        else:
            with pytest.raises(TensorMismatch):
                check_fit(record, artifact.config, artifact.shapes)


def test_a_convolution_of_another_size_does_not_fit(bases: Mapping[str, Path], tmp_path: Path) -> None:
    artifact = Artifact.read(save_adapter(bases["resnet"], tmp_path / "a", lora_config(["convolution"])))
    record = record_base(resolve_base(str(bases["resnet"])))
    for end, shape in (
        ("lora_A.weight", (4, 3, 5, 5)),
        ("lora_B.weight", (16, 3, 1, 1)),
        ("lora_B.weight", (9, 4, 1, 1)),
    ):
        key = next(key for key in artifact.shapes if key.endswith(f"embedder.convolution.{end}"))
        with pytest.raises(TensorMismatch, match="needs"):
            check_fit(record, artifact.config, {**artifact.shapes, key: shape})


def test_how_pictures_are_prepared_is_part_of_a_base(bases: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bases["resnet"], tmp_path / "copy"))
    before = resolve_base(str(copy)).fingerprint
    assert before == resolve_base(str(bases["resnet"])).fingerprint
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0, 0, 0]}))
    assert resolve_base(str(copy)).fingerprint.difference(before)
