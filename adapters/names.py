"""Names of modules and tensors: PEFT's keys, a task model's own names, and a base's. Knows no model."""

from __future__ import annotations

from collections.abc import Container, Iterable

from adapthub.adapters.errors import TensorMismatch

PEFT_PREFIX = "base_model.model."


def inner_name(key: str) -> str:
    """PEFT's key of a tensor as the task model's own name. Raises TensorMismatch for a key that is not PEFT's."""
    if not key.startswith(PEFT_PREFIX):
        raise TensorMismatch(f"the adapter has a tensor {key!r} outside {PEFT_PREFIX!r}: nothing uses it")
    return key.removeprefix(PEFT_PREFIX)


def plain_name(name: str) -> str:
    """The name of a tensor inside a module that PEFT wraps as modules_to_save, as the module's own."""
    # Of what lies deeper than the module itself PEFT leaves the adapter's name in.
    for wrapper in (".modules_to_save.default.", ".modules_to_save.", ".original_module."):
        name = name.replace(wrapper, ".")
    return name


def module_path(name: str, modules: Container[str], *, prefix: str, inside: str) -> str | None:
    """The base's own name of the task model's module `name`; None for a module outside the base.

    `prefix` is what the base's family calls the backbone inside a task model ("bert"), `inside` where the backbone lies in
    the base itself: empty where it is the base.
    """
    candidates = [name]
    if name.startswith(f"{prefix}."):
        inner = name.removeprefix(f"{prefix}.")
        candidates.insert(0, f"{inside}.{inner}" if inside else inner)
    elif inside:
        candidates.append(f"{inside}.{name}")
    return next((path for path in candidates if path in modules), None)


def is_saved(name: str, saved: Iterable[str]) -> bool:
    """Whether modules_to_save names this module of the task model, or one around it: by the end of its name, as PEFT reads
    it, so that "norm" names each "input_layernorm" too."""
    ends, parts = tuple(saved), name.split(".")
    return any(".".join(parts[: depth + 1]).endswith(ends) for depth in range(len(parts)))
