"""Task models: a transformers task model built around a base that is already loaded.

`task_model` is what training wraps in PEFT: the family's own class (BertForTokenClassification, ...) whose backbone is
the loaded base itself, shared and possibly quantised, with a fresh head. Serving runs heads alone (served_heads).

Does not load bases, does not know LoRA, does not turn logits into labels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from adapthub.adapters.errors import InvalidSettings, UnsupportedAdapter
from adapthub.adapters.module_trees import absent_children, with_module, without_modules
from adapthub.adapters.speech import no_speech, writes_speech
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH, TEXT_GENERATION
from adapthub.adapters.timm_heads import classifier_name, is_timm

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

TOKEN_CLASSIFICATION = "token-classification"
TEXT_CLASSIFICATION = "text-classification"
QUESTION_ANSWERING = "question-answering"
FEATURE_EXTRACTION = "feature-extraction"

_CLASSES: Mapping[str, Any] = {
    TOKEN_CLASSIFICATION: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    TEXT_CLASSIFICATION: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    QUESTION_ANSWERING: MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    IMAGE_CLASSIFICATION: MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
}
TASKS_WITH_HEADS = tuple(_CLASSES)
TASKS_BY_TOKEN = (TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
SPAN_ENDS = ("start", "end")  # what a head for question answering says of each token
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
    The head is drawn from torch's global generator and has the base's dtype and device. For text generation it is the base
    itself, whose language-model head is its own, and so for speech recognition; for feature extraction the backbone without
    a head or a pooler.

    Raises InvalidSettings where the base's family has no class for the task.
    """
    if task == TEXT_GENERATION:
        if base.model.get_output_embeddings() is None:
            raise InvalidSettings(
                f"{base.ref} has no language-model head, so it generates no text",
                hint="Choose a base that does, such as package:smollm2-135m.",
            )
        return base.model
    if task == FEATURE_EXTRACTION:
        return _without_pooler(base)
    if task == SPEECH:
        if not writes_speech(base.model):
            raise no_speech(base.ref)
        return base.model
    model = skeleton(base.model.config, task, labels)
    for name in head_modules(model):
        module = model.get_submodule(inside(model, name))
        module.to_empty(device=base.device)
        module.to(base.dtype)
        # transformers marks what is initialised on modules and parameters; a head on meta never was.
        module.apply(model._init_weights)
    prefix = model.base_model_prefix
    wanted = cast(nn.Module, getattr(model, prefix))
    if is_timm(model.config):
        name = classifier_name(model)
        shared = with_module(base.backbone, name, wanted.get_submodule(name))
    else:
        shared = without_modules(base.backbone, absent_children(base.backbone, wanted))
    setattr(model, prefix, shared)
    _say_quantised(base, model)
    model.name_or_path = base.ref
    return cast(PreTrainedModel, model.eval())


def outputs_of(output: Any) -> torch.Tensor:
    """What a model's answer to a batch [B, L] says for its task: logits [B, labels] or [B, L, labels]; of starts and ends
    [B, L, 2] for question answering; of a backbone alone the last hidden state [B, L, hidden]."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return cast(torch.Tensor, output.logits if "logits" in output else output.last_hidden_state)


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the modules outside the backbone that have parameters: what an adapter must carry to be complete.

    None of a model with a language-model head, which is the base's own, or of a backbone alone. Of timm's models it is the
    classifier's name inside the model.
    """
    if is_timm(model.config):
        return (classifier_name(model),)
    if model.get_output_embeddings() is not None or model.base_model is model:
        return ()
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def inside(model: PreTrainedModel, name: str) -> str:
    """The whole name of one of `head_modules`."""
    return f"{model.base_model_prefix}.{name}" if is_timm(model.config) else name


def skeleton(config: Any, task: str, labels: Sequence[str]) -> PreTrainedModel:
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
    if config.is_encoder_decoder:
        raise InvalidSettings(
            f"base models of type {config.model_type!r} have an encoder and a decoder; {task} is not run on such here",
            hint="Choose an encoder, such as package:minilm, or a decoder.",
        )
    if task == QUESTION_ANSWERING and mapping[type(config)].base_model_prefix != _plain_prefix(config):
        raise InvalidSettings(
            f"base models of type {config.model_type!r} have another layout under {task}, which is not run here",
            hint="Choose an encoder, such as package:minilm.",
        )
    config = copy.deepcopy(config)
    labels = SPAN_ENDS if task == QUESTION_ANSWERING else labels
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.device("meta"):
        return cast(PreTrainedModel, mapping[type(config)](config))


def _plain_prefix(config: Any) -> str:
    """What the family's backbone is called where it has no head."""
    plain: Any = MODEL_MAPPING[type(config)]
    return str((plain[0] if isinstance(plain, tuple) else plain).base_model_prefix)


def _without_pooler(base: Base) -> PreTrainedModel:
    """The base's backbone, shared, as a model of its own: whoever loads it with AutoModel has the same names."""
    names = ["pooler"] if isinstance(getattr(base.backbone, "pooler", None), nn.Module) else []
    model = copy.copy(without_modules(base.backbone, names))
    model._modules = dict(model._modules)
    _say_quantised(base, model)
    return cast(PreTrainedModel, model)


def _say_quantised(base: Base, model: nn.Module) -> None:
    for attribute in _QUANTISED_ATTRIBUTES:
        if hasattr(base.model, attribute):
            setattr(model, attribute, getattr(base.model, attribute))
