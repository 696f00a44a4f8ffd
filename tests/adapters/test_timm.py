"""timm's models, whose classifier lies inside: against PEFT. Runs where timm is installed (the extra `timm`)."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION

pytest.importorskip("timm")


def plain(path: Path, labels: int) -> Any:
    auto: Any = import_module("transformers").AutoModelForImageClassification
    torch.manual_seed(5)
    return auto.from_pretrained(path, num_labels=labels, ignore_mismatched_sizes=True).eval()


@pytest.mark.parametrize(
    ("architecture", "head", "targets"),
    [
        ("tf_efficientnet_lite0", "classifier", ["conv_stem", "conv_pw", "conv_pwl", "conv_head"]),
        ("resnet10t", "fc", ["conv1", "conv2"]),
        ("vit_tiny_patch16_224", "head", ["qkv", "proj", "fc1"]),
        ("convnext_atto", "head.fc", ["fc1", "fc2"]),
    ],
)
def test_alone_and_mixed_equal_peft(architecture: str, head: str, targets: list[str], tmp_path: Path) -> None:
    timm, transformers = import_module("timm"), import_module("transformers")
    torch.manual_seed(0)
    settings = timm.create_model(architecture, pretrained=False).pretrained_cfg
    config = transformers.TimmWrapperConfig(architecture=architecture, pretrained_cfg=settings, num_labels=7)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), device="cpu")
    assert base.processor is not None
    assert head_modules(task_model(base, IMAGE_CLASSIFICATION, ["a", "b"])) == (head,)
    ours, rows, expected, digests = AdaptedBase(base), torch.randn(2, 3, 224, 224), [], []
    for seed, labels in enumerate((3, 4)):
        lora = LoraConfig(r=4, target_modules=targets, modules_to_save=[head], init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            get_peft_model(plain(tmp_path / "base", labels), lora).save_pretrained(str(tmp_path / f"{seed}"))
            model = PeftModel.from_pretrained(
                plain(tmp_path / "base", labels), str(tmp_path / f"{seed}")
            ).eval()
        with torch.inference_mode():
            expected.append(model(pixel_values=rows[seed : seed + 1]).logits[0])
        digests.append(ours.attach(Artifact.read(tmp_path / f"{seed}")))
    mixed = ours.image_logits(list(rows), [((1.0, digest),) for digest in digests])
    for mine, theirs in zip(mixed, expected, strict=True):
        assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5
