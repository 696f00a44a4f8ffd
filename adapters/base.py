"""Base models: loaded once, quantised or not, on CPU or GPU, and never modified after.

One loading path for training, serving and evaluation. `resolve_base` finds a base and its fingerprint without
loading weights. Does not know adapters or task heads, and runs no code that comes with a model: built-in
classes, safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from adapthub.adapters.errors import BaseNotFound, InvalidSettings, MissingDependency
from adapthub.adapters.fingerprint import Fingerprint, fingerprint, tokenizer_files
from adapthub.adapters.memory import memory_errors, require_memory
from adapthub.adapters.placement import (
    Quantization,
    choose_device,
    choose_dtype,
    choose_quantization,
    first_line,
    published_quantization,
)
from adapthub.adapters.processors import load_processor, takes_pictures
from adapthub.adapters.products import quicken
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.sources import locate
from adapthub.adapters.weights import loaded_bytes, read_headers

_AUTO_CLASSES: tuple[tuple[Any, Mapping[str, Any]], ...] = (
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    (AutoModelForSpeechSeq2Seq, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES),
    (AutoModelForCTC, MODEL_FOR_CTC_MAPPING_NAMES),
)
# Backbone parts that published encoders lack because their own task did not use them.
_OPTIONAL_PARTS = ("pooler",)
# A parameter that only training with masked inputs reads: checkpoints of Wav2Vec2's kin may lack it.
_UNREAD = ("masked_spec_embed",)
_SMALLER = "Use a smaller base model or another device."


@dataclass(frozen=True)
class ResolvedBase:
    """A base on this disk, known but not loaded. `revision` is the Hub's commit, None for what has none."""

    ref: str
    revision: str | None
    path: Path
    config: PretrainedConfig
    fingerprint: Fingerprint


@dataclass(eq=False)
class Base:
    """A loaded base model: in evaluation mode, no parameter takes gradients.

    `dtype` is that of activations and of what is not quantised. `uninitialised` names the backbone's modules
    that the checkpoint has no weights for (a BERT without its "pooler"): they hold the same arbitrary values
    on every load, are never quantised, and mean nothing unless an adapter brings its own. `processor` prepares what is
    no text, where the base reads such.
    """

    ref: str
    revision: str | None
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    quantization: Quantization | None
    device: torch.device
    dtype: torch.dtype
    fingerprint: Fingerprint
    uninitialised: tuple[str, ...]
    processor: Any | None = None

    @property
    def backbone(self) -> PreTrainedModel:
        """The model without its language-model head; the model itself where it has none."""
        return cast(PreTrainedModel, self.model.base_model)

    @property
    def resolved(self) -> ResolvedBase:
        """What is known of it without its weights."""
        return ResolvedBase(self.ref, self.revision, self.path, self.model.config, self.fingerprint)


def resolve_base(ref: str, *, revision: str | None = None) -> ResolvedBase:
    """Find a base, downloading what is missing, and fingerprint it. `ref` is as for `load_base`.

    Raises BaseNotFound for what is not there, is not a base, or needs code of its own.
    """
    where = locate(ref, revision)
    try:
        config = AutoConfig.from_pretrained(where.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BaseNotFound(
            f"{ref}: transformers cannot read its configuration: {first_line(error)}"
        ) from error
    return ResolvedBase(ref, where.revision, where.path, config, fingerprint(where.path, beside=where.own))


def load_base(
    ref: str,
    quantize: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    revision: str | None = None,
) -> Base:
    """Load a base model.

    `ref` is a Hub id, a local folder, or `package:NAME` (a sample's name or an installed package that ships a
    model). `quantize` is "nf4" (with double quantisation), "int8" or None. Every linear layer of the backbone
    is quantised whatever class loads it; embeddings, norms and the language-model head are not. `device`
    "auto" is CUDA where there is one, else the CPU. `dtype` "auto" is bfloat16 on CUDA (float16 where the
    card lacks it) and float32 on the CPU, where bfloat16 matrix products are slower without AVX-512.

    Raises BaseNotFound, InvalidSettings (unknown option, or one that does not work here), MissingDependency
    and OutOfMemory.
    """
    quantization = choose_quantization(quantize)
    where = choose_device(device)
    number = choose_dtype(dtype, where)
    found = resolve_base(ref, revision=revision)
    published = published_quantization(found.config, ref)
    if quantization and published:
        raise InvalidSettings(
            f"{ref} is published in {published}, so quantize={quantization!r} cannot apply", hint="Use None."
        )
    hint = _SMALLER if quantization or published else f"Use quantize='nf4'. {_SMALLER}"
    if quantization:
        _check_quantizable(found.config, ref, quantization)
    needed = loaded_bytes(read_headers(found.path), number.itemsize, quantization)
    require_memory(needed, where, f"loading {ref}", hint)
    with memory_errors(f"loading {ref}", hint), quiet_loading():
        model, missing = _load(found, quantization, where, number)
    uninitialised = _uninitialised(model, missing, ref)
    _initialise(model, uninitialised, where, number)
    if quantization or published:
        _settle(model, where)
    quicken(model)
    if takes_pictures(found.config):
        # Convolutions over channels that lie side by side take half to a fifth of the time, on CPUs and GPUs.
        model.to(memory_format=torch.channels_last)
    return Base(
        ref=ref,
        revision=found.revision,
        path=found.path,
        model=cast(PreTrainedModel, model.eval().requires_grad_(False)),
        tokenizer=_tokenizer(found),
        quantization=quantization or published,
        device=where,
        dtype=number,
        fingerprint=found.fingerprint,
        uninitialised=uninitialised,
        processor=load_processor(found.path, found.config, ref),
    )


def _load(
    found: ResolvedBase, quantization: Quantization | None, device: torch.device, dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """The model and the parameters that the checkpoint lacks, filled from a fixed seed."""
    auto_class = _auto_class(found.config)
    options: dict[str, Any] = {}
    if quantization:
        options["quantization_config"] = _quantization_config(found, quantization, dtype)
    try:
        with _fixed_seed(device):
            model, report = auto_class.from_pretrained(
                found.path,
                dtype=dtype,
                device_map={"": device},
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported, and refused below with the tensor's name
                **options,
            )
    except ImportError as error:  # a family that needs a library of its own, as timm's models need timm
        raise MissingDependency(
            f"{found.ref} cannot be loaded: {first_line(error)}", hint="Install that library."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise BaseNotFound(f"{found.ref} cannot be loaded: {first_line(error)}") from error
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        raise BaseNotFound(
            f"{found.ref}: its weight {name} is {list(stored)}, and its configuration asks for {list(wanted)}"
        )
    return model, sorted(report["missing_keys"])


def _auto_class(config: PretrainedConfig) -> Any:
    """What the checkpoint says it is: a language model keeps its head, any other is loaded as a backbone."""
    for architecture in config.architectures or []:
        for auto_class, mapping in _AUTO_CLASSES:
            if architecture in mapping.values():
                return auto_class
    return AutoModel


def _quantization_config(found: ResolvedBase, quantization: Quantization, dtype: torch.dtype) -> Any:
    # An explicit list switches transformers' own guess off: that guess is the last module of whatever class
    # is loaded, so a bare BERT would keep its pooler and a BERT with a head would not.
    keep = _output_layers(found.config)
    config = cast(Any, BitsAndBytesConfig)
    if quantization == "nf4":
        return config(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=keep,
        )
    return config(load_in_8bit=True, llm_int8_skip_modules=keep)


def skeleton_of(config: PretrainedConfig) -> PreTrainedModel:
    """The model that `load_base` makes of this configuration, with modules and shapes and no weights."""
    with torch.device("meta"), quiet_loading():
        return cast(PreTrainedModel, _auto_class(config).from_config(config))


def _check_quantizable(config: PretrainedConfig, ref: str, quantization: Quantization) -> None:
    """Raises InvalidSettings for a model of convolutions alone, of which nothing would be quantised."""
    if not any(isinstance(module, nn.Linear) for module in skeleton_of(config).modules()):
        raise InvalidSettings(
            f"{ref} has no linear layer, and {quantization} quantises no other", hint="Use quantize=None."
        )


def _output_layers(config: PretrainedConfig) -> list[str]:
    skeleton = skeleton_of(config)
    output = skeleton.get_output_embeddings()
    return [name for name, module in skeleton.named_modules() if module is output]


def _uninitialised(model: PreTrainedModel, missing: list[str], ref: str) -> tuple[str, ...]:
    """The backbone's children without weights. Raises BaseNotFound where it cannot do without them."""
    prefix = f"{model.base_model_prefix}."
    names = [name.removeprefix(prefix) for name in missing if not name.endswith(_UNREAD)]
    needed = [name for name in names if name.split(".")[0] not in _OPTIONAL_PARTS]
    if needed:
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        raise BaseNotFound(f"{ref} lacks weights that its configuration asks for: {needed[0]}{more}")
    return tuple(sorted({name.split(".")[0] for name in names}))


def _initialise(model: Any, uninitialised: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
    """Plain linear layers, drawn from a fixed seed, for parts that have no weights to quantise."""
    backbone = model.base_model
    with _fixed_seed(device):
        for part in uninitialised:
            for name, module in list(backbone.get_submodule(part).named_modules(prefix=part)):
                if isinstance(module, nn.Linear):
                    fresh = nn.Linear(module.in_features, module.out_features, module.bias is not None)
                    model._init_weights(fresh)
                    backbone.set_submodule(name, fresh.to(device=device, dtype=dtype))


@contextmanager
def _fixed_seed(device: torch.device) -> Iterator[None]:
    """The same random numbers on every load, and the caller's generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _settle(model: PreTrainedModel, device: torch.device) -> None:
    from adapthub.adapters.quantized import keep_freed_memory, steady

    steady(model)
    if device.type == "cpu":
        keep_freed_memory()


def _tokenizer(found: ResolvedBase) -> PreTrainedTokenizerBase | None:
    if not tokenizer_files(found.path):
        return None
    try:
        return cast(
            PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(found.path, trust_remote_code=False)
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseNotFound(f"{found.ref}: its tokenizer cannot be loaded: {first_line(error)}") from error
