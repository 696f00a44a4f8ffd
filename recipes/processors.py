"""What turns a recipe's examples into a model's inputs: the base's own tokenizer or processor, loaded without its weights.

Does not tokenise.
"""

from __future__ import annotations

from typing import Any

from adapthub.adapters import processors
from adapthub.adapters.base import Base, ResolvedBase
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.speech import no_speech
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH
from adapthub.recipes.recipe import Recipe


def load_processor(recipe: Recipe, base: ResolvedBase | Base) -> Any:
    """What reads the inputs of `recipe` for `base`. Raises InvalidSettings where the base brings none."""
    from transformers import AutoTokenizer

    if recipe.task in (SPEECH, IMAGE_CLASSIFICATION):
        config = base.config if isinstance(base, ResolvedBase) else base.model.config
        processor = processors.load_processor(base.path, config, base.ref)
        if recipe.task == SPEECH and not (processor is not None and processors.takes_sound(config)):
            raise no_speech(base.ref)
        if recipe.task == IMAGE_CLASSIFICATION and not (
            processor is not None and processors.takes_pictures(config)
        ):
            raise InvalidSettings(
                f"{base.ref} has no image processor, which {recipe.name} needs",
                hint="Choose a base that reads pictures, such as package:efficientnet-lite0.",
            )
        return processor
    try:
        return AutoTokenizer.from_pretrained(base.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSettings(
            f"{base.ref} has no tokenizer that transformers can load, which {recipe.name} needs",
            hint="Choose another base model.",
        ) from error
