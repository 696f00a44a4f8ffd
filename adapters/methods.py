"""The adapter methods by name: PEFT configurations for LoRA, rsLoRA, DoRA, IA3, prefix and prompt tuning, with reasons.

Does not wrap a model, does not choose learning rates (recipes do), and computes nothing: PEFT does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.configuration_policy import CONFIG_FIELDS, MAX_COUNT, read_config
from adapthub.adapters.errors import AdmissionError, InvalidSettings, UnsupportedAdapter
from adapthub.adapters.patterns import check_pattern
from adapthub.adapters.suggest import did_you_mean
from adapthub.adapters.tasks import PEFT_TASK_TYPES, SPEECH, TEXT_GENERATION, Task, peft_task_type

if TYPE_CHECKING:
    from peft import PeftConfig

ALL_LINEAR = "all-linear"
FAMILY = "family"
"""Modules that PEFT knows for a base's family."""
INITS = ("random", "eva")
BY_CONFIGURATION = "peft"
"""The method that a configuration of PEFT's own gives."""
SERVED = tuple(CONFIG_FIELDS)
"""PEFT's types that the runtime serves, mixed with each other in one pass."""

# What of a configuration the run decides, or PEFT writes for the record.
_OF_THE_RUN = (
    *("peft_type", "task_type", "modules_to_save", "inference_mode"),
    *("base_model_name_or_path", "revision", "peft_version", "auto_mapping"),
)

# PEFT adds these to modules_to_save of every classification adapter, whether the model has them or not.
_PEFT_HEADS: Mapping[Task, tuple[str, ...]] = {
    "question-answering": ("qa_outputs",),
    "feature-extraction": (),
}
_USUAL_HEADS = ("classifier", "score")


@dataclass(frozen=True)
class Default:
    """What a setting is where the caller does not say, and why. `reason` is for people."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Method:
    """One adapter method. `defaults` maps each setting that it takes to its default, by kind of task.

    `learns_as` names the method whose learning rates suit it: what is few and starts from nothing learns fast.
    """

    name: str
    summary: str
    classification: Mapping[str, Default]
    generation: Mapping[str, Default]
    learns_as: str = "lora"

    def defaults(self, task: Task) -> Mapping[str, Default]:
        """The settings of this method and their defaults for `task`."""
        return self.generation if task == TEXT_GENERATION else self.classification


_EVERYWHERE = Default(
    ALL_LINEAR, "on every linear layer; attention alone loses even at equal parameters (LoRA Without Regret)"
)
_NO_DROPOUT = Default(0.0, "PEFT's default; early stopping guards short runs")
_RANK_8 = Default(8, "encoders do well at 8 to 16; at 8 the adapter stays below 2 % of a small base")
_RANK_32 = Default(32, "generation: what one learns from a small set; of a large one, more")
_ALPHA_32 = Default(32, "held at 32, the best learning rate hardly moves with the rank (LoRA Without Regret)")
_ALPHA_16 = Default(16, "alpha/r is then 2, with which the recipes' learning rates were found")
_ALPHA_6 = Default(6, "alpha/sqrt(r) is then about 2 at rank 8, as plain LoRA's alpha/r")
_ALPHA_8 = Default(8, "alpha/sqrt(r) is then 1.4 at rank 32, near plain LoRA's alpha/r of 1")
_PREFIX_20 = Default(20, "P-Tuning v2: up to 20 for simple classification, more for hard sequence labelling")


_FAMILY = Default(FAMILY, "keys, values and feed-forward layers, as IA3's paper; PEFT knows them by family")
_PROMPT_20 = Default(20, "Lester et al.: beyond 20 virtual tokens little is gained")
_NO_TOKENS = Default(
    [], "none; tokens or their ids that shall mean something new are trained beside the matrices"
)
_NO_CONFIG = Default(None, "must be given: an adapter_config.json, or its fields")
_RANDOM = Default(
    "random", "PEFT's default; eva takes directions and ranks from the training data, before the first step"
)


def _low_rank(rank: Default, alpha: Default, init: Default | None = None) -> Mapping[str, Default]:
    settings = {
        "rank": rank,
        "alpha": alpha,
        "dropout": _NO_DROPOUT,
        "target_modules": _EVERYWHERE,
        "trainable_tokens": _NO_TOKENS,
    }
    return settings if init is None else {**settings, "init": init}


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "lora",
            "low-rank update beside each layer, scaled alpha/r; its variants end within 1-2 % of it",
            _low_rank(_RANK_8, _ALPHA_16, _RANDOM),
            _low_rank(_RANK_32, _ALPHA_32, _RANDOM),
        ),
        Method(
            "rslora",
            "LoRA scaled alpha/sqrt(r), so that high ranks learn; for ranks of 64 and more",
            _low_rank(_RANK_8, _ALPHA_6, _RANDOM),
            _low_rank(_RANK_32, _ALPHA_8, _RANDOM),
        ),
        Method(
            "dora",
            "LoRA with a learned magnitude an output; costs about a quarter more training time",
            _low_rank(_RANK_8, _ALPHA_16),
            _low_rank(_RANK_32, _ALPHA_32),
        ),
        Method(
            "prefix",
            "learned keys and values before every row; smallest, but below LoRA where both were measured",
            {"prefix_length": _PREFIX_20},
            {"prefix_length": _PREFIX_20},
            learns_as="prefix",
        ),
        Method(
            "ia3",
            "a learned scale for each key, value and feed-forward feature; a tenth of LoRA's size",
            {"target_modules": _FAMILY},
            {"target_modules": _FAMILY},
            learns_as="prefix",
        ),
        Method(
            "prompt",
            "learned tokens before every prompt of a causal base; for generation",
            {"prompt_length": _PROMPT_20},
            {"prompt_length": _PROMPT_20},
            learns_as="prefix",
        ),
        Method(
            BY_CONFIGURATION,
            f"whatever a configuration of PEFT's says, of the types that are served mixed: {', '.join(SERVED)}",
            {"peft_config": _NO_CONFIG},
            {"peft_config": _NO_CONFIG},
        ),
    )
}


def find_method(name: str) -> Method:
    """The method `name`. Raises InvalidSettings with near names."""
    if name not in METHODS:
        raise InvalidSettings(f"there is no adapter method {name!r}", hint=did_you_mean(name, METHODS))
    return METHODS[name]


def method_settings(
    name: str,
    task: Task,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
    target_modules: str | Sequence[str] | None = None,
    trainable_tokens: Sequence[int | str] | None = None,
    init: str | None = None,
    prefix_length: int | None = None,
    prompt_length: int | None = None,
    peft_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every setting that the method takes; what is None here is at its default. Manifests record the
    result.

    Raises InvalidSettings for an unknown method or task, a setting that the method does not take, or a
    bad value.
    """
    method = find_method(name)
    if task not in PEFT_TASK_TYPES:
        raise InvalidSettings(f"there is no task {task!r}", hint=did_you_mean(task, PEFT_TASK_TYPES))
    given = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "target_modules": target_modules,
        "trainable_tokens": trainable_tokens,
        "init": init,
        "prefix_length": prefix_length,
        "prompt_length": prompt_length,
        "peft_config": peft_config,
    }
    if name == BY_CONFIGURATION and peft_config is None:
        raise InvalidSettings(
            f"method {name} needs peft_config", hint="Give the fields of an adapter_config.json."
        )
    if name == "prompt" and task != TEXT_GENERATION:
        raise InvalidSettings(
            f"prompt tuning is for text that a causal base generates, not for {task}",
            hint="Use method prefix.",
        )
    defaults = method.defaults(task)
    settings = {setting: default.value for setting, default in defaults.items()}
    for setting, value in given.items():
        if value is None:
            continue
        if setting not in defaults:
            raise InvalidSettings(
                f"{setting} does not apply to {name}", hint=f"{name} takes {', '.join(defaults)}."
            )
        settings[setting] = _checked(setting, value)
    return settings


def method_config(
    name: str,
    task: Task,
    *,
    modules_to_save: Sequence[str] = (),
    feedforward_modules: Sequence[str] = (),
    encoder_decoder: bool = False,
    **settings: Any,
) -> PeftConfig:
    """PEFT's configuration for method `name` and `task`; `settings` as method_settings takes them, tokens by their ids.

    `modules_to_save` names the modules that are trained and saved whole (heads); the method leaves them
    alone. `feedforward_modules`: of IA3's targets, those that scale their input. `encoder_decoder` says what the base is.
    """
    from peft import EvaConfig, IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    resolved = method_settings(name, task, **settings)
    task_type = peft_task_type(task, encoder_decoder=encoder_decoder)
    saved = list(modules_to_save)
    if name == "prefix":
        return PrefixTuningConfig(
            task_type=task_type,
            modules_to_save=saved or None,
            num_virtual_tokens=resolved["prefix_length"],
        )
    if name == BY_CONFIGURATION:
        return _by_configuration(resolved["peft_config"], task, task_type, saved)
    if name == "prompt":
        if encoder_decoder:
            raise InvalidSettings(
                "prompt tuning is for causal bases, and this one has an encoder", hint="Use method lora."
            )
        return PromptTuningConfig(
            task_type=task_type,
            modules_to_save=saved or None,
            num_virtual_tokens=resolved["prompt_length"],
        )
    if name == "ia3":
        chosen = resolved["target_modules"]
        return IA3Config(
            task_type=task_type,
            modules_to_save=saved or None,
            target_modules=None if chosen == FAMILY else chosen,
            feedforward_modules=None if chosen == FAMILY else list(feedforward_modules),
        )
    eva = resolved.get("init") == "eva"
    return LoraConfig(
        task_type=task_type,
        init_lora_weights="eva" if eva else True,
        eva_config=EvaConfig() if eva else None,
        trainable_token_indices=list(resolved["trainable_tokens"]) or None,
        modules_to_save=saved or None,
        r=resolved["rank"],
        lora_alpha=resolved["alpha"],
        lora_dropout=resolved["dropout"],
        target_modules=resolved["target_modules"],
        exclude_modules=_inside(
            saved if task in (TEXT_GENERATION, SPEECH) else [*saved, *_PEFT_HEADS.get(task, _USUAL_HEADS)]
        ),
        use_rslora=name == "rslora",
        use_dora=name == "dora",
    )


def _by_configuration(
    fields: Mapping[str, Any], task: Task, task_type: str | None, saved: Sequence[str]
) -> PeftConfig:
    """PEFT's own configuration from its fields; the task, and what is saved whole, are this run's."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if fields.get("prefix_projection"):
        raise InvalidSettings(
            "peft_config: PEFT saves what prefix_projection makes and not its weights, so a run could not go on from a"
            " checkpoint",
            hint="Leave prefix_projection out.",
        )
    if fields.get("init_lora_weights") == "eva":
        raise InvalidSettings(
            "peft_config: EVA begins from the training data", hint="Use method lora with init=eva."
        )
    given = {name: value for name, value in fields.items() if name not in _OF_THE_RUN}
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(fields["peft_type"])]
    if "exclude_modules" in CONFIG_FIELDS[fields["peft_type"]] and given.get("exclude_modules") is None:
        given["exclude_modules"] = _inside(saved if task == TEXT_GENERATION else [*saved, *_PEFT_HEADS])
    try:
        return cast("PeftConfig", config(**given, task_type=task_type, modules_to_save=list(saved) or None))
    except (TypeError, ValueError) as error:
        raise InvalidSettings(f"peft_config: {error}") from error


def _inside(modules: Sequence[str]) -> str | None:
    """These modules and all below, as a pattern: PEFT fails on a head that is target and saved whole."""
    names = "|".join(re.escape(name) for name in dict.fromkeys(modules))
    return rf"(.*\.)?(?:{names})(\..*)?" if names else None


def _checked(setting: str, value: Any) -> Any:
    """`value` as PEFT takes it. Raises InvalidSettings."""
    if setting == "target_modules":
        return _checked_targets(value)
    if setting == "trainable_tokens":
        return _checked_tokens(value)
    if setting == "peft_config":
        return _checked_configuration(value)
    if setting == "init":
        if value not in INITS:
            raise InvalidSettings(f"init is one of {', '.join(INITS)}; {value!r} is not")
        return value
    whole = setting in ("rank", "prefix_length", "prompt_length")
    least, below = {
        "rank": (1, MAX_COUNT),
        "prefix_length": (1, MAX_COUNT),
        "prompt_length": (1, MAX_COUNT),
        "alpha": (0, float("inf")),
        "dropout": (0, 1),
    }[setting]
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not least <= value < below or (setting == "alpha" and value == 0):
        what = {"alpha": "a number above 0", "dropout": "a number from 0 to below 1"}
        raise InvalidSettings(
            f"{setting} must be {what.get(setting, 'a whole number from 1')}, not {value!r}"
        )
    return value


def _checked_tokens(value: object) -> list[int | str]:
    """Each token, or its id, once."""
    tokens = [value] if isinstance(value, (int, str)) else value
    if (
        isinstance(tokens, Sequence)
        and all(isinstance(token, str) or (type(token) is int and token >= 0) for token in tokens)
        and len(set(tokens)) == len(tokens)
        and "" not in tokens
    ):
        return list(tokens)
    raise InvalidSettings(f"trainable_tokens must be tokens or their ids, each once, not {value!r}")


def _checked_configuration(value: object) -> dict[str, Any]:
    """The fields of a configuration that is admitted, as JSON has them."""
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"peft_config must be the fields of an adapter_config.json, not {value!r}")
    kind = value.get("peft_type")
    if kind not in SERVED:
        raise InvalidSettings(
            f"peft_config: adapters of PEFT's type {kind!r} are not served, so they are not trained here",
            hint=f"The runtime serves these, mixed with each other in one pass: {', '.join(SERVED)}.",
        )
    try:
        return read_config(json.dumps(dict(value)).encode(), "peft_config")
    except (AdmissionError, UnsupportedAdapter) as error:
        raise InvalidSettings(error.message, hint=error.hint) from error
    except (TypeError, ValueError) as error:
        raise InvalidSettings(f"peft_config cannot be written as JSON: {error}") from error


def _checked_targets(value: object) -> str | list[str]:
    if isinstance(value, str) and value:
        try:
            check_pattern(value, "target_modules")
        except AdmissionError as error:
            raise InvalidSettings(error.message, hint=error.hint) from error
        return value
    if isinstance(value, Sequence) and value and all(isinstance(item, str) and item for item in value):
        return list(value)
    raise InvalidSettings(f"target_modules must be names of modules or one pattern, not {value!r}")
