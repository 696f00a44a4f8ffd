"""Sampling: what may be asked, and tokens chosen as transformers' generate chooses them, each row by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adapthub.adapters.errors import InvalidInput, SamplingError
from adapthub.runtime.sampler import Sampler, sample
from adapthub.runtime.sampling import Sampled, Sampling

NO_EOS: frozenset[int] = frozenset()
PROMPT = [3, 17, 17, 40, 9]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Random, and sure of itself: a greedy text that repeats, for penalties to break up."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.3,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return cast(LlamaForCausalLM, LlamaForCausalLM(config).eval())


class AtPoint(Sampler):
    """Draws at a given point instead of a random one."""

    point = 0.0

    def uniform(self) -> float:
        return self.point


def token(result: Sampled | SamplingError) -> int:
    assert isinstance(result, Sampled)
    return result.token_id


def run(model: LlamaForCausalLM, samplers: Sequence[Sampler]) -> list[list[int]]:
    """The naive loop: whole texts anew for every token."""
    while unfinished := [sampler for sampler in samplers if sampler.finish_reason is None]:
        with torch.no_grad():
            logits = [
                model(input_ids=torch.tensor([PROMPT + sampler.generated])).logits[0, -1]
                for sampler in unfinished
            ]
        sample(torch.stack(logits), unfinished)
    return [sampler.generated for sampler in samplers]


def generate(model: LlamaForCausalLM, **options: Any) -> Any:
    config = GenerationConfig(pad_token_id=0, return_dict_in_generate=True, output_scores=True, **options)
    ids = torch.tensor([PROMPT])
    return cast(Any, model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)


def draws(logits: torch.Tensor, sampling: Sampling, points: int) -> list[int]:
    """What is drawn at evenly spaced points."""
    samplers = []
    for index in range(points):
        sampler = AtPoint(sampling, PROMPT, NO_EOS)
        sampler.point = (index + 0.5) / points
        samplers.append(sampler)
    return [token(result) for result in sample(logits.expand(points, -1), samplers)]


def counts(logits: torch.Tensor, sampling: Sampling, points: int) -> torch.Tensor:
    """How often each token is drawn over evenly spaced points: its probability, to within one point."""
    return torch.tensor(draws(logits, sampling, points)).bincount(minlength=logits.shape[-1])


class TestWhatMayBeAsked:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_new_tokens": 0},
            {"max_new_tokens": 1.5},
            {"max_new_tokens": True},
            {"min_new_tokens": -1},
            {"min_new_tokens": 129},
            {"temperature": -0.1},
            {"temperature": float("nan")},
            {"temperature": float("inf")},
            {"temperature": "1"},
            {"top_k": -1},
            {"top_p": 0.0},
            {"top_p": 1.01},
            {"min_p": -0.1},
            {"min_p": 1.1},
            {"repetition_penalty": 0.0},
            {"repetition_penalty": 11},
            {"presence_penalty": 2.1},
            {"frequency_penalty": -2.1},
            {"seed": 2**63},
            {"seed": 0.5},
            {"n": 0},
            {"n": 129},
            {"logprobs": 21},
            {"logprobs": -1},
            {"stop": "text"},
            {"stop": ("",)},
            {"stop": ("x" * 257,)},
            {"stop": (3,)},
            {"stop": tuple(map(str, range(17)))},
            {"stop": tuple(map(str, range(5000)))},
            {"stop_token_ids": (-1,)},
            {"stop_token_ids": (2**70,)},
            {"stop_token_ids": ("1",)},
            {"stop_token_ids": tuple(range(65))},
            {"stop_token_ids": 3},
            {"regex": 3},
            {"grammar": b"start: x"},
        ],
        ids=str,
    )
    def test_what_is_out_of_range_is_named_with_the_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput) as caught:
            Sampling(**wrong)
        assert next(iter(wrong)) in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize(
        "right",
        [
            {"temperature": 0, "top_p": 1, "repetition_penalty": 2},
            {"seed": -(2**63)},
            {"seed": 2**63 - 1},
            {"stop": ["a", "b"], "stop_token_ids": [5]},
            {"stop": ("x" * 256,) * 16},
            {"logprobs": 0},
            {"min_new_tokens": 128},
            {"json_schema": {}},
        ],
        ids=str,
    )
    def test_the_borders_are_allowed(self, right: dict[str, Any]) -> None:
        sampling = Sampling(**right)
        Sampler(sampling, PROMPT, NO_EOS, choice=sampling.n - 1)
        assert isinstance(sampling.stop, tuple)

    def test_at_most_one_grammar_and_it_ends_by_itself(self) -> None:
        with pytest.raises(InvalidInput, match="json_schema and regex"):
            Sampling(json_schema="{}", regex="a")
        with pytest.raises(InvalidInput, match="ignore_eos with regex"):
            Sampling(regex="a", ignore_eos=True)


class TestAsGenerateDoes:
    @pytest.mark.parametrize("penalty", [1.0, 0.8, 1.3, 5.0])
    def test_greedy_tokens_are_equal_with_and_without_a_repetition_penalty(
        self, model: LlamaForCausalLM, penalty: float
    ) -> None:
        expected = generate(model, max_new_tokens=40, do_sample=False, repetition_penalty=penalty)
        sampler = Sampler(Sampling(max_new_tokens=40, repetition_penalty=penalty), PROMPT, NO_EOS)
        assert run(model, [sampler]) == expected.sequences[:, len(PROMPT) :].tolist()
        assert sampler.finish_reason == "length"

    def test_penalties_change_the_greedy_text(self, model: LlamaForCausalLM) -> None:
        """Or the comparison above shows nothing."""
        texts = run(
            model,
            [
                Sampler(Sampling(max_new_tokens=40, repetition_penalty=p), PROMPT, NO_EOS)
                for p in (0.8, 1.0, 1.3)
            ],
        )
        assert len(set(map(tuple, texts))) == 3

    def test_end_tokens_and_the_minimum_length(self, model: LlamaForCausalLM) -> None:
        plain = run(model, [Sampler(Sampling(max_new_tokens=20), PROMPT, NO_EOS)])[0]
        ends = [plain[2], plain[5]]
        for minimum in (0, 4, 8):
            expected = generate(
                model, max_new_tokens=20, min_new_tokens=minimum, do_sample=False, eos_token_id=ends
            )
            sampler = Sampler(Sampling(max_new_tokens=20, min_new_tokens=minimum), PROMPT, frozenset(ends))
            assert run(model, [sampler]) == expected.sequences[:, len(PROMPT) :].tolist()
            assert len(sampler.generated) > minimum or sampler.finish_reason == "length"

    @given(
        temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
        top_k=st.sampled_from([0, 1, 5, 30, 200]),
        top_p=st.sampled_from([1.0, 0.95, 0.6, 0.1]),
        min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        penalty=st.sampled_from([1.0, 1.5]),
    )
    @settings(max_examples=15)
    def test_tokens_are_drawn_from_the_same_distribution(
        self,
        model: LlamaForCausalLM,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        penalty: float,
    ) -> None:
        options: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": penalty,
        }
        theirs = generate(model, max_new_tokens=1, do_sample=True, **options).scores[0][0].softmax(-1)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([PROMPT])).logits[:, -1]
        ours = counts(logits, Sampling(**options), 400)
        assert (ours - 400 * theirs).abs().max() <= 1.01
        assert not ours[theirs == 0].any()

    @pytest.mark.parametrize("step", [1e-6, 2**-7, 0.5])
    @pytest.mark.parametrize("spread", [0.5, 4.0])
    @pytest.mark.parametrize(
        ("top_k", "top_p", "min_p"),
        [(1, 1.0, 0.0), (40, 1.0, 0.0), (40, 0.8, 0.05), (0, 0.9, 0.0), (0, 0.5, 0.1), (0, 0.999, 0.0)],
    )
    def test_a_narrowed_vocabulary_changes_nothing(
        self, step: float, spread: float, top_k: int, top_p: float, min_p: float
    ) -> None:
        """Large vocabularies are narrowed before they are sorted; bfloat16 logits have many ties."""
        torch.manual_seed(5)
        logits = (torch.randn(1, 5000) * spread / step).round() * step
        warpers = LogitsProcessorList([TemperatureLogitsWarper(0.8)])
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        if min_p:
            warpers.append(MinPLogitsWarper(min_p))
        theirs = warpers(None, logits)[0].softmax(-1)  # type: ignore[arg-type]
        tokens = draws(logits, Sampling(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p), 300)
        assert tokens == sorted(
            tokens
        )  # as over the whole vocabulary: a seed's text does not depend on the way
        ours = torch.tensor(tokens).bincount(minlength=5000)
        # Which of equal tokens top-p drops at its border is arbitrary: equal tokens are counted together.
        values, place = logits[0].unique(return_inverse=True)
        drawn, expected, kept = (
            torch.zeros(len(values)).index_add(0, place, each.float())
            for each in (ours, 300 * theirs, theirs > 0)
        )
        assert ((drawn - expected).abs() <= 1.01 * kept).all()

    def test_a_very_low_temperature_is_greedy_and_a_very_high_one_is_even(self) -> None:
        logits = torch.tensor([[30.0, 29.0, -40.0, 29.5]])
        assert counts(logits, Sampling(temperature=1e-40), 50).tolist() == [50, 0, 0, 0]
        even = counts(logits, Sampling(temperature=100.0), 1000)
        assert (even - 1000 * (logits[0] / 100).softmax(-1)).abs().max() <= 1.01


class TestPenaltiesOverGeneratedTokens:
    @given(
        presence=st.floats(-2, 2),
        frequency=st.floats(-2, 2),
        before=st.lists(st.integers(0, 11), max_size=30),
    )
    def test_presence_and_frequency_are_openais(
        self, presence: float, frequency: float, before: list[int]
    ) -> None:
        torch.manual_seed(1)
        logits = torch.randn(1, 12)
        sampler = Sampler(
            Sampling(presence_penalty=presence, frequency_penalty=frequency), list(range(12)), NO_EOS
        )
        for each in before:
            sampler.accept(each)
        times = Counter(before)
        expected = [float(logits[0, i]) - times[i] * frequency - (times[i] > 0) * presence for i in range(12)]
        torch.testing.assert_close(sampler.scores(logits)[0], torch.tensor(expected))
        assert logits.equal(torch.randn(1, 12, generator=torch.Generator().manual_seed(1)))


class TestSeeds:
    SETTINGS = (
        Sampling(max_new_tokens=12, temperature=1.0, seed=11),
        Sampling(max_new_tokens=12, temperature=1.0, seed=11, top_k=20),
        Sampling(max_new_tokens=12, temperature=1.3, seed=5, top_p=0.9, presence_penalty=1.0),
        Sampling(max_new_tokens=12, temperature=0.7, seed=11, min_p=0.05, repetition_penalty=1.2),
        Sampling(max_new_tokens=12),
    )

    @given(order=st.permutations(range(5)), size=st.integers(1, 5))
    @settings(max_examples=8)
    def test_same_seed_same_text_whatever_the_neighbours(
        self, model: LlamaForCausalLM, order: list[int], size: int
    ) -> None:
        alone = [run(model, [Sampler(s, PROMPT, NO_EOS)])[0] for s in self.SETTINGS]
        chosen = order[:size]
        together = run(model, [Sampler(self.SETTINGS[i], PROMPT, NO_EOS) for i in chosen])
        assert together == [alone[i] for i in chosen]

    def test_choices_are_those_of_the_next_seeds(self, model: LlamaForCausalLM) -> None:
        sampling = Sampling(max_new_tokens=12, temperature=1.5, seed=40, n=3)
        choices = run(model, [Sampler(sampling, PROMPT, NO_EOS, choice=i) for i in range(3)])
        singles = [Sampling(max_new_tokens=12, temperature=1.5, seed=40 + i) for i in range(3)]
        assert choices == run(model, [Sampler(single, PROMPT, NO_EOS) for single in singles])
        assert len(set(map(tuple, choices))) == 3

    def test_without_a_seed_texts_differ(self, model: LlamaForCausalLM) -> None:
        sampling = Sampling(max_new_tokens=12, temperature=2.0)
        texts = run(model, [Sampler(sampling, PROMPT, NO_EOS) for _ in range(4)])
        assert len(set(map(tuple, texts))) > 1


class TestLogprobs:
    def test_they_are_of_the_models_own_distribution(self) -> None:
        logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2)) * 3
        plain = logits.log_softmax(-1)
        penalised = Sampler(
            Sampling(temperature=1.0, top_k=3, repetition_penalty=3.0, seed=0, logprobs=5), PROMPT, NO_EOS
        )
        chosen = Sampler(Sampling(logprobs=0), PROMPT, NO_EOS)
        none = Sampler(Sampling(), PROMPT, NO_EOS)
        first, second, third = sample(logits, [penalised, chosen, none])
        assert isinstance(first, Sampled)
        assert isinstance(second, Sampled)
        assert first.logprob == pytest.approx(float(plain[0, first.token_id]))
        values, tokens = plain[0].topk(5)
        assert [i for i, _ in first.alternatives] == tokens.tolist()
        assert [v for _, v in first.alternatives] == pytest.approx(values.tolist())
        assert second.token_id == int(logits[1].argmax())
        assert second.logprob == pytest.approx(float(plain[1].max()))
        assert second.alternatives == ()
        assert third == Sampled(int(logits[2].argmax()), None, ())

    def test_rows_that_want_different_numbers_of_them(self) -> None:
        logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(4))
        wanted = [3, None, 0, 7]
        together = sample(logits, [Sampler(Sampling(logprobs=n), PROMPT, NO_EOS) for n in wanted])
        alone = [
            sample(logits[row : row + 1], [Sampler(Sampling(logprobs=n), PROMPT, NO_EOS)])[0]
            for row, n in enumerate(wanted)
        ]
        assert together == alone
        assert [len(one.alternatives) for one in together if isinstance(one, Sampled)] == [3, 0, 0, 7]

    def test_more_alternatives_than_tokens(self) -> None:
        (result,) = sample(torch.zeros(1, 4), [Sampler(Sampling(logprobs=20), PROMPT, NO_EOS)])
        assert isinstance(result, Sampled)
        assert len(result.alternatives) == 4


class Only:
    """A constraint that always allows the same tokens, or none."""

    finished = False
    too_complex = False

    def __init__(self, *tokens: int, size: int = 8) -> None:
        self.tokens = tokens
        self.size = size

    def allowed(self) -> torch.Tensor:
        if not self.tokens:
            raise SamplingError("nothing is allowed")
        return torch.isin(torch.arange(self.size), torch.tensor(self.tokens))

    def advance(self, token_id: int) -> None:
        assert token_id in self.tokens
        if self.too_complex:
            raise SamplingError("too complex")


class TestFaultsStayInTheirRow:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), None], ids=str)
    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(),
            Sampling(temperature=1.0),
            Sampling(temperature=1.0, top_k=3),
            Sampling(temperature=1.0, top_p=0.5, repetition_penalty=1.1, logprobs=2),
        ],
        ids=str,
    )
    def test_logits_that_are_not_numbers(self, bad: float | None, sampling: Sampling) -> None:
        logits = torch.randn(3, 400, generator=torch.Generator().manual_seed(3))
        neighbours = [Sampling(temperature=1.0, seed=1), sampling, Sampling(temperature=1.0, seed=2)]
        expected = sample(logits, [Sampler(s, PROMPT, NO_EOS) for s in neighbours])
        if bad is None or bad > 0:
            logits[1] = float("-inf")
        if bad is not None:
            logits[1, 7] = bad
        samplers = [Sampler(s, PROMPT, NO_EOS) for s in neighbours]
        first, fault, last = sample(logits, samplers)
        assert (first, last) == (expected[0], expected[2])
        assert isinstance(fault, SamplingError)
        assert samplers[1].generated == []

    def test_a_constraint_that_fails_behind_the_chosen_token(self) -> None:
        constraint = Only(1)
        constraint.too_complex = True
        samplers = [Sampler(Sampling(), PROMPT, NO_EOS, constraint), Sampler(Sampling(), PROMPT, NO_EOS)]
        first, second = sample(torch.zeros(2, 8), samplers)
        assert isinstance(first, SamplingError)
        assert token(second) == 0

    def test_a_constraint_that_fails_or_leaves_only_what_the_model_excludes(self) -> None:
        logits = torch.zeros(4, 8)
        logits[1, 2] = float("-inf")
        logits[3, 5] = float("nan")  # not among the allowed: the row's logits are broken all the same
        constraints = [Only(), Only(2), Only(3), Only(1)]
        results = sample(
            logits, [Sampler(Sampling(temperature=1.0), PROMPT, NO_EOS, one) for one in constraints]
        )
        assert [isinstance(result, SamplingError) for result in results] == [True, True, False, True]
        assert str(results[0]) == "nothing is allowed"
        assert token(results[2]) == 3


class TestConstraints:
    @pytest.mark.parametrize("size", [4, 8, 12])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_only_allowed_tokens_whatever_the_tokenizers_length(self, size: int, temperature: float) -> None:
        logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0]])
        sampler = Sampler(Sampling(temperature=temperature, seed=0), PROMPT, NO_EOS, Only(1, 2, size=size))
        drawn = {token(sample(logits, [sampler])[0]) for _ in range(30)}
        assert drawn == ({2} if temperature == 0 else {1, 2})

    def test_the_minimum_length_yields_to_a_grammar_that_is_over(self) -> None:
        logits = torch.tensor([[5.0, 1.0, 0.0]])
        ends = frozenset({0})
        sampling = Sampling(min_new_tokens=5)
        open_ended = Sampler(sampling, PROMPT, ends, Only(0, 1, size=3))
        over = Sampler(sampling, PROMPT, ends, Only(0, size=3))
        results = sample(logits.expand(2, -1), [open_ended, over])
        assert [token(result) for result in results] == [1, 0]
        assert (open_ended.finish_reason, over.finish_reason) == (None, "stop")

    def test_a_grammar_that_is_complete_ends_the_text(self) -> None:
        constraint = Only(1)
        constraint.finished = True
        sampler = Sampler(Sampling(), PROMPT, frozenset({0}), constraint)
        sample(torch.zeros(1, 8), [sampler])
        assert (sampler.finish_reason, sampler.ended_by) == ("stop", None)


class TestEnds:
    def ended(self, sampling: Sampling, tokens: Sequence[int]) -> tuple[str | None, int | None, int]:
        sampler = Sampler(sampling, PROMPT, frozenset({1, 2}))
        for each in tokens:
            logits = torch.zeros(1, 8)
            logits[0, each] = 5.0
            sample(logits, [sampler])
            if sampler.finish_reason:
                break
        return sampler.finish_reason, sampler.ended_by, len(sampler.generated)

    def test_by_end_token_stop_id_or_length(self) -> None:
        assert self.ended(Sampling(), [5, 6, 2, 5]) == ("stop", 2, 3)
        assert self.ended(Sampling(stop_token_ids=(6,)), [5, 6, 2, 5]) == ("stop", 6, 2)
        assert self.ended(Sampling(max_new_tokens=2), [5, 5, 5]) == ("length", None, 2)
        assert self.ended(Sampling(), [5, 5, 5]) == (None, None, 3)

    def test_the_last_token_that_fits_may_be_an_end(self) -> None:
        assert self.ended(Sampling(max_new_tokens=2), [5, 1]) == ("stop", 1, 2)

    def test_ignored_end_tokens_do_not_end_and_stop_ids_still_do(self) -> None:
        assert self.ended(Sampling(ignore_eos=True, max_new_tokens=4), [1, 2, 1, 2]) == ("length", None, 4)
        assert self.ended(Sampling(ignore_eos=True, stop_token_ids=(2,)), [1, 2]) == ("stop", 2, 2)

    def test_none_before_the_minimum_length(self) -> None:
        sampling = Sampling(min_new_tokens=3, stop_token_ids=(6,))
        assert self.ended(sampling, [1, 6, 2, 6]) == ("stop", 6, 4)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_lowest_temperatures_take_the_likeliest(top_p: float) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(Sampling(temperature=1e-46, top_p=top_p, seed=1), [1], NO_EOS)
    assert token(sample(logits, [sampler])[0]) == int(logits.argmax())
