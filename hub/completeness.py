"""What can be known of an adapter's tensors without its base: each of LoRA's halves has the other, and the rank is the
configuration's; a prefix is there and as long as configured. Reads the header of the weights, no tensor. That an adapter
fits its base is found where it is attached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.lora_facts import ConfiguredLora

if TYPE_CHECKING:
    from adapthub.adapters.description import Description

_Shapes = Mapping[str, Sequence[int]]

_PREFIX = "base_model.model."
_PROMPTS = "prompt_embeddings"
# A part of LoRA at a module's end, and where its shape [rows, columns] has the rank.
_PARTS = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
_PART = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(_PARTS)})(?:\.weight)?")
# Variants of LoRA whose matrices are stacked or in blocks: a rank is not a matrix's size then.
_OTHER_SHAPES = ("target_parameters", "use_bdlora", "monteclora_config")


def check_complete(adapter: Description) -> None:
    """Raises TensorMismatch naming the tensor that is missing or of another rank than configured, AdmissionError where its
    patterns take too long (lora_facts)."""
    shapes = adapter.shapes
    match adapter.config.get("peft_type"):
        case "LORA":
            _check_halves(shapes, adapter.config)
            if not any(adapter.config.get(field) for field in _OTHER_SHAPES):
                _check_ranks(shapes, adapter.config)
        case "PREFIX_TUNING":
            _check_prompts(shapes, adapter.config)


def _check_halves(shapes: _Shapes, config: Mapping[str, Any]) -> None:
    found = list(_parts(shapes))
    if not found:
        raise TensorMismatch(f"{WEIGHTS} has no LoRA tensor, and adapter_config.json says it is LoRA")
    bare = {name.removesuffix(".weight") for name in shapes}
    for name, module, part in found:
        stem = f"{_PREFIX}{module}"
        ending = name.removeprefix(f"{stem}.{part}")
        half = f"{stem}.{part[:-1]}{'B' if part.endswith('A') else 'A'}"
        magnitude = f"{stem}.lora_magnitude_vector"
        missing = None
        if half not in bare:
            missing = half + ending
        elif config.get("use_dora") and magnitude not in bare:
            missing = magnitude
        if missing is not None:
            raise TensorMismatch(
                f"{WEIGHTS} lacks {missing!r}, which {name!r} needs", hint="Save the adapter again with PEFT."
            )


def _check_ranks(shapes: _Shapes, config: Mapping[str, Any]) -> None:
    lora = ConfiguredLora(config)
    for name, module, part in _parts(shapes):
        shape, rank = shapes[name], lora.rank(module)
        if len(shape) < 2 or 0 in shape:
            raise TensorMismatch(
                f"{WEIGHTS}: {name!r} is {list(shape)}, no matrix",
                hint="Gather the shards before save_pretrained.",
            )
        # A convolution of groups has a part of the rank in each.
        if len(shape) == 2 and shape[_PARTS[part]] != rank:
            raise TensorMismatch(
                f"{WEIGHTS}: {name!r} is {list(shape)}, of rank {shape[_PARTS[part]]}; adapter_config.json gives {rank}"
            )


def _check_prompts(shapes: _Shapes, config: Mapping[str, Any]) -> None:
    length = config.get("num_virtual_tokens")
    if _PROMPTS not in shapes:
        raise TensorMismatch(f"{WEIGHTS} lacks {_PROMPTS!r}, the prefix itself")
    shape = shapes[_PROMPTS]
    if length is not None and (not shape or shape[0] != length):
        raise TensorMismatch(
            f"{WEIGHTS}: {_PROMPTS!r} is {list(shape)}; adapter_config.json gives num_virtual_tokens={length}"
        )


def _parts(shapes: _Shapes) -> Iterator[tuple[str, str, str]]:
    """Each LoRA matrix: its key, its module, which part it is."""
    for name in shapes:
        if match := _PART.fullmatch(name.removeprefix(_PREFIX)):
            yield name, match["module"], match["part"]
