"""What turns a recipe's examples into a model's inputs: the base's own tokenizer, loaded without its weights.

Does not tokenise.
"""

from __future__ import annotations

from typing import Any

from adapthub.adapters.base import Base, ResolvedBase
from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.recipe import Recipe


def load_processor(recipe: Recipe, base: ResolvedBase | Base) -> Any:
    """What reads the inputs of `recipe` for `base`. Raises InvalidSettings where the base brings none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSettings(
            f"{base.ref} has no tokenizer that transformers can load, which {recipe.name} needs",
            hint="Choose another base model.",
        ) from error
