"""The catalogue of real models and labelled data that install from package registries.

Each sample names exact package versions with the sha256 of the very file, the files kept of it, and the
converter that turns them into a transformers folder or into files that our readers take. Does not fetch or
convert: `fetch` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from adapthub.adapters.errors import NotFound
from adapthub.adapters.samples.data_entries import CLASSES, COMPOSED, ENTITIES, TEXTS
from adapthub.adapters.samples.media_entries import IMAGES, SPEECH, TRANSLATIONS
from adapthub.adapters.samples.model_entries import MODELS
from adapthub.adapters.samples.sample import Sample
from adapthub.adapters.suggest import did_you_mean

SAMPLES: Mapping[str, Sample] = MappingProxyType(
    {
        sample.name: sample
        for sample in (*MODELS, *ENTITIES, *CLASSES, *COMPOSED, *TEXTS, *TRANSLATIONS, *IMAGES, *SPEECH)
    }
)


def find(name: str) -> Sample:
    """The sample of that name. Raises NotFound, with near names."""
    try:
        return SAMPLES[name]
    except KeyError:
        raise NotFound(f"no sample named {name!r}", hint=did_you_mean(name, SAMPLES)) from None
