"""Streamed text: piece by piece what the tokenizer makes of all tokens at once, cut before a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from adapthub.adapters.samples import fetch
from adapthub.runtime.text_stream import TextStream
from tests.conftest import WORDS

UNDECODED = "\N{REPLACEMENT CHARACTER}"
BLANK_BYTE = 2 + 0x20  # of the byte-fallback tokenizer
CORPUS = [
    "the film is good, the story dull. 你好，世界! naïve café ",
    "<end> the the 你 🙂 👩‍👩‍👧 don't\n\n  x",
] * 3


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return {"byte-level": byte_level, "byte-fallback": byte_fallback, "word-piece": word_piece}[kind]()


def byte_level() -> PreTrainedTokenizerBase:
    """GPT-2's kind: tokens are bytes, and merges cross the borders of characters."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def byte_fallback() -> PreTrainedTokenizerBase:
    """Llama 2's kind: sentencepiece with a byte token for what is in no piece."""
    pieces = [
        "<unk>",
        "<end>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"theflmsgodyu.,!'",
        "▁the",
        "▁film",
    ]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "f"), ("▁f", "i"), ("l", "m"), ("▁fi", "lm")]
    for left, right in merges:
        for piece in (left, right, left + right):
            vocabulary.setdefault(piece, len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerBase:
    """BERT's kind: blanks come between tokens, and go before punctuation."""
    pieces = [
        "[UNK]",
        "<end>",
        *dict.fromkeys(WORDS),
        *"xyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
        "n't",
    ]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="[UNK]")


KINDS = ["byte-level", "byte-fallback", "word-piece"]
TEXTS = st.text(st.sampled_from("the film.,! \n你好世界é🙂👩‍👧ü"), max_size=40) | st.text(max_size=20)
# Beyond the vocabulary too: output layers are often longer than their tokenizer.
IDS = st.lists(st.integers(0, 450), max_size=40)


def stream(
    kind: str, ids: Sequence[int], stop: Sequence[str] = (), unsearched: int = 0
) -> tuple[list[str], TextStream]:
    """The pieces, one a token and one for the end; they are the stream's text."""
    made = TextStream(tokenizer(kind), stop, unsearched)
    pieces = [made.push(token) for token in ids]
    pieces.append(made.finish())
    assert "".join(pieces) == made.text
    return pieces, made


def whole(kind: str, ids: Sequence[int]) -> str:
    text = tokenizer(kind).decode(list(ids), skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def ids_of(kind: str, text: str) -> list[int]:
    return list(tokenizer(kind).encode(text, add_special_tokens=False))


class TestDetokenising:
    @pytest.mark.parametrize("kind", KINDS)
    @given(text=TEXTS)
    @example(text="  the film  is \n\n good ")
    @example(text="👩‍👩‍👧你好 naïve�!")
    def test_pieces_of_a_text_are_the_text_at_once(self, kind: str, text: str) -> None:
        ids = ids_of(kind, text)
        assert stream(kind, ids)[1].text == whole(kind, ids)

    @pytest.mark.parametrize("kind", KINDS)
    @given(ids=IDS)
    @example(ids=[])
    @example(ids=[1, 0, 1, 1])
    @example(ids=[261, BLANK_BYTE, 228])
    def test_pieces_of_any_tokens_are_the_text_at_once(self, kind: str, ids: list[int]) -> None:
        text, expected = stream(kind, ids)[1].text, whole(kind, ids)
        if kind == "byte-fallback" and UNDECODED in expected:
            # Its decoder gives up on a whole run of byte tokens for one of them that is not UTF-8, also on a blank that is
            # out: alone it is no text, since blanks are stripped from where a text begins.
            assert UNDECODED in text
            assert len(text) <= len(expected) + ids.count(BLANK_BYTE)
        else:
            assert text == expected

    @pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
    def test_a_character_comes_with_its_last_byte_and_a_word_at_once(self, kind: str) -> None:
        ids = ids_of(kind, "世🙂")
        pieces, _ = stream(kind, ids)
        assert [piece for piece in pieces if piece] == ["世", "🙂"]
        assert pieces[-1] == ""
        for place, token in enumerate(words := ids_of(kind, "the film the the film")):
            assert stream(kind, words)[0][place], token

    def test_half_a_character_at_the_end_is_said_to_be_one(self) -> None:
        for kind in ("byte-level", "byte-fallback"):
            ids = ids_of(kind, "the ж")[:-1]
            pieces, made = stream(kind, ids)
            assert made.text.rstrip(UNDECODED) == "the "
            assert made.text != "the "
            assert UNDECODED not in "".join(pieces[:-1])

    def test_bytes_that_are_not_utf8_do_not_take_back_what_is_out(self) -> None:
        good, bad = ids_of("byte-fallback", "世"), tokenizer("byte-fallback").convert_tokens_to_ids("<0xFF>")
        assert isinstance(bad, int)
        the = ids_of("byte-fallback", "the")
        assert stream("byte-fallback", [*good, bad, *the])[1].text == f"世{UNDECODED} the"
        assert whole("byte-fallback", [*good, bad, *the]) == f"{UNDECODED * 4} the"


def naive(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Character by character, until a stop string is complete."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


class TestStopStrings:
    @pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
    @given(
        text=st.text("abc \n你🙂", max_size=30),
        stops=st.lists(st.text("abc \n你🙂", min_size=1, max_size=4), min_size=1, max_size=4),
    )
    @example(text="aab", stops=["ab"])
    @example(text="abab", stops=["abc", "b"])
    @example(text="aabc", stops=["abcd", "bc"])
    def test_the_text_ends_before_the_first_complete_one(
        self, kind: str, text: str, stops: list[str]
    ) -> None:
        ids = ids_of(kind, text)
        pieces, made = stream(kind, ids, stops)
        assert (made.text, made.stopped) == naive(whole(kind, ids), stops)
        # What is held back is never more than the beginning of a stop string.
        given_out = ""
        for place, piece in enumerate(pieces[:-1]):
            given_out += piece
            seen, stopped = naive(stream(kind, ids[: place + 1])[1].text.rstrip(UNDECODED), stops)
            held = seen.removeprefix(given_out)
            assert stopped or held == max(
                (seen[at:] for at in range(len(seen) + 1) if any(s.startswith(seen[at:]) for s in stops)),
                key=len,
            )

    def test_it_may_begin_and_end_inside_tokens(self) -> None:
        ids = ids_of("byte-level", "the film the film")
        pieces, made = stream("byte-level", ids, ["e f"])
        assert len(ids) < len("the film the film")
        assert made.text == "th"
        assert made.stopped
        assert "".join(pieces) == "th"

    def test_nothing_comes_after_it(self) -> None:
        made = TextStream(tokenizer("byte-level"), ["film"])
        for token in ids_of("byte-level", "the film film the"):
            made.push(token)
        assert made.finish() == ""
        assert made.text == "the "

    def test_the_beginning_of_one_comes_at_the_end(self) -> None:
        pieces, made = stream("byte-level", ids_of("byte-level", "the fil"), ["film"])
        assert (pieces[-1], made.text, made.stopped) == ("fil", "the fil", False)

    def test_half_a_character_before_the_end_can_complete_one(self) -> None:
        ids = ids_of("byte-level", "the ж")[:-1]
        _, made = stream("byte-level", ids, [" " + UNDECODED])
        assert (made.text, made.stopped) == ("the", True)

    def test_not_within_the_first_tokens(self) -> None:
        ids = ids_of("byte-level", "the film the film the")
        first = ids_of("byte-level", "the film")
        assert ids[: len(first)] == first
        assert stream("byte-level", ids, ["film"], len(first))[1].text == "the film the "


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    loaded = AutoTokenizer.from_pretrained(fetch("smollm2-135m"))
    assert isinstance(loaded, PreTrainedTokenizerBase)
    return loaded


@pytest.mark.slow
@given(text=TEXTS, ids=st.lists(st.integers(0, 49151), max_size=40))
def test_a_real_tokenizer(smollm2: PreTrainedTokenizerBase, text: str, ids: list[int]) -> None:
    for tokens in (list(smollm2.encode(text)), ids):
        made = TextStream(smollm2)
        pieces = [made.push(token) for token in tokens]
        assert "".join([*pieces, made.finish()]) == smollm2.decode(tokens, skip_special_tokens=True)
