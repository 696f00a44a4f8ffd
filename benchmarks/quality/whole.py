"""Full fine-tuning by the loop that trains adapters: every weight of the base, as that loop takes a PEFT model.

Does not train or measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from adapthub.adapters.heads import head_modules, task_model
from adapthub.recipes.adaptation import Adaptation
from adapthub.recipes.recipe import PreferringRecipe

if TYPE_CHECKING:
    from adapthub.adapters.base import Base
    from adapthub.recipes.job import Job


def whole(base: Base, job: Job) -> Adaptation:
    """The task's model with every weight trained, the base's own ones too: it is not given back.

    What the checkpoint had no weights for learns as fast as the head, as it does beside an adapter. A copy of the weights is
    kept where the recipe compares with the model as it was.
    """
    model = task_model(base, job.task, job.labels).requires_grad_(True)
    for name, parameter in model.named_parameters():
        if (
            "squeeze_excite" in name
        ):  # EfficientNet-Lite has none: constants there pass everything on, without a gradient
            parameter.requires_grad_(False)
    head = (*head_modules(model), *(name for name in base.uninitialised if hasattr(model.base_model, name)))
    before = (
        [one.detach().clone() for one in model.parameters()]
        if isinstance(job.recipe, PreferringRecipe)
        else []
    )
    for name, answer in {
        "get_base_model": lambda: model,
        "active_peft_config": SimpleNamespace(is_prompt_learning=False),
        "disable_adapter": lambda: _as_before(model, before),
        "delete_adapter": lambda name: None,
    }.items():
        setattr(model, name, answer)
    return Adaptation(cast(PeftModel, model), head)


@contextmanager
def _as_before(model: PreTrainedModel, before: list[Tensor]) -> Iterator[None]:
    """Within: the model computes with the weights `before`."""
    trained: list[tuple[Any, Tensor]] = [(one, one.data) for one in model.parameters()]
    for (one, _), values in zip(trained, before, strict=True):
        one.data = values
    torch.clear_autocast_cache()  # it goes by the parameter, not by its values
    try:
        yield
    finally:
        for one, values in trained:
            one.data = values
        torch.clear_autocast_cache()
