"""What makes a base's inputs where they are not text: its image processor, or its processor of sound, feature extractor and
tokenizer in one.

Pictures are prepared by Pillow and numpy whether or not torchvision is installed: its own resizing differs in the last bits,
and an adapter must meet the pixels that it was trained on. timm's models bring transforms of timm, which need torchvision.
Does not prepare anything itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, PretrainedConfig

from adapthub.adapters.errors import BaseNotFound, MissingDependency
from adapthub.adapters.placement import first_line
from adapthub.adapters.quiet import quiet_loading

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where transformers keeps how inputs are prepared; timm's wrapper keeps it in config.json."""

_TIMM = "timm_wrapper"


def takes_sound(config: PretrainedConfig) -> bool:
    """Whether models of this configuration write down speech: Whisper, or one with a CTC class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING

    return config.model_type == "whisper" or type(config) in MODEL_FOR_CTC_MAPPING


def takes_pictures(config: PretrainedConfig) -> bool:
    """Whether models of this configuration read pictures and nothing else, and transformers classifies with them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and not hasattr(config, "vision_config")


def load_processor(path: Path, config: PretrainedConfig, ref: str) -> Any | None:
    """The processor of the folder `path`; None for a base that reads text alone, or does not say how it reads the other.

    Raises BaseNotFound for one that transformers cannot read, MissingDependency where a library is not here.
    """
    if takes_pictures(config):
        return _of_pictures(path, config, ref)
    return _of_sound(path, config, ref) if takes_sound(config) else None


def _of_pictures(path: Path, config: PretrainedConfig, ref: str) -> Any | None:
    if config.model_type != _TIMM and not any((path / name).is_file() for name in PROCESSOR_FILES):
        return None
    processor: Any = AutoImageProcessor
    try:
        with quiet_loading():
            made = processor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except ImportError as error:
        raise MissingDependency(
            f"{ref}: its pictures cannot be prepared: {first_line(error)}",
            hint="Run: pip install 'adapthub[timm]'"
            if config.model_type == _TIMM
            else "Install that library.",
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise BaseNotFound(f"{ref}: its image processor cannot be loaded: {first_line(error)}") from error
    return made


def _of_sound(path: Path, config: PretrainedConfig, ref: str) -> Any | None:
    from transformers import AutoProcessor

    if not any((path / name).is_file() for name in PROCESSOR_FILES):
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
