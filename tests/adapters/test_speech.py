"""Speech models under adapters that PEFT made: equal to PEFT, whatever part of the model they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertProcessor, Wav2Vec2CTCTokenizer

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.speech import IGNORED, speech_by, speech_of
from tests.adapters.speech_bases import RATE, tone
from tests.adapters.speech_oracle import by_peft, save_speech_adapter


def batch_of(base: Base, seconds: tuple[float, ...] = (1.3, 0.7)) -> dict[str, torch.Tensor]:
    speech = speech_of(base)
    targets = [speech.targets("SHE MET BOB", speech.language("es") if speech.window else None)] * len(seconds)
    inputs = speech.inputs([tone(each, seed=at) for at, each in enumerate(seconds)])
    return {**inputs, **{name: torch.tensor([row[name] for row in targets]) for name in targets[0]}}


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, model(**{k: v for k, v in batch.items() if k != "labels"}).logits)


PARTS: list[tuple[str, dict[str, Any]]] = [
    ("whisper", {}),
    ("whisper", {"target_modules": r".*\.encoder\.layers.*\.(q_proj|fc1)"}),
    ("whisper", {"target_modules": r".*\.decoder\.layers.*\.self_attn\.(q_proj|v_proj)"}),
    ("whisper", {"target_modules": r".*\.encoder_attn\.(q_proj|k_proj|v_proj|out_proj)"}),
    ("whisper", {"use_dora": True}),
    ("whisper", {"use_rslora": True, "r": 3}),
    ("wav2vec2", {}),
    ("wav2vec2", {"modules_to_save": ["lm_head"]}),
    ("wav2vec2", {"use_dora": True}),
    ("wav2vec2-unmasked", {"modules_to_save": ["lm_head"]}),
]


@pytest.mark.parametrize(("kind", "options"), PARTS)
def test_logits_are_pefts(
    speech_bases: dict[str, Path], tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    folder = save_speech_adapter(speech_bases[kind], tmp_path / "adapter", kind, **options)
    base = load_base(str(speech_bases[kind]), device="cpu")
    adapted, batch = AdaptedBase(base), batch_of(base)
    alone = logits(base.model, batch)
    digest = adapted.attach(Artifact.read(folder))
    with adapted.applying_to_all(((1.0, digest),)):
        ours = logits(base.model, batch)
    theirs = logits(by_peft(speech_bases[kind], kind, folder), batch)
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= 1e-5 * scale
    assert (ours - alone).abs().max() > 1e-2 * scale, "the adapter does something"
    assert torch.equal(logits(base.model, batch), alone), "outside nothing is added"


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_a_sum_is_between(speech_bases: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Half of an adapter twice is the adapter; one that is added changes it."""
    base = load_base(str(speech_bases[kind]), device="cpu")
    adapted, batch = AdaptedBase(base), batch_of(base)
    first, second = (
        adapted.attach(
            Artifact.read(save_speech_adapter(speech_bases[kind], tmp_path / str(seed), kind, seed=seed))
        )
        for seed in (1, 2)
    )
    found = []
    for selection in (((1.0, first),), ((0.5, first), (0.5, first)), ((1.0, first), (0.5, second))):
        with adapted.applying_to_all(selection):
            found.append(logits(base.model, batch))
    assert torch.allclose(found[0], found[1], atol=1e-4 * float(found[0].abs().max()))
    assert not torch.allclose(found[0], found[2], atol=1e-2 * float(found[0].abs().max()))


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2", "wav2vec2-unmasked"])
def test_losses_are_what_training_minimises(speech_bases: dict[str, Path], kind: str) -> None:
    base = load_base(str(speech_bases[kind]), device="cpu")
    speech, batch = speech_of(base), batch_of(base)
    base.model.config.ctc_loss_reduction = "mean"
    with torch.inference_mode():
        losses = speech.losses(base.model, batch)
        loss = base.model(**batch).loss
    assert [len(row) for row in losses] == [int((row != IGNORED).sum()) for row in batch["labels"]]
    means = torch.stack([row.mean() for row in losses])
    assert float(means.mean()) == pytest.approx(float(loss), rel=1e-5)


def test_the_prompt_is_the_one_that_generation_begins_with(speech_bases: dict[str, Path]) -> None:
    base = load_base(str(speech_bases["whisper"]), device="cpu")
    speech: Any = speech_of(base)
    config: Any = base.model.generation_config
    config.language, config.task = "<|es|>", "transcribe"
    features = speech.inputs([tone(1)])["input_features"]
    init = cast(Any, base.model)._retrieve_init_tokens(
        features,
        batch_size=1,
        generation_config=config,
        config=base.model.config,
        num_segment_frames=200,
        kwargs={},
    )
    assert init[0].tolist() == speech.prompt("es")


def test_what_whisper_is_trained_on(speech_bases: dict[str, Path]) -> None:
    base = load_base(str(speech_bases["whisper"]), device="cpu")
    speech: Any = speech_of(base)
    targets = speech.targets(" hello ", "es")
    prompt, tokenizer = speech.prompt("es"), cast(Any, base.processor).tokenizer
    asked = [label for label in targets["labels"] if label != IGNORED]
    assert tokenizer.decode(asked) == "hello<|endoftext|>"  # its space is a token alone
    assert targets["decoder_input_ids"] == [*prompt, *asked[:-1]]
    assert targets["labels"][: len(prompt) - 1] == [IGNORED] * (len(prompt) - 1)
    with pytest.raises(InvalidInput, match="has 450 tokens; Whisper writes at most 444"):
        speech.targets("a" * 450, "es")


@pytest.mark.parametrize("language", ["bn", "ja", "th"])
def test_whisper_is_taught_no_beginning_that_it_cannot_write(
    speech_bases: dict[str, Path], language: str
) -> None:
    """Generation does not begin with a space that is a token alone, as before the letters of most scripts."""
    base = load_base(str(speech_bases["whisper"]), device="cpu")
    speech, config = speech_of(base), cast(Any, base.model.generation_config)
    labels = speech.targets("日本", language)["labels"]
    first = next(label for label in labels if label != IGNORED)
    assert first not in config.begin_suppress_tokens


def test_what_was_said_fast_is_written_whole(
    speech_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Burmese has three tokens a letter: 39 syllables, said in 6.5 s."""
    said = "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း၊ မွေးဖွားလာသူများ ဖြစ်သည်။"
    base = load_base(str(speech_bases["whisper"]), device="cpu")
    speech: Any = speech_of(base)
    written = [label for label in speech.targets(said, "my")["labels"] if label != IGNORED]
    monkeypatch.setattr(base.model, "generate", lambda **_: torch.tensor([written]))
    assert speech.transcribe(base.model, [tone(6.5)], "my") == [said]


def test_languages(speech_bases: dict[str, Path]) -> None:
    whisper = speech_of(load_base(str(speech_bases["whisper"]), device="cpu"))
    assert (whisper.language("Spanish"), whisper.language("es"), whisper.language(None)) == ("es", "es", None)
    with pytest.raises(InvalidSettings, match=r"no language that Whisper knows.*spanish"):
        whisper.language("spannish")
    with pytest.raises(InvalidSettings, match="this base does not know 'yue'"):
        whisper.language("yue")
    with pytest.raises(InvalidSettings, match="trained in one language"):
        whisper.targets("a", None)
    ctc = speech_of(load_base(str(speech_bases["wav2vec2"]), device="cpu"))
    with pytest.raises(InvalidSettings, match="language of its vocabulary"):
        ctc.language("es")


def test_what_ctc_is_trained_on(speech_bases: dict[str, Path]) -> None:
    speech = speech_of(load_base(str(speech_bases["wav2vec2"]), device="cpu"))
    tokenizer: Any = cast(Any, speech).processor.tokenizer
    labels = speech.targets("She's  met — Bob!", None)["labels"]
    assert "".join(tokenizer.convert_ids_to_tokens(labels)) == "SHE'S|MET|BOB"
    assert speech.unwritten("She's — Bób!") == {"—", "!", "ó"}
    assert speech.positions([7, 7, 8]) == 4
    with pytest.raises(InvalidInput, match="no character of the transcript"):
        speech.targets("да", None)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-unmasked", "whisper"])
def test_neighbours_change_nothing(speech_bases: dict[str, Path], kind: str) -> None:
    base = load_base(str(speech_bases[kind]), device="cpu")
    speech = speech_of(base)
    recordings = [tone(each, seed=at) for at, each in enumerate((1.6, 0.4, 1.0))]
    language = "es" if kind == "whisper" else None
    with torch.inference_mode():
        together = speech.transcribe(base.model, recordings, language)
        alone = [speech.transcribe(base.model, [one], language)[0] for one in recordings]
    assert together == alone
    assert any(together), "the small base writes something"


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-unmasked"])
def test_a_recording_is_as_loud_beside_a_longer_one(speech_bases: dict[str, Path], kind: str) -> None:
    """As transformers' example of CTC prepares them: each normalised, and only then padded, with silence."""
    base = load_base(str(speech_bases[kind]), device="cpu")
    speech, processor = speech_of(base), cast(Any, base.processor)
    short, long = tone(0.4), tone(1.6, seed=1)
    values = speech.inputs([short, long])["input_values"]
    for row, samples in zip(values, (short, long), strict=True):
        alone = processor(samples, sampling_rate=RATE, return_tensors="pt").input_values[0]
        assert torch.equal(row[: len(samples)], alone)
        assert not row[len(samples) :].any()


def test_a_base_that_hears_nothing(tiny_base: Path, speech_bases: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(str(tiny_base), device="cpu")
    assert base.processor is None
    with pytest.raises(InvalidSettings, match="does not write down speech"):
        speech_of(base)
    assert speech_of(load_base(str(speech_bases["whisper"]), device="cpu")).rate == RATE


def test_a_base_that_reads_spectra_is_refused_by_name(speech_bases: dict[str, Path]) -> None:
    extractor = cast(Any, SeamlessM4TFeatureExtractor)()
    tokenizer = cast(Any, Wav2Vec2CTCTokenizer).from_pretrained(speech_bases["wav2vec2"])
    with pytest.raises(InvalidSettings, match="bases with a Wav2Vec2BertProcessor read spectra"):
        speech_by(cast(Any, Wav2Vec2BertProcessor)(extractor, tokenizer))
