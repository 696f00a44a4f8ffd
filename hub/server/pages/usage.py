"""Lines to copy that use one version of an adapter: with adapthub, peft, vLLM, hf and curl. They name hub and version.

What comes out of adapters is quoted for the language that it is put into. Knows no templates.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from urllib.parse import quote

from adapthub.adapters.admission import WEIGHTS
from adapthub.hub.registry import Facts

_CLASSES = {
    "token-classification": "AutoModelForTokenClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "feature-extraction": "AutoModel",
}
_LONGEST_BASE = 500  # characters
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Snippet:
    """Text to copy; `language` is "python" or "shell"."""

    title: str
    language: str
    text: str


def snippets(origin: str, name: str, revision: str, facts: Facts, *, private: bool) -> tuple[Snippet, ...]:
    """For the adapter `name` ("namespace/name") of the hub at `origin`; `private`: a token is needed."""
    found = [
        Snippet("adapthub", "python", _adapthub(origin, name, revision, facts, private)),
        Snippet("peft", "python", _peft(origin, name, revision, facts, private)),
        Snippet("hf", "shell", _hf(origin, name, revision, private)),
        Snippet("curl", "shell", _curl(origin, name, revision, private)),
    ]
    if facts.method == "lora" and facts.task in (None, "text-generation"):
        found.insert(2, Snippet("vLLM", "shell", _vllm(origin, name, revision, facts, private)))
    return tuple(found)


def _adapthub(origin: str, name: str, revision: str, facts: Facts, private: bool) -> str:
    return "\n".join(
        [
            *([f"# Once: adapt login {shlex.quote(origin)}"] if private else []),
            "from adapthub.hub import open_hub",
            "from adapthub.runtime import Runtime",
            "",
            f"runtime = Runtime({_python(_base(facts))}, hub=open_hub({_python(origin)}))",
            f"runtime.attach({_python(f'{name}@{revision}')})",
        ]
    )


def _peft(origin: str, name: str, revision: str, facts: Facts, private: bool) -> str:
    kind = _CLASSES.get(facts.task or "text-generation", "AutoModel")
    labels = f", num_labels={len(facts.labels)}" if facts.labels and kind != "AutoModelForCausalLM" else ""
    return "\n".join(
        [
            "from huggingface_hub import snapshot_download",
            "from peft import PeftModel",
            f"from transformers import {kind}",
            "",
            f"folder = {_downloaded(origin, name, revision, private)}",
            f"base = {kind}.from_pretrained({_python(_base(facts))}{labels})",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    )


def _downloaded(origin: str, name: str, revision: str, private: bool) -> str:
    token = ', token="ah_..."' if private else ""
    return (
        f"snapshot_download({_python(name)}, revision={_python(revision)}, endpoint={_python(origin)}{token})"
    )


def _vllm(origin: str, name: str, revision: str, facts: Facts, private: bool) -> str:
    short = name.partition("/")[2]
    rank = next((rank for rank in _VLLM_RANKS if rank >= (facts.rank or 1)), _VLLM_RANKS[-1])
    return "\n".join(
        [
            _hf(origin, name, revision, private),
            f"vllm serve {shlex.quote(_base(facts))} --enable-lora --max-lora-rank {rank} \\",
            f"  --lora-modules {shlex.quote(f'{short}=./{short}')}",
        ]
    )


def _hf(origin: str, name: str, revision: str, private: bool) -> str:
    token = "HF_TOKEN=ah_... " if private else ""
    short = name.partition("/")[2]
    return (
        f"HF_ENDPOINT={shlex.quote(origin)} {token}hf download {shlex.quote(name)}"
        f" --revision {shlex.quote(revision)} --local-dir {shlex.quote(f'./{short}')}"
    )


def _curl(origin: str, name: str, revision: str, private: bool) -> str:
    address = f"{origin}/{name}/resolve/{quote(revision, safe='')}/{WEIGHTS}"
    token = ' -H "Authorization: Bearer ah_..."' if private else ""
    return f"curl -fLO{token} {shlex.quote(address)}"


def _base(facts: Facts) -> str:
    return facts.base if facts.base and len(facts.base) <= _LONGEST_BASE else "BASE"


def _python(text: str) -> str:
    """A literal of Python, in double quotes."""
    return json.dumps(text)
