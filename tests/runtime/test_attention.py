"""Paged passes against transformers' own: every family that is served, every split of a prompt, mixed and prefixed rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.flat import Prefix, flat_batch
from adapthub.runtime import paged_rows
from adapthub.runtime.attention import ATTENTION, PagedRow, Serving, paged_batch, positions, serves
from adapthub.runtime.kv import KV, Held, Pages

VOCABULARY = 96
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.2,
}
_HYBRID = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
SERVED: dict[str, dict[str, Any]] = {
    "Llama": _COMMON,
    "Qwen2": _COMMON,
    "Qwen3": {**_COMMON, "head_dim": 16},
    "Mistral": {**_COMMON, "sliding_window": 4},
    "Phi": _COMMON,
    "Phi3": {**_COMMON, "sliding_window": 5},
    "Gemma": {**_COMMON, "head_dim": 8},
    "Gemma2": {
        **_COMMON,
        **_HYBRID,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
    },
    "Gemma3Text": {**_COMMON, **_HYBRID, "head_dim": 8, "query_pre_attn_scalar": 8},
    "GPTNeoX": _COMMON,
    "GPT2": _GPT2,
    "SmolLM3": _COMMON,
    "Granite": _COMMON,
    "Olmo2": _COMMON,
    "StableLm": _COMMON,
    "OPT": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "init_std": 0.2,
    },
    "GptOss": {**_COMMON, **_HYBRID, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV2": {  # keys and values of unlike sizes
        **_COMMON,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "moe_intermediate_size": 16,
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Falcon": (_COMMON, "does not go through transformers' attention interface"),
    "Bloom": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "does not take position_ids",
    ),
    "GPTJ": ({**_GPT2, "rotary_dim": 4}, "does not go through transformers' attention interface"),
    "Mamba": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "recurrent state",
    ),
    "Llama4Text": (
        {
            **_COMMON,
            "attention_chunk_size": 4,
            "head_dim": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
        },
        "window or chunk of 4 tokens",
    ),
    "MiniMax": (_COMMON, "only 1 of its 2 layers"),
    "Bert": (_COMMON, "not causal"),
}


def make(family: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model whose attention, norms and sinks matter."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options)
    made = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    model = cast(PreTrainedModel, made.eval())
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


class Engine:
    """The least that runs rows over pages: takes pages, passes chunks, returns logits."""

    def __init__(self, model: PreTrainedModel, serving: Serving, pages: int = 64, page_size: int = 4) -> None:
        self.model, self.page_size = model, page_size
        self.pages = Pages(pages)
        self.kv = KV(serving.shapes, pages, page_size, model.device, serving.dtype)

    def prefixed(self, prefix: Prefix) -> Held:
        pages = self.pages.take(-(-prefix.length // self.page_size))
        self.kv.write_prefix(prefix, pages)
        return Held(prefix_pages=pages, prefix_length=prefix.length)

    def step(
        self, chunks: Sequence[tuple[Held, Sequence[int]]], scattered: bool = False
    ) -> list[torch.Tensor]:
        """Each chunk's logits [n, vocabulary]; `scattered` takes pages apart from each other."""
        rows = []
        for held, ids in chunks:
            for _ in range(held.missing(len(ids), self.page_size)):
                after = held.pages[-1] if held.pages and not scattered else None
                held.pages += self.pages.take(1, after)
            rows.append(PagedRow(held, len(ids)))
        tokens = torch.tensor([[i for _, ids in chunks for i in ids]])
        with torch.inference_mode(), paged_batch(self.kv, rows):
            logits = self.model(input_ids=tokens, position_ids=positions(rows), use_cache=False).logits[0]
        return list(logits.split([row.new for row in rows]))


def prompt(seed: int, length: int) -> list[int]:
    random_ids = random.Random(seed)
    return [random_ids.randrange(3, VOCABULARY) for _ in range(length)]


def plain(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.fixture
def batched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices other than the CPU do, here."""
    monkeypatch.setattr(paged_rows, "_IN_PLACE", () if request.param else ("cpu",))


@pytest.fixture(scope="module")
def served_llama() -> tuple[PreTrainedModel, Serving]:
    model = make("Llama", _COMMON)
    return model, serves(model)


both_ways = pytest.mark.parametrize("batched", [False, True], indirect=True, ids=["in place", "gathered"])


@both_ways
@pytest.mark.usefixtures("batched")
@pytest.mark.parametrize("family", SERVED)
def test_a_family_generates_what_transformers_generates(family: str) -> None:
    """Prompts of several lengths, chunks and steps mixed, pages scattered: tokens of `generate`, logits of a plain pass."""
    model = make(family, SERVED[family])
    prompts = [prompt(n, n) for n in (3, 11, 7)]
    steps = 6
    with torch.inference_mode():
        expected = [
            cast(Any, model)
            .generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=steps,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0]
            .tolist()
            for ids in prompts
        ]
        logits = [plain(model, ids) for ids in expected]
    engine = Engine(model, serves(model))
    texts = [list(ids) for ids in prompts]
    held = [Held() for _ in prompts]
    while todo := [i for i, text in enumerate(texts) if len(text) < len(expected[i])]:
        chunks = [(held[i], texts[i][held[i].length :][:4]) for i in todo]
        starts = [held[i].length for i in todo]
        for i, start, ours in zip(todo, starts, engine.step(chunks, scattered=True), strict=True):
            assert_close(ours, logits[i][start : held[i].length])
            if held[i].length == len(texts[i]):
                texts[i].append(int(ours[-1].argmax()))
    assert texts == expected


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_served_says_why(family: str) -> None:
    options, reason = REFUSED[family]
    model = make(family, options)
    before = model.config._attn_implementation
    with pytest.raises(InvalidSettings, match=reason):
        serves(model)
    assert model.config._attn_implementation == before


def test_a_model_that_mixes_tokens_beside_its_attention_is_refused() -> None:
    model = make("Llama", _COMMON)
    handle = (
        cast(Any, model)
        .model.layers[1]
        .mlp.register_forward_hook(lambda _, __, output: output + 0.1 * output.roll(1, dims=1))
    )
    with pytest.raises(InvalidSettings, match="differ when rows share a pass"):
        serves(model)
    handle.remove()
    serves(model)


@both_ways
@pytest.mark.usefixtures("batched")
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GptOss"])
def test_a_request_in_many_places_is_read_as_one(family: str) -> None:
    """Pages of one token, none beside its neighbour: more places than are read one by one."""
    model = make(family, SERVED[family])
    ids = prompt(4, 30)
    engine = Engine(model, serves(model), page_size=1)
    held = Held(pages=list(range(60, 0, -2)))
    parts = [engine.step([(held, part)])[0] for part in (ids[:13], ids[13:28], ids[28:29], ids[29:])]
    assert_close(torch.cat(parts), plain(model, ids))


@both_ways
@pytest.mark.usefixtures("batched")
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GptOss"])
def test_every_split_of_a_prompt_is_one_pass(family: str) -> None:
    model = make(family, SERVED[family])
    ids = prompt(1, 10)
    expected = plain(model, ids)
    engine = Engine(model, serves(model))
    other = Held()
    engine.step([(other, prompt(2, 5))])
    for first in range(1, 10):
        for second in range(first, 10):
            held = Held()
            parts = [part for part in (ids[:first], ids[first:second], ids[second:]) if part]
            logits = [engine.step([(held, part)])[0] for part in parts]
            assert_close(torch.cat(logits), expected)
            engine.pages.give_back(held.pages)


@both_ways
@pytest.mark.usefixtures("batched")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", _COMMON),
        ("Llama", {**_COMMON, "num_key_value_heads": 4}),
        ("Mistral", {**_COMMON, "sliding_window": 4}),
    ],
    ids=["GQA", "MHA", "window"],
)
def test_prefixes_are_pefts_and_shared(family: str, options: dict[str, Any]) -> None:
    """Two prefixes and the base in one pass, one prefix's pages read by several rows at once."""
    model = make(family, options)
    layers, heads, size = 2, options["num_key_value_heads"], 8
    engine = Engine(model, serves(model))
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    texts = [prompt(n, n) for n in (5, 9, 1)]
    expected, held = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        tuned: Any = get_peft_model(make(family, options), config).eval()
        values = torch.randn_like(tuned.prompt_encoder["default"].embedding.weight)
        tuned.prompt_encoder["default"].embedding.weight.data = values
        with torch.inference_mode():
            expected += [tuned(input_ids=torch.tensor([ids])).logits[0] for ids in texts]
        split = values.detach().view(6, 2 * layers, heads, size).permute(1, 2, 0, 3)
        shared = engine.prefixed(Prefix((split[:2], split[2:])))
        held += [Held(shared.prefix_pages, shared.prefix_length) for _ in texts]
    expected += [plain(model, ids) for ids in texts]
    held += [Held() for _ in texts]
    texts = 3 * texts
    halves = [engine.step([(h, ids[:1]) for h, ids in zip(held, texts, strict=True)])]
    rest = [(h, ids[1:]) for h, ids in zip(held, texts, strict=True) if len(ids) > 1]
    halves.append(engine.step(rest))
    later = iter(halves[1])
    for first, ids, theirs in zip(halves[0], texts, expected, strict=True):
        ours = first if len(ids) == 1 else torch.cat([first, next(later)])
        assert_close(ours, theirs)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    page_size=st.integers(1, 5),
    prefixed=st.integers(0, 15),
    data=st.data(),
)
def test_any_schedule_computes_the_same(
    served_llama: tuple[PreTrainedModel, Serving],
    lengths: list[int],
    page_size: int,
    prefixed: int,
    data: st.DataObject,
) -> None:
    """Random chunks of random requests a pass, some behind one prefix; each alone in one pass is the naive way."""
    model, serving = served_llama
    torch.manual_seed(0)
    prefix = Prefix(tuple(torch.randn(2, 2, 7, 8) for _ in serving.shapes))
    engine = Engine(model, serving, pages=7 + 2 * sum(lengths), page_size=page_size)
    shared = engine.prefixed(prefix)

    def fresh(i: int) -> Held:
        return Held(shared.prefix_pages, shared.prefix_length) if prefixed >> i & 1 else Held()

    texts = [prompt(i, n) for i, n in enumerate(lengths)]
    alone = [engine.step([(fresh(i), ids)])[0] for i, ids in enumerate(texts)]
    held = [fresh(i) for i in range(len(texts))]
    while todo := [i for i, ids in enumerate(texts) if held[i].length < len(ids)]:
        chosen = data.draw(st.lists(st.sampled_from(todo), min_size=1, unique=True))
        starts = [held[i].length for i in chosen]
        sizes = [data.draw(st.integers(1, lengths[i] - held[i].length)) for i in chosen]
        chunks = [(held[i], texts[i][a : a + n]) for i, a, n in zip(chosen, starts, sizes, strict=True)]
        for i, start, ours in zip(chosen, starts, engine.step(chunks), strict=True):
            assert_close(ours, alone[i][start : start + len(ours)])


def test_half_precision_is_as_near_as_transformers_is() -> None:
    """bf16: no farther from float32 than twice the plain pass in bf16."""
    options = {**_COMMON, "hidden_size": 64, "num_hidden_layers": 3}
    ids = prompt(3, 20)
    exact = plain(make("Llama", options), ids)
    model = make("Llama", options, torch.bfloat16)
    theirs = plain(model, ids).float()
    engine = Engine(model, serves(model))
    held = Held()
    parts = [
        engine.step([(held, part)])[0] for part in (ids[:9], ids[9:17], ids[17:18], ids[18:19], ids[19:])
    ]
    assert (torch.cat(parts).float() - exact).norm() <= 2 * (theirs - exact).norm()


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Gemma3Text", "GptOss"])
def test_outside_a_batch_the_model_is_what_it_was(family: str) -> None:
    model = make(family, SERVED[family])
    rows = [prompt(1, 9), prompt(2, 6)]
    expected = [plain(model, ids) for ids in rows]
    serves(model)
    assert model.config._attn_implementation == ATTENTION
    padded = torch.tensor([rows[0], rows[1] + 3 * [0]])
    mask = torch.tensor([9 * [1], 6 * [1] + 3 * [0]])
    with torch.inference_mode():
        ours = model(input_ids=padded, attention_mask=mask, use_cache=False).logits
    assert_close(ours[0], expected[0])
    assert_close(ours[1, :6], expected[1])


def test_flat_passes_run_beside_paged_ones() -> None:
    """A base that predicts and generates is set to one attention function for both."""
    model = make("Mistral", SERVED["Mistral"])
    rows = [prompt(1, 9), prompt(2, 6)]
    expected = [plain(model, ids) for ids in rows]
    serves(model)
    with torch.inference_mode(), flat_batch([9, 6], [None, None]):
        ours = model(
            input_ids=torch.tensor([rows[0] + rows[1]]),
            position_ids=torch.tensor([[*range(9), *range(6)]]),
            use_cache=False,
        ).logits[0]
    assert_close(ours, torch.cat(expected))


def test_an_error_within_leaves_lengths_as_they_were() -> None:
    model = make("Llama", _COMMON)
    engine = Engine(model, serves(model))
    held = Held(pages=engine.pages.take(1))
    with pytest.raises(RuntimeError, match="boom"), paged_batch(engine.kv, [PagedRow(held, 2)]):
        raise RuntimeError("boom")
    assert held.length == 0
    with pytest.raises(ValueError, match="pages for 4"), paged_batch(engine.kv, [PagedRow(held, 5)]):
        pass


def test_context_ends_where_rotary_embeddings_change() -> None:
    """Beyond it, one long row would change its neighbours' positions."""
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16,
    }
    model = make("Phi3", {**_COMMON, "rope_parameters": scaling, "original_max_position_embeddings": 16})
    assert serves(model).context == 16
    assert serves(make("Llama", _COMMON)).context == 64
