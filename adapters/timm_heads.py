"""The classifiers of timm's models, which lie inside the model: transformers wraps them without a backbone of its own.

A base is loaded without its classifier (timm puts an Identity there), and what it pools is what a classifier reads.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from adapthub.adapters.errors import InvalidSettings


def is_timm(config: PretrainedConfig) -> bool:
    """Whether transformers only wraps a model of timm."""
    return bool(config.model_type == "timm_wrapper")


def classifier_name(model: PreTrainedModel) -> str:
    """The classifier's name inside the timm model that `model` wraps: "classifier", "head.fc".

    Raises InvalidSettings for a model with several, or one that does not say.
    """
    settings = getattr(model.timm_model, "pretrained_cfg", None) or {}
    name = settings.get("classifier")
    if not isinstance(name, str):
        raise InvalidSettings(
            f"timm's {model.config.architecture} has {'several classifiers' if name else 'no classifier'}; "
            "image classification needs one",
            hint="Choose another base model.",
        )
    return name


class GivenPooled(nn.Module):
    """Stands where the timm model stands: its classifier alone, over pooled features that were computed before."""

    output: Any = None

    def __init__(self, name: str, classifier: nn.Module) -> None:
        super().__init__()
        self._name = name
        owner: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(last, classifier)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Pooled features [n, features] to logits [n, labels]."""
        return self.get_submodule(self._name)(self.output.pooler_output)
