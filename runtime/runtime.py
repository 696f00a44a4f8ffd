"""The one object that apps use: a base model, adapters by name on it, and rows that mix them.

    runtime = Runtime("org/base", quantize="nf4")
    runtime.predict(["Ada was born in London.", "A fine film."], adapters=["acme/ner@prod", "acme/mood"])

    runtime.transcribe(["hello.wav"], adapters="acme/phone")
    runtime.generate(["SELECT"], adapters=["0.7*acme/sql + 0.3*acme/tone"], max_new_tokens=64)

Names are resolved once, when they are attached (names); adapters are loaded and evicted by digest (residency). Texts are
answered on the caller's thread (predictor); prompts are fed (feeding) to a thread that generates (generation). Puts these
together; does not run the model, schedule, or serve over a network.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.audio import Audio
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidSettings
from adapthub.adapters.memory import free_memory
from adapthub.adapters.processors import takes_pictures
from adapthub.adapters.products import pack, unpack
from adapthub.adapters.tasks import Task
from adapthub.runtime.batcher import Batcher
from adapthub.runtime.chat_templates import ChatStyle
from adapthub.runtime.engine import Load
from adapthub.runtime.feeding import Asked, Feed, release
from adapthub.runtime.generation import GenerationService, Limits, Prompt
from adapthub.runtime.instructions import Instruction, instruction_of
from adapthub.runtime.names import Adapter, Names
from adapthub.runtime.pictures import Picture
from adapthub.runtime.predict import Text, TokenIds
from adapthub.runtime.predictions import Prediction
from adapthub.runtime.predictor import Answer, Predictor, Question, by_text, prediction_of
from adapthub.runtime.registered import Resident
from adapthub.runtime.requests import Generation
from adapthub.runtime.residency import Moves, Residency
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.streams import AsyncStream, Stream
from adapthub.runtime.transcriber import Heard, Spoken, Transcriber, Transcription

if TYPE_CHECKING:
    from PIL.Image import Image

    from adapthub.hub.registry import Registry

    PictureLike = Path | bytes | Image


# Of what is free once a base is loaded: at most so much for second copies of its weights, on a CPU that is faster with them.
PACKED_SHARE = 0.5
_RECORDINGS = 256  # that may be read or wait: each is megabytes, of its file and of its samples


class Runtime:
    """Runs many adapters over one base model, mixed in one batch.

    `base` is a loaded Base or what load_base takes; `hub` is where names are pulled from, by default the embedded one.
    Safe to use from several threads: attaching does not wait for a pass except to put its result in.
    """

    def __init__(
        self,
        base: Base | str,
        quantize: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        hub: Registry | None = None,
        *,
        slots: int | None = None,
        slot_bytes: int | None = None,
        host_bytes: int = 4 << 30,
        limits: Limits | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.base = base if isinstance(base, Base) else load_base(base, quantize, device, dtype)
        pack(self.base.model, room=int(PACKED_SHARE * free_memory(self.base.device)))
        self._adapted = AdaptedBase(self.base)
        self._residency = Residency(self._adapted, slots=slots, slot_bytes=slot_bytes, host_bytes=host_bytes)
        self._names = Names(self._residency, self._fetch)
        self._predictor = Predictor(self._adapted, self._names)
        self._transcriber = Transcriber(self._adapted, self._names)
        self._feed = Feed(self._names, lambda: self.generation)
        self._hub = hub
        self._limits = limits
        self._scheduler = scheduler
        self._service: GenerationService | None = None
        self._cannot_generate: InvalidSettings | None = None
        self._batcher: Batcher[Text | TokenIds | Picture, Question, Answer] | None = None
        self._speech_batcher: Batcher[Spoken, Heard, Transcription] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads and detach everything; requests that still generate end with an error. Idempotent."""
        with self._lock:
            self._closed = True
            made = (self._service, self._batcher, self._speech_batcher)
        for service in made:
            if service is not None:
                service.close()
        self._residency.close()
        self._adapted.close()
        unpack(self.base.model)

    @property
    def attached(self) -> Mapping[str, str]:
        """The digest that each attached name means: a snapshot."""
        return self._names.meanings

    @property
    def resident(self) -> tuple[Resident, ...]:
        """Which adapters are in slots, in host memory or on disk only: a snapshot."""
        return self._residency.snapshot()

    @property
    def moves(self) -> Moves:
        """How many adapters were loaded and evicted so far."""
        return self._residency.moves

    @property
    def load(self) -> Load | None:
        """How busy generation is; None where nothing has asked for it yet, or the base does not generate."""
        return None if self._service is None else self._service.load

    def attach(self, ref: str | Path) -> str:
        """Make an adapter ready: pull and verify a reference, or read a PEFT folder. Returns its digest, which may stand for
        the name wherever one is taken, as long as the adapter is registered.

        Attaching a name again resolves it again; what runs meanwhile keeps the version it began with, and that goes with
        it if no other name means it. With fewer slots than adapters an attached one may be evicted; it comes back when
        used. Raises what pulling, reading and binding raise; then nothing has changed.
        """
        return self._names.attach(ref)

    def register(self, ref: str | Path) -> str:
        """Make an adapter known by its name, and load it when something first runs on it. Returns its digest.

        Raises what pulling and reading raise.
        """
        return self._names.register(ref)

    def detach(self, ref: str | Path) -> None:
        """Forget a name or a digest, and the adapter itself once no name means it and nothing runs on it.

        Raises AdapterNotFound.
        """
        self._names.detach(ref)

    @contextmanager
    def keeping(self, adapter: Adapter) -> Iterator[None]:
        """Within: what a name, a digest or an expression means now stays registered, whoever detaches it meanwhile.

        Raises AdapterNotFound for a digest that is not registered. What is not attached yet is attached.
        """
        with self._names.taken([None if adapter is None else str(adapter)]):
            yield

    def pin(self, ref: str | Path) -> str:
        """Attach a name if it is not, and keep what it means in its slot until `unpin`. Returns the digest.

        Raises what `attach` raises, and OutOfMemory where the pinned adapters need more slots than there are.
        """
        digest = self._names.meaning(str(ref)) or self.attach(ref)
        self._residency.pin(digest)
        return digest

    def unpin(self, ref: str | Path) -> None:
        """Let what a name means be evicted again. Raises AdapterNotFound."""
        digest = self._names.meaning(str(ref))
        if digest is None:
            raise AdapterNotFound(
                f"{ref} is not attached", hint=f"Attached: {', '.join(self.attached) or 'nothing'}."
            )
        self._residency.unpin(digest)

    def predict(
        self, texts: Sequence[Text | PictureLike], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[Prediction]:
        """What each text, or each picture where the base reads such, comes to under its adapter, in order.

        `texts`: texts, lists of words for token classification, Pair(question, context) for question answering; pictures as
        pathlib.Path, bytes, or images of Pillow.

        `adapters`: one for all rows or one a row; each a name, a PEFT folder, an expression of several
        ("0.7*acme/a + 0.3*acme/b"), or None for the base alone. What is not attached yet is attached.
        """
        answers = self._predictor.answer(_inputs(texts), adapters)
        return [prediction_of(parts) for parts in by_text(answers)]

    def logits(
        self, texts: Sequence[Text | PictureLike], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[torch.Tensor]:
        """Each row's raw head output in float32, unpadded: [T, labels] for token classification, [labels] for
        classification of texts and pictures, the last hidden state on the base alone; for question answering [T, 2] a
        window."""
        return [answer.logits for answer in self._predictor.answer(_inputs(texts), adapters)]

    def transcribe(
        self,
        recordings: Sequence[Audio],
        adapters: Adapter | Sequence[Adapter] = None,
        *,
        language: str | None = None,
    ) -> list[Transcription]:
        """What is said in each recording under its adapter, in order; greedy, without timestamps.

        `recordings`: each a file, a file's bytes, or (samples, rate in Hz); other rates are resampled, channels mixed down.
        `adapters` as for `predict`; rows of one selection run together. `language`: what is spoken, for Whisper; by default
        what the adapter was trained in, else what the base hears. Raises InvalidInput for a recording that does not decode
        or is longer than the base reads (Whisper: 30 s), InvalidSettings for a base that does not write down speech.
        """
        return self._transcriber.transcribe(recordings, adapters, language)

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapters: Adapter | Sequence[Adapter] = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> list[Generation]:
        """What the base continues each prompt with, in order; with `n`, that many results a prompt, one after another.

        `prompts`: texts, lists of token ids, or conversations (lists of messages with "role" and "content", by the chat
        template that the adapter was trained with, else the base's); as many as you like, they queue as there is room.
        `adapters` as for `predict`. `sampling`: the fields of Sampling (max_new_tokens, temperature, top_p, stop, seed,
        json_schema, ...), greedy by default. `timeout`: seconds after which a text ends as it is, with finish_reason
        "deadline".

        Raises InvalidInput for a prompt or setting that cannot work, InvalidSettings for a base that cannot generate, and
        the first error that a prompt ends with; the others are then cancelled.
        """
        asked = self._feed.ask_all(prompts, adapters, tenant, priority, timeout, **sampling)
        return self._feed.results(asked)

    def stream(
        self,
        prompt: Prompt,
        adapter: Adapter = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> Stream:
        """The same for one prompt and `n` = 1, as it comes: iterate over events, each with its new `text`."""
        submit = self._feed.ask_one(prompt, adapter, sampling, tenant, priority, timeout)
        return Stream(submit, self.generation.cancel)

    async def agenerate(
        self,
        prompts: Sequence[Prompt],
        adapters: Adapter | Sequence[Adapter] = None,
        **options: Any,
    ) -> list[Generation]:
        """`generate` for an event loop, which it does not block; a task that is cancelled cancels its requests."""
        asked: list[Asked] = []
        left = threading.Event()

        def ask() -> None:
            asked.extend(self._feed.ask_all(prompts, adapters, **options))
            if left.is_set():
                release(asked)

        try:
            await asyncio.to_thread(ask)
        except asyncio.CancelledError:  # the thread goes on: whoever comes second sees what the first did
            left.set()
            release(asked)
            raise
        return await self._feed.aresults(asked)

    async def astream(
        self,
        prompt: Prompt,
        adapter: Adapter = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> AsyncStream:
        """`stream` for an event loop: `async for event in await runtime.astream(...)`."""
        submit = await asyncio.to_thread(
            self._feed.ask_one, prompt, adapter, sampling, tenant, priority, timeout
        )
        return await AsyncStream.open(submit, self.generation.cancel)

    def room(self, adapter: str | None = None, prompt: int = 0) -> int:
        """Tokens that one request may have behind a prompt of so many: what a prefix of `adapter` leaves of the context, or
        what a decoder may write of a prompt that an encoder reads; below 0 where the prompt is too long.

        Raises what `generation` does.
        """
        return self.generation.engine.room(self._names.prefix_length(adapter), prompt)

    @property
    def generation(self) -> GenerationService:
        """The service behind `generate`, made at the first use: most bases of a Runtime never generate.

        Raises InvalidSettings for a base that cannot, and AdaptHubError once the runtime was closed.
        """
        with self._lock:
            if self._closed:
                raise AdaptHubError("the runtime is closed")
            if self._cannot_generate is not None:
                raise self._cannot_generate.with_traceback(None)
            if self._service is None:
                try:
                    self._service = GenerationService(
                        self._adapted, self._residency, limits=self._limits, scheduler=self._scheduler
                    )
                except InvalidSettings as error:
                    self._cannot_generate = error
                    raise
            return self._service

    @property
    def generates(self) -> bool:
        """Whether the base can generate; found out at the first use."""
        try:
            return self.generation is not None
        except InvalidSettings:
            return False

    @property
    def reads_pictures(self) -> bool:
        """Whether the base reads pictures, and no text."""
        return takes_pictures(self.base.model.config)

    @property
    def batcher(self) -> Batcher[Text | TokenIds | Picture, Question, Answer]:
        """What runs texts of many callers of an event loop in one pass, made at the first use.

        Raises AdaptHubError once the runtime was closed.
        """
        with self._lock:
            if self._closed:
                raise AdaptHubError("the runtime is closed")
            if self._batcher is None:
                self._batcher = Batcher(self._predictor, self._names, self._residency)
            return self._batcher

    @property
    def speech_batcher(self) -> Batcher[Spoken, Heard, Transcription]:
        """The same for recordings. Raises AdaptHubError once the runtime was closed."""
        with self._lock:
            if self._closed:
                raise AdaptHubError("the runtime is closed")
            if self._speech_batcher is None:
                self._speech_batcher = Batcher(
                    self._transcriber, self._names, self._residency, queue_limit=_RECORDINGS
                )
            return self._speech_batcher

    @property
    def transcribes(self) -> bool:
        """Whether the base writes down speech."""
        try:
            return self._transcriber.speech is not None
        except InvalidSettings:
            return False

    def task(self, adapter: Adapter) -> tuple[Task | None, tuple[str, ...]]:
        """What an adapter, or the adapters of an expression, are for, and their labels as far as manifests name them.

        (None, ()) for the base alone, and for plain PEFT folders that do not say. What is not attached yet is attached.
        Raises InvalidExpression for adapters of unlike tasks.
        """
        return self._predictor.task(None if adapter is None else str(adapter))

    def created(self, digest: str) -> datetime | None:
        """When an adapter that is attached was made, as its manifest says; None where it does not say."""
        manifest = self._names.artifact(digest).manifest
        return None if manifest is None else manifest.created

    def instruction(self, adapter: Adapter) -> Instruction | None:
        """How an adapter, or all adapters of an expression, were trained to be asked; None where they do not say, or not the
        same. What is not attached yet is attached.
        """
        name = None if adapter is None else str(adapter)
        with self._names.taken([name]) as selections:
            found = {instruction_of(self._names.artifact(digest)) for _, digest in selections[name]}
        return next(iter(found)) if len(found) == 1 else None

    def chat_style(self, adapter: Adapter) -> ChatStyle:
        """By which chat template an adapter, or all adapters of an expression, want to be asked, and what ends their turns.
        What is not attached yet is attached.

        Raises InvalidInput where they do not agree, and for a template that came with an adapter.
        """
        return self._names.chat_style(None if adapter is None else str(adapter))

    def _fetch(self, ref: str | Path) -> Artifact:
        if isinstance(ref, Path) or Path(ref).is_dir():
            return Artifact.read(ref)
        if self._hub is None:
            from adapthub.hub import open_hub

            self._hub = open_hub()
        return self._hub.pull(ref)


def _inputs(texts: Any) -> Any:
    """Texts as they are, pictures as such; what is no list of them is refused later, by name."""
    return [Picture.of(text) for text in texts] if isinstance(texts, (list, tuple)) else texts
