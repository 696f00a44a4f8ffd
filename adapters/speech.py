"""How a base that writes down speech is asked: Whisper, which generates text, and bases with a CTC head.

Sound to the model's inputs, a transcript to what it shall answer, and what it answers to text; one place for training,
evaluation and serving. Whisper reads a window of 30 seconds, whatever it is given (Radford et al. 2022, sec. 2.2); CTC
(Graves et al. 2006) reads any length. Does not read files, and applies no adapters: the caller does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.quiet import Without
from adapthub.adapters.suggest import did_you_mean

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from adapthub.adapters.base import Base

    Samples = NDArray[np.float32]

IGNORED = -100
"""The label of what is not asked for: torch's default ignore_index."""

POSITIONS_A_SECOND = 50
"""Of sound, as the encoders of Whisper and Wav2Vec2 see it: 20 ms each."""

_MULTILINGUAL_START = 50258  # English-only checkpoints have one text token less before it
_MOST_TOKENS = 448  # positions of Whisper's decoder
_UNSPACED = frozenset(("zh", "ja", "th", "lo", "my", "yue"))  # by Whisper's own tokenizer
# A decoder that repeats itself would go on to the last position. Nobody speaks so fast in any of Whisper's languages:
# Burmese takes most tokens, nine a syllable, of which six are said in a second.
_TOKENS_A_SECOND, _LEAST_TOKENS = 60, 16

logging.getLogger("transformers.generation.utils").addFilter(
    Without("together with generation-related arguments")  # Whisper's own generate passes both
)


class Speech(Protocol):
    """A base that writes down speech. `window`: the most seconds that it reads; None for any. `rate`: in Hz."""

    @property
    def window(self) -> float | None: ...
    @property
    def rate(self) -> int: ...
    @property
    def hears_padding(self) -> bool:
        """Whether what a recording is padded with changes what it is heard as: to be exact, each is then read alone."""
        ...

    def language(self, wanted: str | None) -> str | None:
        """The code of a language ("es" for "Spanish"); None where the base takes none. Raises InvalidSettings."""
        ...

    def trained_in(self, wanted: str | None) -> str | None:
        """The same for training. Raises InvalidSettings too where the base needs to be told a language."""
        ...

    def inputs(self, recordings: Sequence[Samples]) -> dict[str, torch.Tensor]:
        """The model's inputs of recordings at `rate`, one channel each."""
        ...

    def targets(self, transcript: str, language: str | None) -> dict[str, list[int]]:
        """What the model is trained on beside a recording: `labels`, and what else its forward pass takes.

        Raises InvalidInput for a transcript that it cannot write.
        """
        ...

    def unwritten(self, transcript: str) -> frozenset[str]:
        """Characters of a transcript that the base has no token for, so that `targets` leaves them out."""
        ...

    def positions(self, labels: Sequence[int]) -> int:
        """How many of the encoder's positions such labels need at least."""
        ...

    def padding(self, name: str) -> int:
        """What lists of `targets` are padded with."""
        ...

    def losses(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """For each row the negative log likelihood of each of its targets, in nats: float32 [targets]."""
        ...

    def transcribe(
        self, model: torch.nn.Module, recordings: Sequence[Samples], language: str | None
    ) -> list[str]:
        """What is said in each recording: greedy, without spaces around. `language` None: the base finds out."""
        ...


def speech_of(base: Base) -> Speech:
    """How `base` is asked. Raises InvalidSettings for one that does not write down speech."""
    if not writes_speech(base.model) or base.processor is None:
        raise no_speech(base.ref)
    return speech_by(base.processor)


def speech_by(processor: Any) -> Speech:
    """The same, for the base of this processor. Raises InvalidSettings for one that reads neither Whisper's spectra nor
    samples."""
    if type(processor).__name__ == "WhisperProcessor":
        return Whisper(processor)
    if "input_values" not in processor.feature_extractor.model_input_names:
        raise InvalidSettings(
            f"bases with a {type(processor).__name__} read spectra, which is not done here",
            hint="Choose Whisper, or a CTC base that reads samples (Wav2Vec2, HuBERT, WavLM).",
        )
    return Ctc(processor)


def writes_speech(model: PreTrainedModel) -> bool:
    """Whether a model is Whisper with its decoder, or has a CTC head."""
    kind = type(model).__name__
    return kind == "WhisperForConditionalGeneration" or kind.endswith("ForCTC")


def no_speech(ref: str) -> InvalidSettings:
    """What to raise for a base that does not write down speech."""
    return InvalidSettings(
        f"{ref} does not write down speech",
        hint="Choose a base that does, with its processor, such as package:whisper-base.",
    )


@dataclass(frozen=True)
class Whisper:
    """Whisper: `processor` is a WhisperProcessor. It reads log-mel spectra of 30 s, and generates."""

    processor: Any

    @property
    def window(self) -> float | None:
        return float(self.processor.feature_extractor.chunk_length)

    @property
    def rate(self) -> int:
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def hears_padding(self) -> bool:
        return False

    @cached_property
    def multilingual(self) -> bool:
        """Whether it knows languages other than English."""
        return self._token("<|startoftranscript|>") == _MULTILINGUAL_START

    def language(self, wanted: str | None) -> str | None:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        if wanted is None:
            return None
        known = {**TO_LANGUAGE_CODE, **{code: code for code in TO_LANGUAGE_CODE.values()}}
        code = known.get(str(wanted).lower())
        if code is None:
            raise InvalidSettings(
                f"{wanted!r} is no language that Whisper knows",
                hint=did_you_mean(str(wanted), known) or "Give a code such as en, or a name such as english.",
            )
        if self.multilingual:
            if self._token(f"<|{code}|>") == self.processor.tokenizer.unk_token_id:
                raise InvalidSettings(
                    f"this base does not know {wanted!r}", hint="Take another Whisper: large-v3 knows most."
                )
            return code
        if code != "en":
            raise InvalidSettings(
                f"this base writes down English only, not {wanted!r}", hint="Choose a multilingual one."
            )
        return None

    def trained_in(self, wanted: str | None) -> str | None:
        if wanted is None and self.multilingual:
            raise InvalidSettings(
                "a multilingual Whisper is trained in one language", hint="Set language, such as en."
            )
        return self.language(wanted)

    def inputs(self, recordings: Sequence[Samples]) -> dict[str, torch.Tensor]:
        """`input_features` [rows, mel bands, frames of 10 ms], float32."""
        made = self.processor.feature_extractor(
            list(recordings), sampling_rate=self.rate, return_tensors="pt"
        )
        return {"input_features": made["input_features"]}

    def targets(self, transcript: str, language: str | None) -> dict[str, list[int]]:
        """`decoder_input_ids`, which begin with the prompt, and `labels`: of the prompt only its last token is asked.

        A transcript begins as Whisper begins one: with a space, but in languages without them; and never with a token that
        is a space alone, as of Bengali, for generation suppresses that there (its SuppressBlank).
        """
        prompt, tokenizer = self.prompt(language), self.processor.tokenizer
        spaced = "" if language in _UNSPACED else " "
        written, blank = tokenizer([spaced + transcript.strip(), " "], add_special_tokens=False)["input_ids"]
        written = written[1:] if written[:1] == blank else written
        if len(prompt) + len(written) > _MOST_TOKENS:
            raise InvalidInput(
                f"the transcript has {len(written)} tokens; Whisper writes at most {_MOST_TOKENS - len(prompt)}",
                hint="Cut the recording and its transcript.",
            )
        labels = [IGNORED] * (len(prompt) - 1) + [*written, tokenizer.eos_token_id]
        return {"decoder_input_ids": [*prompt, *written], "labels": labels}

    def unwritten(self, transcript: str) -> frozenset[str]:
        return frozenset()

    def positions(self, labels: Sequence[int]) -> int:
        return 0

    def padding(self, name: str) -> int:
        return IGNORED if name == "labels" else int(self.processor.tokenizer.pad_token_id)

    def prompt(self, language: str | None) -> list[int]:
        """What generation begins with: transcribe in `language` without timestamps."""
        start = [self._token("<|startoftranscript|>")]
        if self.multilingual:
            start += [self._token(f"<|{self.trained_in(language)}|>"), self._token("<|transcribe|>")]
        return [*start, self._token("<|notimestamps|>")]

    def losses(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        from torch.nn import functional as F

        labels = batch["labels"]
        logits = model(**_without_labels(batch), use_cache=False).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
        return [row[asked != IGNORED] for row, asked in zip(losses, labels, strict=True)]

    def transcribe(
        self, model: torch.nn.Module, recordings: Sequence[Samples], language: str | None
    ) -> list[str]:
        """At most 60 tokens a second, and 16."""
        seconds = [len(samples) / self.rate for samples in recordings]
        most = [min(_MOST_TOKENS - 4, _LEAST_TOKENS + int(_TOKENS_A_SECOND * each)) for each in seconds]
        features = self.inputs(recordings)["input_features"]
        features = features.to(next(model.parameters()).device, next(model.parameters()).dtype)
        mask = features.new_ones(features.shape[0], features.shape[-1]).long()
        asked = {"language": language, "task": "transcribe"} if self.multilingual else {}
        generate: Any = model.generate
        ids = generate(
            input_features=features,
            attention_mask=mask,
            max_length=max(most) + 1,  # Whisper's generate adds its prompt, but for the first token of it
            do_sample=False,
            num_beams=1,
            return_timestamps=False,
            **asked,
        ).tolist()
        texts = self.processor.tokenizer.batch_decode(
            [row[:limit] for row, limit in zip(ids, most, strict=True)], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def _token(self, token: str) -> int:
        return int(self.processor.tokenizer.convert_tokens_to_ids(token))


@dataclass(frozen=True)
class Ctc:
    """Wav2Vec2 and its kin: `processor` is a Wav2Vec2Processor. It reads samples, and labels every 20 ms."""

    processor: Any
    window: float | None = None

    @property
    def rate(self) -> int:
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def hears_padding(self) -> bool:
        return not self.processor.feature_extractor.return_attention_mask

    @cached_property
    def characters(self) -> frozenset[str]:
        """What its vocabulary writes."""
        tokenizer = self.processor.tokenizer
        special = {*tokenizer.all_special_tokens, tokenizer.word_delimiter_token}
        return frozenset(token for token in tokenizer.get_vocab() if token not in special) | {" "}

    def language(self, wanted: str | None) -> str | None:
        if wanted is not None:
            raise InvalidSettings(
                "a CTC base has the one language of its vocabulary", hint="Leave language out."
            )
        return None

    def trained_in(self, wanted: str | None) -> str | None:
        return self.language(wanted)

    def inputs(self, recordings: Sequence[Samples]) -> dict[str, torch.Tensor]:
        """`input_values` [rows, samples], float32, padded, and `attention_mask` where the base wants one.

        Normalised one by one: where there is no mask, the extractor would take padding for sound and make others louder.
        """
        extractor = self.processor.feature_extractor
        normalised = [extractor(one, sampling_rate=self.rate)["input_values"][0] for one in recordings]
        return dict(extractor.pad({"input_values": normalised}, return_tensors="pt"))

    def targets(self, transcript: str, language: str | None) -> dict[str, list[int]]:
        """`labels`: a token a character, in the vocabulary's case, without what it does not have."""
        kept = "".join(character for character in self._cased(transcript) if character in self.characters)
        text = " ".join(kept.split())
        if not text:
            raise InvalidInput(
                "the base's vocabulary has no character of the transcript",
                hint="Choose a base for what is spoken.",
            )
        return {"labels": list(self.processor.tokenizer(text)["input_ids"])}

    def unwritten(self, transcript: str) -> frozenset[str]:
        return frozenset(
            c for c in transcript if not c.isspace() and not self.characters.issuperset(self._cased(c))
        )

    def positions(self, labels: Sequence[int]) -> int:
        """One each, and a blank between equal neighbours."""
        return len(labels) + sum(one == other for one, other in pairwise(labels))

    def padding(self, name: str) -> int:
        return IGNORED

    def losses(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """A row's loss is spread evenly over its characters: CTC has one for the whole."""
        import torch
        from torch.nn import functional as F

        logits, lengths = self._logits(model, _without_labels(batch))
        labels = [row[row != IGNORED] for row in batch["labels"]]
        sizes = torch.tensor([len(row) for row in labels])
        losses = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            torch.cat(labels),
            lengths,
            sizes,
            blank=int(self.processor.tokenizer.pad_token_id),
            reduction="none",
        )
        return [(loss / len(row)).expand(len(row)) for loss, row in zip(losses, labels, strict=True)]

    def transcribe(
        self, model: torch.nn.Module, recordings: Sequence[Samples], language: str | None
    ) -> list[str]:
        """The likeliest token every 20 ms, repeats and blanks taken out."""
        together = 1 if self.hears_padding else len(recordings)
        texts: list[str] = []
        for start in range(0, len(recordings), together):
            inputs = self.inputs(recordings[start : start + together])
            logits, lengths = self._logits(model, inputs)
            for row, length in zip(logits.argmax(-1), lengths.tolist(), strict=True):
                texts.append(self.processor.tokenizer.decode(row[:length]).strip())
        return texts

    def _logits(
        self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [rows, positions, vocabulary], and each row's positions."""
        first = next(model.parameters())
        values = inputs["input_values"].to(first.device, first.dtype)
        mask = inputs.get("attention_mask")
        mask = values.new_ones(values.shape).long() if mask is None else mask.to(first.device)
        given = {"attention_mask": mask} if "attention_mask" in inputs else {}
        logits = model(input_values=values, **given).logits.float()
        lengths = _inner(model)._get_feat_extract_output_lengths(mask.sum(-1)).long()
        return logits, lengths.cpu()

    def _cased(self, transcript: str) -> str:
        if any(c.islower() for c in self.characters):
            return transcript if any(c.isupper() for c in self.characters) else transcript.lower()
        return transcript.upper()


def _without_labels(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def _inner(model: Any) -> Any:
    """The base's own class, where PEFT stands around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
