"""Task heads alone, over hidden states that a shared backbone computed: what serving uses.

A head is the family's own task class (heads) with its backbone replaced by what was computed already, so that one pass of
the backbone feeds many heads and every pooling rule stays the family's own. Does not turn logits into labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as _Output
from transformers.utils.generic import ModelOutput

from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.heads import (
    QUESTION_ANSWERING,
    SPAN_ENDS,
    TASKS_BY_TOKEN,
    inside,
    outputs_of,
    skeleton,
)
from adapthub.adapters.module_trees import own_parameters
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from adapthub.adapters.timm_heads import GivenPooled, classifier_name, is_timm

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

# A label count that no real layer has as a dimension: finds which dimensions of a head are the label count.
_PROBE_LABELS = 7919


class Heads:
    """Makes heads for one base. Keeps one template a task, so that a head costs its own parameters only."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._templates: dict[str, _Template] = {}

    def make(self, task: str, tensors: Mapping[str, torch.Tensor]) -> Head:
        """A head from its saved tensors, by parameter name outside the backbone ("classifier.weight").

        Raises TensorMismatch where one is missing, left over or of another shape; UnsupportedAdapter or
        InvalidSettings where the base's family has no such head.
        """
        if task not in self._templates:
            self._templates[task] = _Template.of(self._base, task)
        template = self._templates[task]
        labels = template.check(tensors)
        moved = {
            name: value.to(device=self._base.device, dtype=self._base.dtype)
            for name, value in tensors.items()
        }
        model, linear = template.fill(labels, moved)
        return Head(task, labels, template.pooling, moved, model, linear)


class Head:
    """One adapter's head over hidden states that a shared backbone computed.

    `labels` counts its outputs; `uses_pooler` says whether it reads the backbone's pooler; `tensors` are its
    parameters by name, on the base's device; `padding` is the token id that it takes for padding.
    """

    def __init__(
        self,
        task: str,
        labels: int,
        pooling: _Pooling,
        tensors: Mapping[str, torch.Tensor],
        model: PreTrainedModel,
        linear: nn.Linear | None,
    ) -> None:
        self.task = task
        self.labels = labels
        self.uses_pooler = pooling.used
        self.tensors = tensors
        self.padding = int(model.config.get_text_config().pad_token_id)
        self._pooling = pooling
        self._model = model
        self._given = cast(_Given, getattr(model, model.base_model_prefix))
        self._linear = linear

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Token classification and question answering: hidden states [T, hidden] to logits [T, labels] or [T, 2]."""
        if self._linear is not None:
            return cast(torch.Tensor, self._linear(hidden))
        return self._run(hidden[None], None)[0]

    def pooled(
        self,
        hidden: torch.Tensor,
        pooler_output: torch.Tensor | None,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Text classification: right-padded hidden states [B, L, hidden] to logits [B, labels].

        `pooler_output` is what the backbone's module `pooler` gave, where it has one: [B, hidden], or [B, L, hidden]
        from ALBERT's, which is a linear layer alone. `input_ids` and `attention_mask` [B, L] are for families
        that pool the last or the mean token.
        """
        if pooler_output is not None and self._pooling.activation is not None:
            pooler_output = self._pooling.activation(pooler_output[:, 0])
        return self._run(hidden, pooler_output, input_ids=input_ids, attention_mask=attention_mask)

    def pictures(self, output: ModelOutput) -> torch.Tensor:
        """Image classification: what the whole backbone gave for n pictures, to logits [n, labels]."""
        self._given.output = output
        try:
            return cast(torch.Tensor, self._model(pixel_values=output["last_hidden_state"]).logits)
        finally:
            self._given.output = None

    def _run(self, hidden: torch.Tensor, pooled: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        if "input_ids" not in inputs:
            inputs["input_ids"] = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        self._given.output = _Output(last_hidden_state=hidden, pooler_output=pooled)
        try:
            return outputs_of(self._model(**inputs))
        finally:
            self._given.output = None


@dataclass(frozen=True)
class _Pooling:
    """Whether a head reads the backbone's pooler, and what the backbone itself does to the pooler's first token after."""

    used: bool
    activation: nn.Module | None

    @classmethod
    def of(cls, backbone: nn.Module) -> _Pooling:
        pooler = getattr(backbone, "pooler", None)
        alone = isinstance(pooler, nn.Linear)
        return cls(pooler is not None, getattr(backbone, "pooler_activation", None) if alone else None)


class _Template:
    """A task class without backbone and without weights, as many outputs as `_PROBE_LABELS`.

    `linear` names the one layer that is the whole head, where that is so; None otherwise.
    """

    def __init__(self, task: str, model: PreTrainedModel, pooling: _Pooling, linear: str | None) -> None:
        self.pooling = pooling
        self._task = task
        self._model = model
        self._linear = linear
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    @classmethod
    def of(cls, base: Base, task: str) -> _Template:
        model = skeleton(base.model.config, task, [str(index) for index in range(_PROBE_LABELS)])
        pictures = task == IMAGE_CLASSIFICATION
        pooling = _Pooling(False, None) if pictures else _Pooling.of(getattr(model, model.base_model_prefix))
        given: nn.Module = _Given()
        if is_timm(model.config):
            name = classifier_name(model)
            given = GivenPooled(name, model.get_submodule(inside(model, name)))
        setattr(model, model.base_model_prefix, given)
        config = model.config.get_text_config()
        if getattr(config, "pad_token_id", None) is None:
            pad = base.tokenizer.pad_token_id if base.tokenizer is not None else None
            config.pad_token_id = -1 if pad is None else pad  # -1: no row has it, and heads only compare
        model = model.eval().requires_grad_(False)
        return cls(task, model, pooling, _only_linear(model, task))

    def check(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """The label count of a saved head, whose tensors are exactly this head's."""
        spans = self._task == QUESTION_ANSWERING
        labels = len(SPAN_ENDS) if spans else _count_labels(self._shapes, tensors, self._task)
        if missing := sorted(set(self._shapes) - set(tensors)):
            raise TensorMismatch(f"the adapter's head for {self._task} lacks {', '.join(map(repr, missing))}")
        if left := sorted(set(tensors) - set(self._shapes)):
            raise TensorMismatch(
                f"the adapter's head for {self._task} has tensors that nothing uses: {', '.join(map(repr, left))}"
            )
        for name, shape in self._shapes.items():
            expected = [labels if size == _PROBE_LABELS else size for size in shape]
            if list(tensors[name].shape) != expected:
                raise TensorMismatch(
                    f"head tensor {name!r} is {list(tensors[name].shape)}; this base needs {expected}"
                )
        return labels

    def fill(
        self, labels: int, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[PreTrainedModel, nn.Linear | None]:
        """A copy with weights, and its one linear layer."""
        model = cast(PreTrainedModel, own_parameters(self._model))
        for name, tensor in tensors.items():
            owner, _, parameter = name.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, parameter, nn.Parameter(tensor, requires_grad=False))
            if isinstance(module, nn.Linear) and module.out_features == _PROBE_LABELS:
                module.out_features = labels
        linear = None if self._linear is None else cast(nn.Linear, model.get_submodule(self._linear))
        return model, linear


class _Given(nn.Module):
    """Stands where the backbone stands, and returns what it was given."""

    output: ModelOutput | None = None

    def forward(self, *_: Any, **__: Any) -> ModelOutput:
        assert self.output is not None
        return self.output


def _count_labels(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, torch.Tensor], task: str
) -> int:
    """The label count, read off the dimension of the saved head that depends on it."""
    for name, shape in shapes.items():
        if _PROBE_LABELS in shape and name in tensors and tensors[name].dim() == len(shape):
            return int(tensors[name].shape[shape.index(_PROBE_LABELS)])
    raise TensorMismatch(
        f"the adapter has no head for {task}: none of its tensors gives the label count",
        hint="Train with the head in modules_to_save.",
    )


def _only_linear(model: PreTrainedModel, task: str) -> str | None:
    """The head's one linear layer where the family's forward is that layer alone; tried, not assumed."""
    if task not in TASKS_BY_TOKEN:
        return None
    layers = [
        name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    ]
    if len(layers) != 1 or not isinstance(model.get_submodule(layers[0]), nn.Linear):
        return None
    trial = cast(PreTrainedModel, own_parameters(model)).to_empty(device="cpu")
    linear = cast(nn.Linear, trial.get_submodule(layers[0]))
    with torch.inference_mode():
        for parameter in linear.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        hidden = torch.linspace(-1, 1, 2 * linear.in_features, dtype=linear.weight.dtype).view(1, 2, -1)
        given = cast(_Given, getattr(trial, trial.base_model_prefix))
        given.output = _Output(last_hidden_state=hidden)
        theirs = outputs_of(trial(input_ids=torch.zeros((1, 2), dtype=torch.long)))
        return layers[0] if torch.equal(theirs[0], linear(hidden[0])) else None
