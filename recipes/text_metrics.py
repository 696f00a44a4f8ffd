"""Metrics of texts that were generated, as sums of counts an example: sacreBLEU's BLEU and chrF, ROUGE, and the loss.

BLEU (Papineni et al. 2002) and chrF (Popovic 2015) are corpus metrics over summed counts of n-grams, so a resample of
examples is one addition; counts and scores are sacreBLEU's own. ROUGE (Lin 2004) is the mean of the examples' F measures,
each by rouge-score. Does not generate.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    texts: Sequence[str], references: Sequence[str], losses: Sequence[NDArray[Any]]
) -> Statistics:
    """chrf and bleu, from 0 to 100 as is usual, and loss, in nats a target token: lower is better.

    Both as sacreBLEU's, case kept, one reference each: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp for BLEU, and
    nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no for chrF. BLEU's tok is `bleu_tokenizer`'s.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    measures = {"chrf": CHRF(), "bleu": BLEU(tokenize=bleu_tokenizer(references))}
    counts = [loss_counts(losses)]
    for measure in measures.values():
        counts.append(_counts(measure, texts, references))
    edges = np.cumsum([part.shape[1] for part in counts])

    def summarise(sums: Floats) -> dict[str, Floats]:
        parts = np.split(sums, edges[:-1], axis=-1)
        scores = {
            name: _scores(measure, part)
            for (name, measure), part in zip(measures.items(), parts[1:], strict=True)
        }
        return {**scores, "loss": mean_loss(parts[0])}

    return Statistics(np.concatenate(counts, axis=1), summarise)


def summary_statistics(
    texts: Sequence[str], references: Sequence[str], losses: Sequence[NDArray[Any]]
) -> Statistics:
    """rouge1, rouge2, rougeL and rougeLsum (by lines, for summaries of several), from 0 to 1, and loss, in nats a target
    token: lower is better.

    Words are runs of letters and digits of any script, lower case, without stemming; in scripts without spaces (Chinese,
    Japanese, Thai and their kin) each character is one.
    """
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scorer = RougeScorer(kinds, tokenizer=_Words())
    scores = [scorer.score(*pair) for pair in zip(references, texts, strict=True)]
    rouge = np.array([[1.0, *(score[kind].fmeasure for kind in kinds)] for score in scores])

    def summarise(sums: Floats) -> dict[str, Floats]:
        means = {kind: sums[..., 3 + at] / sums[..., 2] for at, kind in enumerate(kinds)}
        return {"rougeL": means.pop("rougeL"), **means, "loss": mean_loss(sums)}

    return Statistics(
        np.concatenate([loss_counts(losses), rouge.reshape(-1, 1 + len(kinds))], axis=1), summarise
    )


def answer_statistics(
    texts: Sequence[str], references: Sequence[str], losses: Sequence[NDArray[Any]], answered: Sequence[int]
) -> Statistics:
    """perplexity and loss of a target token, lower is better; and rougeL, from 0 to 1, of the texts at the places
    `answered`, with words as in `summary_statistics`: not there where none was asked for."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(("rougeL",), tokenizer=_Words())
    rouge = np.zeros((len(texts), 2))
    for at in answered:
        rouge[at] = 1.0, scorer.score(references[at], texts[at])["rougeL"].fmeasure

    def summarise(sums: Floats) -> dict[str, Floats]:
        loss = mean_loss(sums)
        found = {"perplexity": np.exp(loss), "loss": loss}
        if answered:
            found["rougeL"] = sums[..., 3] / np.maximum(sums[..., 2], 1)
        return found

    return Statistics(np.concatenate([loss_counts(losses), rouge], axis=1), summarise)


def loss_counts(losses: Sequence[NDArray[Any]]) -> Floats:
    """float64 [examples, 2]: the sum of the losses of an example's target tokens, and how many there are."""
    return np.array([[float(row.sum()), len(row)] for row in losses], dtype=np.float64).reshape(-1, 2)


def mean_loss(sums: Floats) -> Floats:
    """The mean loss a token, from sums of `loss_counts`."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


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
