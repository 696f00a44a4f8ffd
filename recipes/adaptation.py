"""A base made trainable: the task model around it, wrapped by PEFT, and the base given back as it was.

Names every target module, so that what is saved says what was trained. Does not train and does not save.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import IA3Config, IA3Model, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    ModulesToSaveWrapper,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.errors import InvalidSettings, TrainingError
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.kernel_trial import kernels_run
from adapthub.adapters.layers import Convolution
from adapthub.adapters.methods import ALL_LINEAR, BY_CONFIGURATION, FAMILY, method_config
from adapthub.adapters.names import is_saved
from adapthub.adapters.processors import takes_pictures
from adapthub.adapters.tasks import SPEECH

if TYPE_CHECKING:
    from adapthub.adapters.base import Base
    from adapthub.adapters.tasks import Task


@dataclass(frozen=True)
class Adaptation:
    """A PEFT model over a base, and which of its modules are the head (saved whole, not as an update)."""

    model: PeftModel
    head: tuple[str, ...]
    hooks: tuple[RemovableHandle, ...] = ()

    @property
    def task_head(self) -> frozenset[str]:
        """Of `head`, the modules outside the backbone: those whose outputs are the task's labels."""
        model = cast(PreTrainedModel, self.model.get_base_model())
        return frozenset(head_modules(model))

    @property
    def trainable(self) -> int:
        """Parameters that training changes, the head included."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    @property
    def bytes(self) -> int:
        """Bytes of what an artifact will hold, without its documents."""
        parameters = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def tensors(self) -> dict[str, Tensor]:
        """What an artifact saves, by PEFT's keys."""
        tensors: dict[str, Tensor] = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def release(self) -> None:
        """Give the base back without any of PEFT's modules, frozen as before."""
        for hook in self.hooks:
            hook.remove()
        release(self.model)


def adapt(
    base: Base,
    task: Task,
    labels: tuple[str, ...],
    method: str,
    settings: Mapping[str, Any],
    ranks: Mapping[str, Any] | None = None,
) -> Adaptation:
    """Wrap `base` in PEFT for `task`. The base is changed until `release`.

    `ranks`: fields of a LoRA configuration that say which layers have which rank, where that was found before.

    New parameters are drawn from torch's global generator and are float32. Raises InvalidSettings where the
    method or its settings cannot work on this family of models.
    """
    if task == SPEECH and method in ("prefix", "prompt"):
        raise InvalidSettings(f"{method} tuning is not run on speech models", hint="Use method lora.")
    takes = inspect.signature(base.backbone.forward).parameters
    if method == "prefix" and "past_key_values" not in takes:
        family = base.model.config.model_type
        raise InvalidSettings(
            f"prefix tuning does not work on {family} models: they take no past keys and values",
            hint="Use method lora.",
        )
    model = task_model(base, task, labels)
    if task == SPEECH:
        _settle(model.config)
    if base.tokenizer is not None and model.config is not base.model.config:
        # rows are padded by the tokenizer; decoders classify at the last token before that
        model.config.pad_token_id = base.tokenizer.pad_token_id
    head = head_modules(model) + tuple(name for name in base.uninitialised if _has(model, name))
    feedforward: list[str] = []
    if method == "ia3":
        targets, feedforward = scaled_modules(model, settings["target_modules"], head)
        settings = {**settings, "target_modules": targets}
    elif "target_modules" in settings:
        chosen = target_modules(model, settings["target_modules"], head, rank=settings.get("rank", 0))
        settings = {**settings, "target_modules": chosen}
    config = method_config(
        method,
        task,
        modules_to_save=head,
        feedforward_modules=feedforward,
        encoder_decoder=bool(model.config.is_encoder_decoder),
        **settings,
    )
    if ranks is not None:
        vars(config).update(ranks, init_lora_weights=True, eva_config=None)
    with peft_warnings():
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, TypeError) as error:  # the latter of a convolution's own class, made as torch's
            raise InvalidSettings(f"{method} does not work on {base.ref}: {error}") from error
    if method == BY_CONFIGURATION and not wrapped.active_peft_config.is_prompt_learning:
        targets = sorted(cast(Any, wrapped.base_model).targeted_module_names)
        if isinstance(config, IA3Config):
            inner = [name for name in targets if IA3Model._check_target_module_feedforward(config, name)]
            vars(config).update(feedforward_modules=inner)
        vars(config).update(target_modules=targets)
    # PEFT appends names that a classification head might have; a local path spares its look-ups on a hub.
    vars(config).update(modules_to_save=list(head), base_model_name_or_path=str(base.path))
    vars(wrapped).update(create_or_update_model_card=_no_card)
    for parameter in filter(lambda parameter: parameter.requires_grad, wrapped.parameters()):
        parameter.data = parameter.data.float()
    if kernels_run(base.device) and find_spec("bitsandbytes"):
        from adapthub.recipes.joined_layers import join

        join(wrapped)
    return Adaptation(wrapped, head, _frozen_statistics(wrapped))


def _no_card(folder: str) -> None:
    """Checkpoints need none; PEFT's own takes a third of the time that one of a small adapter takes."""


def _settle(config: PretrainedConfig) -> None:
    """Only training reads these. Whole layers that are left out at random get no gradient; a loss by the character is
    comparable between recordings."""
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if hasattr(config, "ctc_loss_reduction"):
        config.ctc_loss_reduction = "mean"


def target_modules(
    model: PreTrainedModel, wanted: str | Sequence[str], head: Sequence[str], *, rank: int = 0
) -> list[str]:
    """Full names of the layers that `wanted` means: "all-linear", or names and endings of names of linear layers and
    convolutions. Of a model that reads pictures "all-linear" means its convolutions too, which are linear, but not those in
    groups, which have little to adapt, nor layers that are narrower than `rank`.

    Raises InvalidSettings for a name that no such layer of the backbone has.
    """
    layers = target_layers(model, head)
    if wanted == ALL_LINEAR:
        return [name for name, module in layers.items() if _is_worth_it(module, model, rank)]
    endings = [wanted] if isinstance(wanted, str) else list(wanted)
    chosen = set()
    for ending in endings:
        found = [name for name in layers if name == ending or name.endswith(f".{ending}")]
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name in layers})
            raise InvalidSettings(
                f"target_modules: no linear layer is named {ending!r}", hint=f"There is: {', '.join(kinds)}."
            )
        chosen.update(found)
    return sorted(chosen)


def scaled_modules(
    model: PreTrainedModel, wanted: str | Sequence[str], head: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The layers that IA3 scales, by full name, and those of them that scale their input: feed-forward layers, as far as
    PEFT knows the family. Raises InvalidSettings where it does not and none are named.
    """
    family = model.config.model_type
    if wanted == FAMILY:
        known = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(family)
        if known is None:
            raise InvalidSettings(
                f"PEFT does not know which layers IA3 scales in {family} models",
                hint="Name them: target_modules=key,value.",
            )
        wanted = known
    targets = target_modules(model, wanted, head)
    inner = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(family, ())
    return targets, [name for name in targets if name.endswith(tuple(inner))]


def target_layers(model: PreTrainedModel, without: Sequence[str]) -> dict[str, nn.Module]:
    """Every linear layer of the backbone, quantised ones too, and every convolution, outside the modules `without`, by full
    name in their order."""
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    output = model.get_output_embeddings()
    return {
        name: module
        for name, module in sorted(model.named_modules())
        if name.startswith(prefix)
        and isinstance(module, (nn.Linear, Conv1D, Convolution))
        and module is not output
        and not is_saved(name, without)
    }


def _is_worth_it(module: nn.Module, model: PreTrainedModel, rank: int) -> bool:
    if not isinstance(module, Convolution):
        return True
    narrowest = min(module.out_channels, module.weight[0].numel())
    return takes_pictures(model.config) and module.groups == 1 and narrowest > rank


def _frozen_statistics(model: nn.Module) -> tuple[RemovableHandle, ...]:
    """Keep the base's batch normalisation as it is served while the rest trains: its running statistics are the base's."""

    def as_served(module: nn.Module, _: Any) -> None:
        module.eval()

    return tuple(
        module.register_forward_pre_hook(as_served)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not any(parameter.requires_grad for parameter in module.parameters())
    )


def precision(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """What training computes in on a base of `dtype`: "fp32", "bf16" or "fp16"; `wanted` may also be "auto".

    That is the base's own number format, but bf16 on a float32 base where the processor multiplies bfloat16
    natively: there it takes less than half the time (benchmarks/precision.py), and elsewhere several times as much.
    """
    if wanted != "auto":
        return wanted
    if dtype == torch.float32 and device.type == "cpu" and multiplies_bfloat16():
        return "bf16"
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def multiplies_bfloat16() -> bool:
    """Whether this processor has matrix instructions for bfloat16 (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(base: Base) -> AbstractContextManager[Any]:
    """What a trained model is checked in: the base's number format, although new parameters are float32."""
    if base.dtype == torch.float32:
        return nullcontext()
    # Without the cache: it would hold on to the values that a weight had when it was first read.
    return torch.autocast(base.device.type, dtype=base.dtype, cache_enabled=False)


def release(model: PeftModel) -> None:
    """Take PEFT's modules out of the base again, and what it trained in their place, which `unload` would leave there."""
    replaced = [
        (module, name, child.original_module)
        for module in model.base_model.modules()
        for name, child in module.named_children()
        if isinstance(child, ModulesToSaveWrapper)
    ]
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    for module, name, original in replaced:
        setattr(module, name, original)


class GradientCheck:
    """Every adapter matrix must get a gradient within the first two steps, else the run trains nothing there.

    Two, because LoRA's B starts at zero and A has no gradient before B has moved.
    """

    def __init__(self, model: nn.Module) -> None:
        self._missing = {
            name: p
            for name, p in model.named_parameters()
            if p.requires_grad
            and "trainable_tokens_delta" not in name  # these tokens need not be in the first rows
        }

    def see(self) -> None:
        """Look at the gradients of one step."""
        reached = [name for name, p in self._missing.items() if p.grad is not None and bool(p.grad.any())]
        for name in reached:
            del self._missing[name]

    def require_all(self) -> None:
        """Raises TrainingError naming the parameters that got no gradient."""
        if self._missing:
            names = sorted(
                name.replace(".default", "").removeprefix("base_model.model.") for name in self._missing
            )
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise TrainingError(
                f"no gradient reaches {', '.join(names[:3])}{more}: they would never be trained",
                hint="Choose target_modules that the task's forward pass runs through.",
            )


def _has(model: PreTrainedModel, part: str) -> bool:
    """Whether the task model kept a child of the backbone."""
    backbone: nn.Module = model.base_model
    return backbone._modules.get(part) is not None


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Without what PEFT 0.21, and TRL, make transformers 5.23 say about its own names, whatever we do, and PEFT's advice on
    EVA."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="lora with eva initialization used with low_cpu_mem_usage")
        yield
