"""Names of modules and tensors: PEFT's keys, a task model's own names, and a base's. Knows no model."""

from __future__ import annotations

from collections.abc import Container, Iterable

from adapthub.adapters.errors import AdmissionError, TensorMismatch

PEFT_PREFIX = "base_model.model."
MAX_LOOKED_UP = 2 * 10**7
"""Ends of names: seconds."""


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


class Saved:
    """What modules_to_save names: modules by the ends of their names, as PEFT reads it, so that "norm" names each
    "input_layernorm" too; and all that lies in these.

    Looking up takes as long as a name has parts, times the unlike lengths of what is named. Raises AdmissionError where that
    comes to more than MAX_LOOKED_UP.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._lengths = sorted({len(name) for name in self._names})
        self._work = 0

    def __contains__(self, name: str) -> bool:
        """Whether a module of the task model, or one around it, is named."""
        self._work += (name.count(".") + 1) * len(self._lengths)
        if self._work > MAX_LOOKED_UP:
            raise AdmissionError(
                "modules_to_save of adapter_config.json takes too long to be matched with so many modules",
                hint="Name the modules that were trained whole, each once.",
            )
        ends = [at for at, letter in enumerate(name) if letter == "."] if self._names else []
        return any(
            name[end - length : end] in self._names
            for end in (*ends, len(name))
            for length in self._lengths
            if length <= end
        )


def is_saved(name: str, saved: Iterable[str]) -> bool:
    """See Saved."""
    return name in Saved(saved)
