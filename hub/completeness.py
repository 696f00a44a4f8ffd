"""What can be known of an adapter's tensors without its base: each of LoRA's halves has the other, and the rank is the
configuration's; a prefix is there and as long as configured. Reads the header of the weights, no tensor. That an adapter
fits its base is found where it is attached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.lora_facts import ConfiguredLora

if TYPE_CHECKING:
    from adapthub.adapters.description import Description

_Shapes = Mapping[str, Sequence[int]]
_Part = tuple[str, str, str]  # a LoRA matrix: its key, its module, which part it is

_PREFIX = "base_model.model."
_PROMPTS = "prompt_embeddings"
_MAGNITUDE = "lora_magnitude_vector"


class _Half(NamedTuple):
    """A part of LoRA at a module's end: the part that it goes with, and where its shape [rows, columns] has the rank."""

    half: str
    rank_at: int


_PARTS = {
    "lora_A": _Half("lora_B", 0),
    "lora_B": _Half("lora_A", 1),
    "lora_embedding_A": _Half("lora_embedding_B", 0),
    "lora_embedding_B": _Half("lora_embedding_A", 1),
}
# Variants of LoRA whose matrices are stacked or in blocks: a rank is not a matrix's size then.
_OTHER_SHAPES = ("target_parameters", "use_bdlora", "monteclora_config")


def check_complete(adapter: Description) -> None:
    """Raises TensorMismatch naming the tensor that is missing or of another rank than configured, AdmissionError where its
    patterns take too long (lora_facts)."""
    shapes = adapter.shapes
    match adapter.config.get("peft_type"):
        case "LORA":
            parts = list(_parts(shapes))
            _check_halves(parts, shapes, adapter.config)
            if not any(adapter.config.get(field) for field in _OTHER_SHAPES):
                _check_ranks(parts, shapes, adapter.config)
        case "PREFIX_TUNING":
            _check_prompts(shapes, adapter.config)


def _check_halves(parts: Sequence[_Part], shapes: _Shapes, config: Mapping[str, Any]) -> None:
    if not parts:
        raise TensorMismatch(f"{WEIGHTS} has no LoRA tensor, and adapter_config.json says it is LoRA")
    halves = {(module, part) for name, module, part in parts if name.startswith(_PREFIX)}
    for name, module, part in parts:
        if (module, _PARTS[part].half) not in halves:
            raise _lacks(name, module, part, _PARTS[part].half)
    if config.get("use_dora"):
        bare = {name.removesuffix(".weight") for name in shapes}
        for name, module, part in parts:
            if f"{_PREFIX}{module}.{_MAGNITUDE}" not in bare:
                raise _lacks(name, module, part, _MAGNITUDE)


def _lacks(name: str, module: str, part: str, other: str) -> TensorMismatch:
    stem = f"{_PREFIX}{module}."
    ending = "" if other == _MAGNITUDE else name.removeprefix(f"{stem}{part}")
    return TensorMismatch(
        f"{WEIGHTS} lacks {stem + other + ending!r}, which {name!r} needs",
        hint="Save the adapter again with PEFT.",
    )


def _check_ranks(parts: Sequence[_Part], shapes: _Shapes, config: Mapping[str, Any]) -> None:
    lora = ConfiguredLora(config)
    ranks: dict[str, int] = {}
    for name, module, part in parts:
        shape, rank = shapes[name], ranks.get(module)
        if rank is None:
            rank = ranks[module] = lora.rank(module)
        if len(shape) < 2 or 0 in shape:
            raise TensorMismatch(
                f"{WEIGHTS}: {name!r} is {list(shape)}, no matrix",
                hint="Gather the shards before save_pretrained.",
            )
        # A convolution of groups has a part of the rank in each.
        found = shape[_PARTS[part].rank_at]
        if len(shape) == 2 and found != rank:
            raise TensorMismatch(
                f"{WEIGHTS}: {name!r} is {list(shape)}, of rank {found}; adapter_config.json gives {rank}"
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


def _parts(shapes: _Shapes) -> Iterator[_Part]:
    for name in shapes:
        module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if module and part in _PARTS:
            yield name, module, part
