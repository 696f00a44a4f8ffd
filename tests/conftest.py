"""Fixtures every folder shares: offline, one thread, a home of its own, and a tiny real BERT with a real tokenizer."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest
import torch
from hypothesis import settings

# Before any kernel is imported: without a GPU Triton's interpreter runs them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

MEMORY = Path("/dev/shm")


def has_room_in_memory() -> bool:
    """Whether folders of tests may lie in memory: much of it is free, and programs may run from there."""
    meminfo = Path("/proc/meminfo")
    if not (os.access(MEMORY, os.W_OK) and meminfo.exists()):
        return False
    there = os.statvfs(MEMORY)
    lines = meminfo.read_text(encoding="ascii").splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return not there.f_flag & os.ST_NOEXEC and min(there.f_bavail * there.f_frsize, available) > 6 * 2**30


# Where a hub waits for no disk: each push and each change of its database is brought there before it returns.
if has_room_in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# No timed asserts: a deadline measures the machine, not the code.
settings.register_profile("adapthub", deadline=None)
settings.load_profile("adapthub")

WORDS = [
    "ada",
    "was",
    "born",
    "in",
    "london",
    "and",
    "works",
    "at",
    "acme",
    "the",
    "film",
    "is",
    "good",
    "bad",
    "great",
    "awful",
    "a",
    "dull",
    "fine",
    "story",
    "paris",
    "bob",
    "met",
    "alice",
    "she",
    "visited",
    "berlin",
    ".",
    ",",
    "!",
    "?",
]


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what outlives a test, such as a server. Samples are fetched into the user's own home, once and for all."""
    from adapthub.adapters.home import home

    samples = home() / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    own = tmp_path_factory.mktemp("session-home")
    (own / "samples").symlink_to(samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTHUB_HOME", str(own))
        yield


@pytest.fixture(scope="module", autouse=True)
def collected_before() -> None:
    """Training begins with full garbage collections, and servers and others have theirs: they need not walk, for a third of
    a second each, over what importing and other modules have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The next folder at each call of `next`: pytest's own numbering reads the names of all that are there."""
    homes = tmp_path_factory.mktemp("homes")
    return (homes / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_home(new_home: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own AdaptHub home."""
    home = next(new_home)
    home.mkdir()
    monkeypatch.setenv("ADAPTHUB_HOME", str(home))
    return home


def write_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer over WORDS and single letters, so that every word has sub-words or is known."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += (
        list(dict.fromkeys(WORDS)) + [c for c in letters if c not in WORDS] + [f"##{c}" for c in letters]
    )
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(folder)


def write_tiny_base(folder: Path, *, seed: int = 0, hidden: int = 64) -> Path:
    """A random 2-layer BERT with a pooler (weights of usable size, dropout 0.1) and its tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=160,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers loads as it is: 2-layer BERT, hidden 64, one 4-bit block. Do not write into it."""
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny-bert")


@pytest.fixture(scope="session")
def speech_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind: small random bases that write down speech. Do not write into their folders."""
    from tests.adapters.speech_bases import write_small_wav2vec2, write_small_whisper

    root = tmp_path_factory.mktemp("speech")
    return {
        "whisper": write_small_whisper(root / "whisper"),
        "wav2vec2": write_small_wav2vec2(root / "wav2vec2"),
        "wav2vec2-unmasked": write_small_wav2vec2(root / "unmasked", masked=False),
    }
