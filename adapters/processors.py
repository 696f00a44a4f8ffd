"""What makes a base's inputs where they are not text: its processor of sound, feature extractor and tokenizer in one.

Does not prepare anything itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from adapthub.adapters.errors import BaseNotFound, MissingDependency
from adapthub.adapters.placement import first_line
from adapthub.adapters.quiet import quiet_loading

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where transformers keeps how inputs are prepared."""


def takes_sound(config: PretrainedConfig) -> bool:
    """Whether models of this configuration write down speech: Whisper, or one with a CTC class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING

    return config.model_type == "whisper" or type(config) in MODEL_FOR_CTC_MAPPING


def load_processor(path: Path, config: PretrainedConfig, ref: str) -> Any | None:
    """The processor of the folder `path`; None for a base that takes no sound, or does not say how.

    Raises BaseNotFound for one that transformers cannot read, MissingDependency where a library is not here.
    """
    from transformers import AutoProcessor

    if not takes_sound(config) or not any((path / name).is_file() for name in PROCESSOR_FILES):
        return None
    processor: Any = AutoProcessor
    try:
        with quiet_loading():
            made = processor.from_pretrained(path, trust_remote_code=False)
    except ImportError as error:
        raise MissingDependency(
            f"{ref}: its sound cannot be prepared: {first_line(error)}", hint="Install that library."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise BaseNotFound(f"{ref}: its processor cannot be loaded: {first_line(error)}") from error
    # A folder without a vocabulary gives the feature extractor alone, which writes nothing down.
    return made if hasattr(made, "tokenizer") else None
