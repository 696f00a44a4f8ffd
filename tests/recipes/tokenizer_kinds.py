"""Small real fast tokenizers: WordPiece, SentencePiece (Unigram with markers), byte-level BPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.conftest import write_tokenizer

_SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_TEXTS = ["Ada was born in London", "Bob was in Paris", "Ada met Bob", "中国人民银行在北京", "人民在中国"] * 4


def wordpiece(folder: Path) -> PreTrainedTokenizerBase:
    """BERT's kind: letters and ##letters, so that every unknown word has as many sub-tokens as letters."""
    write_tokenizer(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def sentencepiece() -> PreTrainedTokenizerBase:
    """XLM-R's and E5's kind: a marker before each word, alone before Chinese ones."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    words = ["\u2581" + word for text in _TEXTS for word in text.split() if word.isascii()]
    vocabulary: list[tuple[str, float]] = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocabulary += [(word, -2.0) for word in dict.fromkeys([*words, "中国", "人民", "银行", "\u2581"])]
    vocabulary += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyzABLP在北京"]
    tokenizer.model = models.Unigram(vocabulary, unk_id=3)
    return _finished(tokenizer)


def byte_level() -> PreTrainedTokenizerBase:
    """GPT-2's kind: a space belongs to the word after it, and pre-split words get none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return _finished(tokenizer)


def _finished(tokenizer: Any) -> PreTrainedTokenizerBase:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    kind: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerBase = kind(tokenizer_object=tokenizer, model_max_length=512, **_SPECIAL)
    return fast
