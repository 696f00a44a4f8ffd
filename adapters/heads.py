"""Task heads: a transformers task model built around a base that is already loaded, and heads alone.

`task_model` is what training wraps in PEFT: the family's own class (BertForTokenClassification, ...) whose backbone is
the loaded base itself, shared and possibly quantised, with a fresh head. `Head` is what serving uses: the same class
with its backbone replaced by hidden states that were computed already, so that one pass of the backbone feeds many
heads and every pooling rule stays the family's own.

Does not load bases, does not know LoRA, does not turn logits into labels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)

from adapthub.adapters.errors import InvalidSettings, TensorMismatch, UnsupportedAdapter

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

TOKEN_CLASSIFICATION = "token-classification"
TEXT_CLASSIFICATION = "text-classification"

_CLASSES: Mapping[str, Any] = {
    TOKEN_CLASSIFICATION: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    TEXT_CLASSIFICATION: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
# A label count that no real layer has as a dimension: finds which dimensions of a head are the label count.
_PROBE_LABELS = 7919
# What transformers and PEFT read on a model to know that its layers are quantised.
_QUANTISED_ATTRIBUTES = (
    "is_quantized",
    "hf_quantizer",
    "quantization_method",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "is_4bit_serializable",
    "is_8bit_serializable",
)


def task_model(base: Base, task: str, labels: Sequence[str]) -> PreTrainedModel:
    """The base's own class for `task`, sharing the base's backbone, with a freshly initialised head.

    The backbone's weights are shared, not copied: wrapping the result in PEFT changes `base.model` until PEFT's
    `unload()`. Backbone modules that this class does not use (a pooler under token classification) are left out.
    The head is drawn from torch's global generator and has the base's dtype and device.

    Raises InvalidSettings where the base's family has no class for the task.
    """
    model = _skeleton(base.model.config, task, labels)
    prefix = model.base_model_prefix
    wanted = cast(nn.Module, getattr(model, prefix))
    setattr(model, prefix, without_modules(base.backbone, _absent_children(base.backbone, wanted)))
    for name, module in model.named_children():
        if name != prefix:
            module.to_empty(device=base.device)
            module.to(base.dtype)
            # transformers marks what is initialised on modules and parameters; a head on meta never was.
            module.apply(model._init_weights)
    for attribute in _QUANTISED_ATTRIBUTES:
        if hasattr(base.model, attribute):
            setattr(model, attribute, getattr(base.model, attribute))
    model.name_or_path = base.ref
    return cast(PreTrainedModel, model.eval())


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the modules outside the backbone that have parameters: what an adapter must carry to be complete."""
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def without_modules(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A shallow copy of `module` whose direct children `names` are None; every other child is shared."""
    if not names:
        return module
    clone = copy.copy(module)
    clone._modules = {name: None if name in names else child for name, child in module._modules.items()}
    return clone


class Head:
    """One adapter's head over hidden states that a shared backbone computed.

    `tensors` maps parameter names of the task class outside its backbone ("classifier.weight") to values; all of
    them must be used and none may be missing, else TensorMismatch names it.
    """

    def __init__(self, base: Base, task: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self.task = task
        self.labels = _count_labels(base.model.config, task, tensors)
        model = _skeleton(base.model.config, task, [str(index) for index in range(self.labels)])
        self.uses_pooler = getattr(getattr(model, model.base_model_prefix), "pooler", None) is not None
        self._given = _Given()
        setattr(model, model.base_model_prefix, self._given)
        expected = {name: parameter.shape for name, parameter in model.named_parameters()}
        _check_names(set(expected), set(tensors), task)
        for name, shape in expected.items():
            if tensors[name].shape != shape:
                raise TensorMismatch(
                    f"head tensor {name!r} is {list(tensors[name].shape)}; this base needs {list(shape)}"
                )
        self.tensors = {
            name: value.to(device=base.device, dtype=base.dtype) for name, value in tensors.items()
        }
        model.load_state_dict(self.tensors, assign=True)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = base.tokenizer.pad_token_id if base.tokenizer is not None else None
        self._model = model.eval().requires_grad_(False)
        self._linear = _only_linear(model, task)

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Token classification: hidden states [T, hidden] to logits [T, labels]."""
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

        `pooler_output` [B, hidden] is the backbone's pooler where it has one; `input_ids` and `attention_mask`
        [B, L] are for families that pool the last or the mean token.
        """
        return self._run(hidden, pooler_output, input_ids=input_ids, attention_mask=attention_mask)

    def _run(self, hidden: torch.Tensor, pooled: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        if "input_ids" not in inputs:
            inputs["input_ids"] = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        self._given.output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=hidden, pooler_output=pooled
        )
        try:
            return cast(torch.Tensor, self._model(**inputs).logits)
        finally:
            self._given.output = None


class _Given(nn.Module):
    """Stands where the backbone stands, and returns what it was given."""

    output: BaseModelOutputWithPoolingAndCrossAttentions | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        assert self.output is not None
        return self.output


def _skeleton(config: Any, task: str, labels: Sequence[str]) -> PreTrainedModel:
    """The task class on the meta device, with `labels` in its configuration."""
    if task not in _CLASSES:
        raise UnsupportedAdapter(
            f"no head for task {task!r}", hint=f"Tasks with heads: {', '.join(_CLASSES)}."
        )
    mapping = _CLASSES[task]
    if type(config) not in mapping:
        raise InvalidSettings(
            f"base models of type {config.model_type!r} have no {task} class in transformers",
            hint="Choose another base model.",
        )
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.device("meta"):
        return cast(PreTrainedModel, mapping[type(config)](config))


def _absent_children(loaded: nn.Module, wanted: nn.Module) -> list[str]:
    return [
        name
        for name, child in loaded.named_children()
        if child is not None and wanted._modules.get(name) is None
    ]


def _count_labels(config: Any, task: str, tensors: Mapping[str, torch.Tensor]) -> int:
    """The label count, read off the dimension of the saved head that depends on it."""
    probe = _skeleton(config, task, [str(index) for index in range(_PROBE_LABELS)])
    for name, parameter in probe.named_parameters():
        if _PROBE_LABELS in parameter.shape and name in tensors:
            dimension = list(parameter.shape).index(_PROBE_LABELS)
            if tensors[name].dim() == parameter.dim():
                return int(tensors[name].shape[dimension])
    raise TensorMismatch(
        f"the adapter has no head for {task}: none of its tensors gives the label count",
        hint="Train with the head in modules_to_save.",
    )


def _check_names(expected: set[str], got: set[str], task: str) -> None:
    if missing := sorted(expected - got):
        raise TensorMismatch(f"the adapter's head for {task} lacks {', '.join(map(repr, missing))}")
    if left := sorted(got - expected):
        raise TensorMismatch(
            f"the adapter's head for {task} has tensors that nothing uses: {', '.join(map(repr, left))}"
        )


def _only_linear(model: PreTrainedModel, task: str) -> nn.Linear | None:
    """The head's one linear layer where the family's forward is that layer alone; verified, not assumed."""
    if task != TOKEN_CLASSIFICATION:
        return None
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None
    linear = layers[0]
    given = cast(_Given, getattr(model, model.base_model_prefix))
    hidden = torch.linspace(
        -1, 1, 2 * linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype
    )
    given.output = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden.view(1, 2, -1))
    with torch.inference_mode():
        theirs = model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=hidden.device)).logits
    given.output = None
    return linear if torch.equal(theirs[0], linear(hidden.view(2, -1))) else None
