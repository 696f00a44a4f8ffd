"""What an adapter changes, as matrices and vectors by module, small enough to compare: without the base, and without ever
making a full matrix.

LoRA's update s B A [out, in] of rank r is kept as its two factors. Of two such updates the norms, the angle and the singular
values are those of small matrices: with the QR decompositions [B1 B2] = Qb Rb and [A1' A2'] = Qa Ra, whose Q are
orthonormal, s1 B1 A1 = Qb (s1 Rb1 Ra1') Qa', and likewise the other, so the inner [k, k] with k <= r1 + r2 says it all. A
Gram matrix would do too and would lose half of the digits where the two are nearly equal.

All arithmetic is in float64. Does not know what the base does with an update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.lora_facts import LORA_KEY, ConfiguredLora

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact

_PREFIX = "base_model.model."
# Variants of LoRA whose update is not s B A of the two saved matrices.
_OTHER_PRODUCTS = ("target_parameters", "use_bdlora", "use_qalora", "monteclora_config", "kasa_config")
_ROUNDING = 1e-12  # of norms in float64
MAX_WORK = 4e12
"""Floating-point operations that one comparison may take: some minutes of one core."""


@dataclass(frozen=True)
class LowRankUpdate:
    """s B A: `b` [out, r], `a` [r, in]."""

    scale: float
    b: torch.Tensor
    a: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the update."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Plain:
    """A tensor that is compared as it is: of a head, a magnitude, a scaling vector, a prefix."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's own."""
        return tuple(self.tensor.shape)


Update = LowRankUpdate | Plain


@dataclass(frozen=True)
class Comparison:
    """Two updates of one module; Frobenius norms. None: there is no such update, or the two do not compare.

    `before_rank`, `after_rank`: the effective rank of an update that is a matrix of low rank (Roy and Vetterli 2007, "The
    effective rank: a measure of effective dimensionality"): exp of the entropy of its singular values, each as a share of
    their sum. 1 for rank one, r where r directions count equally, 0 for no update.
    """

    before: float | None
    after: float | None
    difference: float | None
    cosine: float | None
    before_rank: float | None
    after_rank: float | None

    @property
    def changed(self) -> bool:
        """Whether the two differ by more than the rounding of this comparison."""
        if self.difference is None:
            return True
        return self.difference > _ROUNDING * max(self.before or 0.0, self.after or 0.0)


def updates_of(artifact: Artifact) -> dict[str, Update]:
    """What `artifact` changes, by module for LoRA's products and by tensor for the rest, without PEFT's prefix.

    Raises TensorMismatch for a value that is not finite.
    """
    tensors = artifact.tensors()
    for key, tensor in tensors.items():
        if not tensor.double().isfinite().all():
            raise TensorMismatch(f"the tensor {key!r} of {artifact.path} has values that are not finite")
    low_rank = (
        {}
        if any(artifact.config.get(field) for field in _OTHER_PRODUCTS)
        else _products(tensors, artifact.config)
    )
    used = {key for keys, _ in low_rank.values() for key in keys}
    rest = {key.removeprefix(_PREFIX): Plain(tensor) for key, tensor in tensors.items() if key not in used}
    return {**{module: update for module, (_, update) in low_rank.items()}, **rest}


def work(before: Update | None, after: Update | None) -> float:
    """About how many floating-point operations comparing these two takes."""
    found = [update for update in (before, after) if isinstance(update, LowRankUpdate)]
    rank = sum(update.a.shape[0] for update in found)
    return sum(4.0 * sum(update.shape) * rank * min(rank, max(update.shape)) for update in found)


def compare(before: Update | None, after: Update | None) -> Comparison:
    """What changed from `before` to `after`; an update that is None is not there, which is no update."""
    if isinstance(before, LowRankUpdate) and isinstance(after, LowRankUpdate) and before.shape == after.shape:
        first, second = _coordinates(before, after)
        return _comparison(first, second, ranked=True)
    if isinstance(before, Plain) and isinstance(after, Plain) and before.shape == after.shape:
        return _comparison(before.tensor.double(), after.tensor.double(), ranked=False)
    first_alone, second_alone = _alone(before), _alone(after)
    return Comparison(
        before=first_alone[0],
        after=second_alone[0],
        # Where one of them is not there the other is the whole difference; of other shapes there is none.
        difference=first_alone[0] if after is None else second_alone[0] if before is None else None,
        cosine=None,
        before_rank=first_alone[1],
        after_rank=second_alone[1],
    )


def check_work(pairs: Mapping[str, tuple[Update | None, Update | None]]) -> None:
    """Raises UnsupportedAdapter where comparing these updates takes longer than anybody waits."""
    total = sum(work(*pair) for pair in pairs.values())
    if total > MAX_WORK:
        raise UnsupportedAdapter(
            f"comparing these adapters takes {total:.0e} operations; at most {MAX_WORK:.0e} are spent",
            hint="Their ranks are near their layers' sizes: compare the merged weights instead.",
        )


def _products(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, tuple[tuple[str, str], LowRankUpdate]]:
    """LoRA's products by module, each with the keys of its two matrices."""
    halves: dict[tuple[str, str], dict[str, str]] = {}
    for key in tensors:
        match = LORA_KEY.fullmatch(key.removeprefix(_PREFIX))
        if match and match["part"][-1] in "AB" and match["parameter"] != "bias":
            kind, half = match["part"][:-1], match["part"][-1]
            halves.setdefault((match["module"], kind), {})[half] = key
    found: dict[str, tuple[tuple[str, str], LowRankUpdate]] = {}
    lora = ConfiguredLora(config)
    for (module, _), keys in halves.items():
        if keys.keys() != {"A", "B"} or module in found:
            continue
        a, b = tensors[keys["A"]], tensors[keys["B"]]
        # A convolution's A is [r, in, k, k]; its B [out, r, 1, 1]. In groups B has fewer columns, and no product is this.
        if a.dim() < 2 or b.dim() < 2 or b.flatten(1).shape[1] != a.shape[0]:
            continue
        update = LowRankUpdate(lora.scale(module), b.flatten(1), a.flatten(1))
        found[module] = ((keys["A"], keys["B"]), update)
    return found


def _coordinates(*updates: LowRankUpdate) -> list[torch.Tensor]:
    """Each update in the same two orthonormal bases: small matrices with the same norms, angles and singular values."""
    columns = torch.linalg.qr(torch.cat([update.b.double() for update in updates], dim=1), mode="r").R
    rows = torch.linalg.qr(torch.cat([update.a.double().T for update in updates], dim=1), mode="r").R
    ranks = [update.a.shape[0] for update in updates]
    pairs = zip(updates, columns.split(ranks, dim=1), rows.split(ranks, dim=1), strict=True)
    return [update.scale * left @ right.T for update, left, right in pairs]


def _alone(update: Update | None) -> tuple[float | None, float | None]:
    """Norm and effective rank of one update."""
    if update is None:
        return None, None
    if isinstance(update, Plain):
        return _norm(update.tensor.double()), None
    (matrix,) = _coordinates(update)
    return _norm(matrix), _effective_rank(matrix)


def _comparison(first: torch.Tensor, second: torch.Tensor, *, ranked: bool) -> Comparison:
    before, after = _norm(first), _norm(second)
    together = before * after
    return Comparison(
        before=before,
        after=after,
        difference=_norm(first - second),
        cosine=max(-1.0, min(1.0, float((first * second).sum()) / together)) if together > 0 else None,
        before_rank=_effective_rank(first) if ranked else None,
        after_rank=_effective_rank(second) if ranked else None,
    )


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))


def _effective_rank(matrix: torch.Tensor) -> float:
    values = torch.linalg.svdvals(matrix)
    total = float(values.sum())
    if total == 0:
        return 0.0
    return math.exp(float(torch.special.entr(values / total).sum()))
