"""From a row of logits to the next token, and the state that it is drawn with.

`Sampler` is one request's (one choice's) state: what it generated, its random numbers, its place in a grammar. `sample`
chooses the next token of many rows at once. A row depends on its own logits and sampler alone, so a seed means one text
whatever the neighbours.

The order is that of transformers' `generate`: repetition, presence and frequency penalties, the grammar, the minimum
length; then, unless greedy, temperature, top-k, top-p and min-p, by transformers' own processors. Does not detokenise or
find stop strings (text_stream does).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adapthub.adapters.errors import SamplingError
from adapthub.runtime.sampling import Constraint, Sampled, Sampling

# The likeliest token is certain long before; divided by less, logits would be no numbers.
_LOWEST_TEMPERATURE = 1e-30


# How many candidates a CPU row is narrowed to: beyond the k of top-k, and for top-p alone.
_TIES, _NUCLEUS = 64, 256


class Sampler:
    """The sampling state of one choice of one request; it outlives preemption, as it holds what was generated.

    `eos_ids` end the text unless `sampling.ignore_eos`. `choice` is the index among the request's n; each has a
    `constraint` of its own. `prompt_ids`: what a repetition penalty counts before the first token; `penalty`: that of a
    request which asks for none. After each token, `finish_reason` says whether the text ends here: "stop" (an end token, a
    stop id or the grammar) or "length"; `ended_by` is the end token or stop id, which is no part of the text.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int],
        eos_ids: frozenset[int],
        constraint: Constraint | None = None,
        choice: int = 0,
        penalty: float = 1.0,
    ) -> None:
        self.sampling = sampling
        self.generated: list[int] = []
        self.finish_reason: Literal["stop", "length"] | None = None
        self.ended_by: int | None = None
        self._constraint = constraint
        self._ends = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else eos_ids)
        asked = sampling.repetition_penalty
        self._penalty = penalty if asked is None else float(asked)
        self._repeats = self._penalty != 1
        self._adds = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        # What transformers' processor reads: these and the generated tokens.
        self._history = torch.tensor(prompt_ids if self._repeats else (), dtype=torch.long)
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed((sampling.seed + choice) % 2**64)

    @property
    def untouched(self) -> bool:
        """The next token is chosen by the logits as they are: `scores` are the same."""
        return not (
            self._repeats
            or self._adds
            or self._constraint is not None
            or len(self.generated) < self.sampling.min_new_tokens
        )

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [1, vocabulary] with penalties applied and what may not come next at -inf.

        Raises what the constraint raises.
        """
        scores = logits
        if self._repeats:
            scores = RepetitionPenaltyLogitsProcessor(self._penalty)(self._seen(logits.device), scores)
        if self._adds and self._counts:
            tokens = _on(logits.device, [*self._counts], torch.long)
            counts = _on(logits.device, [*self._counts.values()], torch.long)
            scores = scores.clone()
            scores[0, tokens] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * counts
        if self._constraint is not None:
            scores = _masked(scores, self._constraint.allowed())
        if len(self.generated) < self.sampling.min_new_tokens and self._ends:
            scores = self._without_ends(scores)
        return scores

    def uniform(self) -> float:
        """The next random number of this choice, in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def accept(self, token_id: int) -> None:
        """Take a chosen token into account. Raises what the constraint raises."""
        if self._constraint is not None:
            self._constraint.advance(token_id)
        self.generated.append(token_id)
        if self._repeats:
            self._history = torch.cat([self._history, self._history.new_tensor([token_id])])
        if self._adds:
            self._counts[token_id] += 1
        if token_id in self._ends:
            self.finish_reason, self.ended_by = "stop", token_id
        elif self._constraint is not None and self._constraint.finished:
            self.finish_reason = "stop"
        elif len(self.generated) >= self.sampling.max_new_tokens:
            self.finish_reason = "length"

    def _seen(self, device: torch.device) -> torch.Tensor:
        self._history = self._history.to(device)
        return self._history[None]

    def _without_ends(self, scores: torch.Tensor) -> torch.Tensor:
        """Without tokens that would end the text, unless the grammar leaves nothing else."""
        early = MinNewTokensLengthLogitsProcessor(
            0, self.sampling.min_new_tokens, sorted(self._ends), device=str(scores.device)
        )
        generated = torch.empty(1, len(self.generated), dtype=torch.long, device=scores.device)
        longer = cast(torch.Tensor, early(generated, scores))
        return scores if self._constraint is not None and bool(longer.isneginf().all()) else longer


@torch.inference_mode()
def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | SamplingError]:
    """The next token of each row; each sampler has taken it into account.

    `logits` [rows, vocabulary] float32, one row a sampler, on any device. A row whose logits are not finite numbers, or
    that has no token left to choose, gives a SamplingError in its place and its sampler stays as it was.
    """
    best, tokens = logits.max(dim=-1)
    failed: dict[int, SamplingError] = {}
    touched: dict[int, torch.Tensor] = {}
    draws: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for row, sampler in enumerate(samplers):
        if not sampler.untouched:
            try:
                touched[row] = sampler.scores(logits[row : row + 1])
            except Exception as error:  # a parser of another library, over what a stranger wrote
                failed[row] = _as_ours(error)
                continue
        if sampler.sampling.temperature > 0:
            draws[_drawing(sampler.sampling)].append(row)
    sound = best.abs() < math.inf
    if touched:
        places = _on(logits.device, [*touched], torch.long)
        best, tokens[places] = torch.cat([*touched.values()]).max(dim=-1)
        sound[places] &= best.abs() < math.inf
    for drawing, drawn in draws.items():
        scores = _rows(logits, touched, drawn)
        uniforms = _on(logits.device, [samplers[row].uniform() for row in drawn], torch.float64)
        tokens[_on(logits.device, drawn, torch.long)] = _draw(scores, drawing, uniforms)
    logprobs = _logprobs(logits, tokens, samplers)
    results: list[Sampled | SamplingError] = []
    # Here the host waits for a GPU, where it did not for logprobs or a grammar.
    for row, token in enumerate(torch.where(sound, tokens, -1).tolist()):
        if row in failed or token < 0:
            results.append(failed.get(row) or _unsound())
            continue
        try:
            samplers[row].accept(token)
        except Exception as error:
            results.append(_as_ours(error))
        else:
            results.append(logprobs.get(row) or Sampled(token))
    return results


def _rows(logits: torch.Tensor, touched: Mapping[int, torch.Tensor], chosen: Sequence[int]) -> torch.Tensor:
    """The chosen ones of `logits`, those of `touched` instead where there are."""
    if len(chosen) == len(logits) and not touched:
        return logits
    return torch.cat([touched[row] if row in touched else logits[row : row + 1] for row in chosen])


def _on(device: torch.device, values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """`values` on `device`; a GPU gets them in its turn, and the host does not wait for it."""
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _drawing(sampling: Sampling) -> tuple[float, int, float, float]:
    return sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p


def _draw(scores: torch.Tensor, drawing: tuple[float, ...], uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens [rows] at the points `uniforms` of the rows' distributions, taken in the order of token ids."""
    temperature, top_k, top_p, min_p = drawing
    # The likeliest at 0: a very low temperature then cannot overflow.
    scores = scores - scores.amax(dim=-1, keepdim=True)
    scores = _processed(scores, TemperatureLogitsWarper(max(float(temperature), _LOWEST_TEMPERATURE)))
    if scores.is_cpu and (top_k or top_p < 1):
        rows = zip(scores.split(1), uniforms.split(1), strict=True)
        return torch.cat([_draw_among_few(row, int(top_k), top_p, min_p, point) for row, point in rows])
    return _at(_warped(scores, int(top_k), top_p, min_p), uniforms)


def _draw_among_few(
    scores: torch.Tensor, top_k: int, top_p: float, min_p: float, uniform: torch.Tensor
) -> torch.Tensor:
    """The same token [1] as among the whole vocabulary, which takes a CPU milliseconds to sort.

    Top-k: the k likeliest and as many more as tell that no tie reaches further. Top-p: the likeliest, if together they
    have so large a share of the whole that it is reached within them.
    """
    size = top_k + _TIES if top_k else _NUCLEUS
    if size < scores.shape[-1]:
        few, tokens = scores.topk(size)
        share = 1.0 if top_k else float((few - scores.logsumexp(dim=-1)).exp().sum())
        no_tie = bool(few[0, -1].isneginf() or few[0, -1] < few[0, top_k - 1])
        if no_tie if top_k else share >= top_p:
            tokens, order = tokens[0].sort()
            return tokens[_at(_warped(few[:, order], top_k, min(1.0, top_p / share), min_p), uniform)]
    return _at(_warped(scores, top_k, top_p, min_p), uniform)


def _warped(scores: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    if top_k:
        scores = _processed(scores, TopKLogitsWarper(top_k))
    if top_p < 1:
        scores = _processed(scores, TopPLogitsWarper(top_p))
    if min_p:
        scores = _processed(scores, MinPLogitsWarper(min_p))
    return scores


def _processed(scores: torch.Tensor, processor: LogitsProcessor) -> torch.Tensor:
    """For the processors that read no tokens."""
    return cast(torch.Tensor, processor(cast(torch.LongTensor, None), cast(torch.FloatTensor, scores)))


def _at(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverts the cumulative distributions; their sums in float64, so that no token's share is lost."""
    reached = scores.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    points = uniforms[:, None] * reached[:, -1:]
    # Behind the last token only in a row that is not numbers, which `sample` refuses.
    return torch.searchsorted(reached, points, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)


def _masked(scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """A tokenizer and an output layer may differ in length: a token that the tokenizer lacks is not allowed."""
    size = min(scores.shape[-1], len(allowed))
    masked = torch.full_like(scores, -math.inf)
    masked[:, :size] = scores[:, :size].masked_fill(~allowed[:size].to(scores.device), -math.inf)
    return masked


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor, samplers: Sequence[Sampler]) -> dict[int, Sampled]:
    """The chosen `tokens` [rows] of the rows that want log probabilities, with them."""
    wanted = {
        row: alternatives
        for row, sampler in enumerate(samplers)
        if (alternatives := sampler.sampling.logprobs) is not None
    }
    if not wanted:
        return {}
    chosen = tokens[_on(logits.device, [*wanted], torch.long)]
    logprobs = _rows(logits, {}, [*wanted]).log_softmax(dim=-1)
    values, likeliest = logprobs.topk(min(max(wanted.values()), logits.shape[-1]))
    columns = chosen, logprobs.gather(1, chosen[:, None])[:, 0], likeliest, values
    found = zip(wanted.items(), *(column.tolist() for column in columns), strict=True)
    return {
        row: Sampled(token, logprob, tuple(zip(ids[:alternatives], logs[:alternatives], strict=True)))
        for (row, alternatives), token, logprob, ids, logs in found
    }


def _unsound() -> SamplingError:
    return SamplingError(
        "no token can be chosen: the logits are not finite numbers, or none is left that may come next",
        hint="Check the adapter's weights, or the grammar if one was given.",
    )


def _as_ours(error: Exception) -> SamplingError:
    if isinstance(error, SamplingError):
        return error
    failure = SamplingError(f"choosing a token failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
