"""Whether every tensor of an adapter lands on a module of a base, by names and shapes alone.

Looks at an adapter's configuration and header and at a base's record: no tensor, no torch; milliseconds, and seconds at
most where an adapter is made to take long. What it refuses could not be attached. What it lets pass may still be refused
there: by its values, by a field that is not computed, or by a head that is not its family's. That LoRA's halves are whole is
`hub/completeness`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.lora_facts import LORA_KEY, TOKENS, ConfiguredLora, trained_tokens
from adapthub.adapters.names import Saved, inner_name, module_path, plain_name

if TYPE_CHECKING:
    from adapthub.adapters.base_record import KnownBase

Shape = tuple[int, ...]

_PROMPTS = "prompt_embeddings"
# What batch normalisation keeps beside its parameters; records of bases do not have it.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_HINT = "Name the base that it was trained on, or train it anew on this one."


def check_fit(base: KnownBase, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Raises TensorMismatch naming the first tensor, by name, that does not land on `base`; AdmissionError where its
    patterns or modules_to_save take too long (lora_facts, names).

    `config` is the admitted adapter_config.json, `shapes` every tensor's shape by PEFT's key.
    """
    fit = _Fit(base, config)
    check = {
        "LORA": fit.check_lora,
        "IA3": fit.check_ia3,
        "PREFIX_TUNING": fit.check_prefix,
        "PROMPT_TUNING": fit.check_prompt,
    }[config["peft_type"]]
    for key in sorted(shapes):
        check(key, tuple(shapes[key]))


class _Fit:
    def __init__(self, base: KnownBase, config: Mapping[str, Any]) -> None:
        self._base = base
        self._config = config
        self._lora = ConfiguredLora(config)
        self._saved = Saved(config.get("modules_to_save") or ())
        self._modules = {name.rpartition(".")[0] for name in base.parameters} | base.kinds.keys()

    def check_lora(self, key: str, shape: Shape) -> None:
        name = inner_name(key)
        match = LORA_KEY.fullmatch(name)
        if name.endswith(TOKENS):
            module = name.removesuffix(TOKENS)
            _, (_, hidden) = self._target(key, module)
            self._compare(key, shape, (len(trained_tokens(module, self._config)), hidden))
            return
        if match is None:
            self._check_other(key, name, shape)
            return
        module = match["module"]
        rank = self._lora.rank(module)
        if self._base.kinds.get(self._path(module) or "") == "convolution":
            self._check_convolution(key, match["part"], match["parameter"], shape, rank)
            return
        kind, (features_in, features_out) = self._target(key, module)
        embedding = "embedding_" if kind == "embedding" else ""
        wanted: dict[str, Shape] = {
            f"lora_{embedding}A": (rank, features_in),
            f"lora_{embedding}B": (features_out, rank),
            "lora_magnitude_vector": (features_out,),
        }
        if match["part"] not in wanted:
            raise TensorMismatch(
                f"{key!r} does not go under the {kind} layer {module!r} of {self._base.id}", hint=_HINT
            )
        self._compare(key, shape, (features_out,) if match["parameter"] == "bias" else wanted[match["part"]])

    def _check_convolution(self, key: str, part: str, parameter: str | None, shape: Shape, rank: int) -> None:
        """A part of LoRA under a convolution. Its groups are not recorded: A shows them, and B must agree with the rank."""
        module = inner_name(key).partition(".lora_")[0]
        out, of_group, *kernel = self._base.parameters[f"{self._path(module)}.weight"]
        ones = (1,) * len(kernel)
        inner = shape[1] if len(shape) > 1 else 0
        wanted: dict[str, Shape] = {
            "lora_A": (rank, of_group * max(1, inner // of_group), *kernel),
            "lora_B": (out, inner if inner and rank % inner == 0 else rank, *ones),
            "lora_magnitude_vector": (1, out, *ones),
        }
        if part not in wanted:
            raise TensorMismatch(
                f"{key!r} does not go under the convolution {module!r} of {self._base.id}", hint=_HINT
            )
        self._compare(key, shape, (out,) if parameter == "bias" else wanted[part])

    def check_ia3(self, key: str, shape: Shape) -> None:
        name = inner_name(key)
        if not name.endswith(".ia3_l"):
            self._check_other(key, name, shape)
            return
        module = name.removesuffix(".ia3_l")
        _, (features_in, features_out) = self._target(key, module)
        scales_input = _names(self._config.get("feedforward_modules"), module)
        self._compare(key, shape, (1, features_in) if scales_input else (features_out, 1))

    def check_prefix(self, key: str, shape: Shape) -> None:
        if key != _PROMPTS:
            self._check_other(key, key.removeprefix("base_model."), shape)
            return
        base = self._base
        if base.layers is None or base.key_value_heads is None or base.head_size is None:
            raise TensorMismatch(
                f"{base.id} has no layers of keys and values that a prefix could stand before"
            )
        width = 2 * base.layers * base.key_value_heads * base.head_size
        self._compare(key, shape, (self._virtual_tokens(key), width))

    def check_prompt(self, key: str, shape: Shape) -> None:
        if key != _PROMPTS:
            raise TensorMismatch(f"the adapter has a tensor {key!r} that nothing uses")
        if self._base.hidden_size is None:
            raise TensorMismatch(
                f"{self._base.id} has no embeddings of tokens that a prompt could stand before"
            )
        self._compare(key, shape, (self._virtual_tokens(key), self._base.hidden_size))

    def _virtual_tokens(self, key: str) -> int:
        count: int | None = self._config.get("num_virtual_tokens")
        if count is None:
            raise TensorMismatch(f"adapter_config.json has no num_virtual_tokens, which {key!r} needs")
        return count

    def _target(self, key: str, module: str) -> tuple[str, tuple[int, int]]:
        """The kind of the layer that `module` is in the base, and its in and out features."""
        path = self._path(module)
        if path is None:
            raise TensorMismatch(
                f"{self._base.id} has no module {module!r}, which {key!r} is for", hint=_HINT
            )
        kind, weight = self._base.kinds.get(path), self._base.parameters.get(f"{path}.weight", ())
        if kind is None or len(weight) != 2:
            raise TensorMismatch(
                f"{module!r} of {self._base.id} is no layer that {key!r} goes under", hint=_HINT
            )
        return kind, (weight[1], weight[0]) if kind == "linear" else (weight[0], weight[1])

    def _check_other(self, key: str, name: str, shape: Shape) -> None:
        """A tensor that is not the method's own: of a head, of modules_to_save, a bias, or a copy of an embedding."""
        # With bias="all" PEFT saves a head's bias under these names too.
        name = plain_name(name)
        owner, _, parameter = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        path, saved = self._path(owner), owner in self._saved
        if path is None:
            if not saved:
                raise TensorMismatch(
                    f"{self._base.id} has no module {owner!r}, which {key!r} is of, and modules_to_save does not name it",
                    hint=_HINT,
                )
            return
        bias = parameter == "bias" and self._config.get("bias", "none") != "none"
        copy = self._base.kinds.get(path) == "embedding" or path == self._base.output
        wanted = self._base.parameters.get(f"{path}.{parameter}")
        if saved and parameter in _STATISTICS:
            return
        if wanted is None or not (saved or bias or copy):
            raise TensorMismatch(f"the adapter has a tensor {key!r} that nothing uses")
        self._compare(key, shape, wanted)

    def _path(self, name: str) -> str | None:
        return module_path(name, self._modules, prefix=self._base.prefix, inside=self._base.backbone)

    def _compare(self, key: str, shape: Shape, wanted: Shape) -> None:
        if shape != wanted:
            raise TensorMismatch(
                f"{key!r} is {list(shape)}; {self._base.id} needs {list(wanted)}", hint=_HINT
            )


def _names(modules: Any, name: str) -> bool:
    """Whether a field such as feedforward_modules names the module: a pattern for all of it, or the ends of names."""
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return name.endswith(tuple(modules or ()))
