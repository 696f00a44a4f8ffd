"""The learning rate of LoRA on a causal base, by the base's width: where a recipe's rate is for bases 2,000 wide.

LoRA Without Regret (Schulman et al. 2025) fits the best rates of Llama's and Qwen's bases as a power of their width. Does
not know rates of other families, whose recipe's rate stays as it is, or of encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapthub.recipes.recipe import Defaults
    from adapthub.recipes.settings import Settings

WIDTH = 2000
"""The width that recipes' rates are for, where they say so."""
_POWERS = {"llama": 0.781, "qwen": 0.0775}
# The least wide base that a rate was tried on here has 576; below, the fit would ask for rates that nobody tried.
_LEAST = 512


def fitted(
    settings: Settings, defaults: Defaults, given: Mapping[str, Any], config: PretrainedConfig
) -> Settings:
    """`settings` with the learning rate for the base of `config`, where that is the recipe's to choose and not `given`."""
    if not defaults.follows_width or given.get("learning_rate") is not None:
        return settings
    return replace(settings, learning_rate=rate_by_width(defaults.learning_rate, config))


def rate_by_width(rate: float, config: PretrainedConfig) -> float:
    """The rate, to two digits, on the base of `config`, of a recipe's that is `rate` on bases WIDTH wide."""
    family = _family(config)
    if family is None:
        return rate
    return float(f"{rate * (WIDTH / max(_LEAST, _width(config))) ** _POWERS[family]:.2g}")


def why_by_width(rate: float, config: PretrainedConfig) -> str:
    """What the width does to `rate`, in words."""
    if _family(config) is None:
        return f"how it falls with width is not known of {config.model_type}"
    return f"{rate:g} there, and for this one's {_width(config):,} as {_family(config)}'s family learns"


def _family(config: PretrainedConfig) -> str | None:
    return next((family for family in _POWERS if config.model_type.startswith(family)), None)


def _width(config: PretrainedConfig) -> int:
    width: int = config.get_text_config().hidden_size
    return width
