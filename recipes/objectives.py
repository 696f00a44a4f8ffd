"""What preference tuning minimises, and what is measured of it, from log likelihoods of answers alone.

An answer's gain is how much likelier the adapter makes it than the base alone finds it, in nats; its reward is beta times
that. The formulas are TRL's own, over numpy: tests hold both against each other. Does not run models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.methods import Default
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes.metrics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PAIRS, JUDGED = "dpo", "kto"
"""The objectives of pairs, and of answers that stand alone, where none is named."""


@dataclass(frozen=True)
class Objective:
    """One way to learn from judgements. `pairs`: whether of pairs; `beta`: its default and why."""

    name: str
    summary: str
    pairs: bool
    beta: Default


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            "dpo",
            "the chosen answer gains more than the rejected one (Rafailov et al. 2023)",
            True,
            Default(0.1, "the value of DPO's paper, and what most published runs use"),
        ),
        Objective(
            "dpo-norm",
            "dpo with gains a token, so that long answers are not preferred for their length (Lambert et al. 2024)",
            True,
            Default(5.0, "gains a token are small: Tulu 3 found 5 best"),
        ),
        Objective(
            "kto",
            "good answers gain, bad ones lose, each for itself (Ethayarajh et al. 2024)",
            False,
            Default(0.1, "the value of KTO's paper, which found it good for all sizes"),
        ),
    )
}


def find_objective(name: Any) -> Objective:
    """The objective called `name`. Raises InvalidSettings with near names."""
    if name not in OBJECTIVES:
        raise InvalidSettings(f"there is no objective {name!r}", hint=did_you_mean(str(name), OBJECTIVES))
    return OBJECTIVES[name]


def check_numbers(objective: str, beta: Any, label_smoothing: Any) -> None:
    """Raises InvalidSettings for a beta or a label_smoothing that cannot work."""
    if not _number(beta) or beta <= 0:
        raise InvalidSettings(f"beta is a number above 0; {beta!r} is not")
    if not _number(label_smoothing) or not 0 <= label_smoothing < 0.5:
        raise InvalidSettings(f"label_smoothing is a share from 0 to below 0.5; {label_smoothing!r} is not")
    if label_smoothing and objective != "dpo":
        raise InvalidSettings(
            f"label_smoothing does not apply to {objective}", hint="Leave it out, or set objective=dpo."
        )


def class_weights(good: Sequence[bool]) -> dict[str, float]:
    """What a good and a bad answer count, so that both kinds weigh the same in all (KTO's paper, eq. 8): the rarer more."""
    share = sum(good) / len(good)
    if not 0 < share < 1:
        return {"good_weight": 1.0, "bad_weight": 1.0}
    odds = share / (1 - share)
    return {"good_weight": round(max(1.0, 1 / odds), 4), "bad_weight": round(max(1.0, odds), 4)}


def pair_losses(gains: Floats, lengths: Floats, settings: Mapping[str, Any]) -> Floats:
    """[pairs] from gains [pairs, 2] and numbers of tokens [pairs, 2], the chosen answers first.

    With label_smoothing dpo is Chowdhury et al.'s robust DPO (2024), that of data of which this share is the wrong way
    round.
    """
    if settings["objective"] == "dpo-norm":
        gains = gains / np.maximum(lengths, 1)
    margin = settings["beta"] * (gains[:, 0] - gains[:, 1])
    flipped = settings["label_smoothing"]
    return np.asarray(
        (flipped - 1) * _log_sigmoid(margin) / (1 - 2 * flipped)
        + flipped * _log_sigmoid(-margin) / (1 - 2 * flipped)
    )


def judged_losses(
    gains: Floats, mismatched: Floats, good: NDArray[np.bool_], settings: Mapping[str, Any]
) -> Floats:
    """[answers]: KTO's loss from gains [answers]; `mismatched`: those of other prompts' answers, whose mean, if above zero,
    is what an answer has to surpass."""
    beta, threshold = settings["beta"], max(0.0, float(mismatched.mean()))
    losses = np.where(good, _sigmoid(beta * (threshold - gains)), _sigmoid(beta * (gains - threshold)))
    return np.asarray(losses * np.where(good, settings["good_weight"], settings["bad_weight"]))


def pair_statistics(gains: Floats, losses: Floats | None, beta: float) -> Statistics:
    """reward_accuracy: the share of pairs whose chosen answer gains more (equal gains count half); reward_margin: by how
    much its reward is above the rejected one's; loss, where there are losses."""
    margins = gains[:, 0] - gains[:, 1]
    counts = [np.ones(len(gains)), (np.sign(margins) + 1) / 2, beta * margins]
    counts += [losses] if losses is not None else []

    def summarise(sums: Floats) -> dict[str, Floats]:
        names = ("reward_accuracy", "reward_margin", "loss")
        return {
            name: sums[..., at] / sums[..., 0] for at, name in enumerate(names[: len(counts) - 1], start=1)
        }

    return Statistics(np.stack(counts, axis=1), summarise)


def judged_statistics(
    gains: Floats, mismatched: Floats, losses: Floats | None, good: NDArray[np.bool_], beta: float
) -> Statistics:
    """reward_accuracy: the share of good answers that gain more than an answer to another prompt does in the mean, and of
    bad ones that gain less, the mean of both, or of the kind that there is; reward_margin, where there are both: by how
    much the mean reward of good ones is above that of bad ones; loss, where there are losses."""
    above = (np.sign(gains - mismatched.mean()) + 1) / 2
    right = np.where(good, above, 1 - above)
    counts = [np.ones(len(gains))]
    for kind in (good, ~good):
        counts += [kind.astype(np.float64), kind * right, kind * gains]
    counts += [losses] if losses is not None else []

    def summarise(sums: Floats) -> dict[str, Floats]:
        rows, goods, right_goods, good_gains, bads, right_bads, bad_gains, *rest = np.moveaxis(sums, -1, 0)
        goods, bads = (np.where(kind > 0, kind, np.nan) for kind in (goods, bads))
        found = {"reward_accuracy": np.nanmean([right_goods / goods, right_bads / bads], axis=0)}
        if good.any() and not good.all():
            found["reward_margin"] = beta * (good_gains / goods - bad_gains / bads)
        return {**found, "loss": rest[0] / rows} if rest else found

    return Statistics(np.stack(counts, axis=1), summarise)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _log_sigmoid(values: Floats) -> Floats:
    return np.asarray(-np.logaddexp(0.0, -values))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(np.exp(_log_sigmoid(values)))
