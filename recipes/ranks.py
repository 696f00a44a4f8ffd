"""LoRA's rank on a causal base, by the data: as many parameters as there are supervised tokens, where those are many.

LoRA Without Regret (Schulman et al. 2025): LoRA learns as full fine-tuning does while its parameters hold what the data
say, and falls behind beyond. Never lowers a rank; does not know what memory there is (a plan tells). EVA's stays: it reads
twice as many rows at once as there are ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.base import skeleton_of
from adapthub.adapters.methods import ALL_LINEAR
from adapthub.adapters.tasks import TEXT_GENERATION
from adapthub.recipes.recipe import PreferringRecipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapthub.recipes.recipe import Recipe

MOST = 128  # beyond, AdamW's moments of an 8B base's adapter take more than its nf4 weights
_METHODS = ("lora", "dora")  # scaled alpha/r: at alpha 32 the best rate hardly moves with the rank


def follows_data(adapter: Mapping[str, Any], given: Mapping[str, Any], method: str, recipe: Recipe) -> bool:
    """Whether the rank of `adapter`, the method's settings, is for the data to choose: nobody has `given` one, and tokens
    are learnt, not preferences, of which an answer tells a bit."""
    everywhere, by_eva = adapter.get("target_modules") == ALL_LINEAR, adapter.get("init") == "eva"
    learns_tokens = recipe.task == TEXT_GENERATION and not isinstance(recipe, PreferringRecipe)
    return learns_tokens and method in _METHODS and everywhere and not by_eva and given.get("rank") is None


def rank_by_data(rank: int, seen: int, config: PretrainedConfig) -> int:
    """`rank`, doubled until its parameters on every linear layer reach the supervised tokens that a run has `seen`, to MOST
    at most."""
    each = _parameters_of_a_rank(config)
    while rank * each < seen and rank < MOST:
        rank *= 2
    return rank


def why_by_data(rank: int, seen: int, config: PretrainedConfig) -> str:
    """Why the data chose `rank`."""
    most = "" if rank < MOST else f", and {MOST} is the most that is taken unasked"
    parameters = rank * _parameters_of_a_rank(config)
    return (
        f"generation: 32, doubled until its parameters ({parameters:,}) reach the supervised tokens that are seen"
        f" ({seen:,}; LoRA Without Regret){most}"
    )


def _parameters_of_a_rank(config: PretrainedConfig) -> int:
    """Of A and B together on every linear layer but the output's."""
    skeleton = skeleton_of(config)
    output = skeleton.get_output_embeddings()
    layers = (module for module in skeleton.modules() if isinstance(module, (nn.Linear, Conv1D)))
    return sum(sum(layer.weight.shape) for layer in layers if layer is not output)
