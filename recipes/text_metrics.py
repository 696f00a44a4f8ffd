"""Metrics of texts that were generated, as sums of counts an example: sacreBLEU's BLEU and chrF, ROUGE, and the loss.

BLEU (Papineni et al. 2002) and chrF (Popovic 2015) are corpus metrics over summed counts of n-grams, so a resample of
examples is one addition; counts and scores are sacreBLEU's own. ROUGE (Lin 2004) is the mean of the examples' F measures,
each by rouge-score. Does not generate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from adapthub.recipes.metrics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Scripts that are written without spaces between words.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_HAN = regex.compile(r"\p{Han}")
_WORD = regex.compile(rf"{_UNSPACED.pattern}\p{{M}}*|(?:(?!{_UNSPACED.pattern})\w)+")
_FEW = 0.05


def translation_statistics(
    texts: Sequence[str],
    references: Sequence[str],
    losses: Sequence[NDArray[Any]],
    answered: Sequence[int] | None = None,
) -> Statistics:
    """chrf and bleu, from 0 to 100 as is usual, of the texts at the places `answered`, all of them if None, and not there
    where they are none; and loss, in nats a target token: lower is better.

    Both as sacreBLEU's, case kept, one reference each: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp for BLEU, and
    nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no for chrF. BLEU's tok is `bleu_tokenizer`'s.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    places = _places(texts, answered)
    if not places:
        return Statistics(loss_counts(losses), lambda sums: {"loss": mean_loss(sums)})
    measures = {"chrf": CHRF(), "bleu": BLEU(tokenize=bleu_tokenizer(references))}
    said, wanted = [texts[at] for at in places], [references[at] for at in places]
    counts = [loss_counts(losses), at_places(places, np.ones((len(places), 1)), len(texts))]
    for measure in measures.values():
        counts.append(at_places(places, _counts(measure, said, wanted), len(texts)))
    edges = np.cumsum([part.shape[1] for part in counts])

    def summarise(sums: Floats) -> dict[str, Floats]:
        loss, written, *parts = np.split(sums, edges[:-1], axis=-1)
        scores = {
            name: np.where(written[..., 0] > 0, _scores(measure, part), np.nan)
            for (name, measure), part in zip(measures.items(), parts, strict=True)
        }
        return {**scores, "loss": mean_loss(loss)}

    return Statistics(np.concatenate(counts, axis=1), summarise, dict.fromkeys(measures, len(places)))


def summary_statistics(
    texts: Sequence[str],
    references: Sequence[str],
    losses: Sequence[NDArray[Any]],
    answered: Sequence[int] | None = None,
) -> Statistics:
    """rouge1, rouge2, rougeL and rougeLsum (by lines, for summaries of several), from 0 to 1, of the texts at the places
    `answered`, all of them if None, and not there where they are none; and loss, in nats a target token: lower is better.

    Words are runs of letters and digits of any script, lower case, without stemming; in scripts without spaces (Chinese,
    Japanese, Thai and their kin) each character is one.
    """
    kinds = ("rougeL", "rouge1", "rouge2", "rougeLsum")
    rouge, some = _rouge(kinds, texts, references, _places(texts, answered))

    def summarise(sums: Floats) -> dict[str, Floats]:
        return {**_rouge_means(some, sums), "loss": mean_loss(sums)}

    return Statistics(np.concatenate([loss_counts(losses), rouge], axis=1), summarise, some)


def answer_statistics(
    texts: Sequence[str], references: Sequence[str], losses: Sequence[NDArray[Any]], answered: Sequence[int]
) -> Statistics:
    """perplexity and loss of a target token, lower is better; and rougeL, from 0 to 1, of the texts at the places
    `answered`, with words as in `summary_statistics`: not there where none was asked for."""
    rouge, some = _rouge(("rougeL",), texts, references, answered)

    def summarise(sums: Floats) -> dict[str, Floats]:
        loss = mean_loss(sums)
        return {"perplexity": np.exp(loss), "loss": loss, **_rouge_means(some, sums)}

    return Statistics(np.concatenate([loss_counts(losses), rouge], axis=1), summarise, some)


def loss_counts(losses: Sequence[NDArray[Any]]) -> Floats:
    """float64 [examples, 2]: the sum of the losses of an example's target tokens, and how many there are."""
    return np.array([[float(row.sum()), len(row)] for row in losses], dtype=np.float64).reshape(-1, 2)


def mean_loss(sums: Floats) -> Floats:
    """The mean loss a token, from sums of `loss_counts`."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _places(texts: Sequence[str], answered: Sequence[int] | None) -> Sequence[int]:
    return range(len(texts)) if answered is None else answered


def at_places(places: Sequence[int], counts: Floats, rows: int) -> Floats:
    """The counts of the rows at `places`, and 0 for all others."""
    found = np.zeros((rows, counts.shape[1]))
    found[list(places)] = counts
    return found


def _rouge(
    kinds: Sequence[str], texts: Sequence[str], references: Sequence[str], places: Sequence[int]
) -> tuple[Floats, dict[str, int]]:
    """[texts, 1 + kinds]: whether a text is one of those at `places`, and its F measures; and of how many texts each kind
    is, {} where there are none."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(kinds, tokenizer=_Words())
    scores = [scorer.score(references[at], texts[at]) for at in places]
    rows = [[1.0, *(score[kind].fmeasure for kind in kinds)] for score in scores]
    counts = np.array(rows, dtype=np.float64).reshape(-1, 1 + len(kinds))
    return at_places(places, counts, len(texts)), dict.fromkeys(kinds, len(places)) if places else {}


def _rouge_means(kinds: Iterable[str], sums: Floats) -> dict[str, Floats]:
    """From sums of `loss_counts` and `_rouge`; NaN where no text was counted."""
    written = np.where(sums[..., 2] > 0, sums[..., 2], np.nan)
    return {kind: np.asarray(sums[..., 3 + at] / written) for at, kind in enumerate(kinds)}


class _Words:
    """rouge-score's own tokenizer knows the letters a to z alone."""

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = _WORD.findall(text.lower())
        return words


def bleu_tokenizer(references: Sequence[str]) -> str:
    """How sacreBLEU cuts words: "13a", its default; "zh" where most letters are Chinese; "char" for Japanese, whose kana
    "zh" leaves in runs, and other scripts without spaces."""
    letters = "".join(references)
    unspaced, han = len(_UNSPACED.findall(letters)), len(_HAN.findall(letters))
    if 2 * unspaced <= len(regex.findall(r"\w", letters)):
        return "13a"
    return "zh" if unspaced - han <= _FEW * unspaced else "char"


def _counts(measure: Any, texts: Sequence[str], references: Sequence[str]) -> Floats:
    # sacreBLEU bootstraps by these two functions itself (its significance module); it has no public names for them.
    return np.array(measure._extract_corpus_statistics(list(texts), [list(references)]), dtype=np.float64)


def _scores(measure: Any, sums: Floats) -> Floats:
    """The score of each last-axis vector of counts."""
    rows = sums.reshape(-1, sums.shape[-1])
    scores = [measure._compute_score_from_stats([int(count) for count in row]).score for row in rows]
    return np.array(scores, dtype=np.float64).reshape(sums.shape[:-1])
