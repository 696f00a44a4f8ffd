"""Single-pass rows of many callers at once, on an event loop: what comes while one pass runs goes together in the next.

    async with batcher.reading(texts, "acme/ner@prod") as questions:
        answers = await batcher.submit(questions, tenant="acme").answers()

An idle batcher starts at once; nothing waits for more to come. Tenants take turns, row by row, so that whoever sends
thousands slows down itself, while they are read too; rows whose adapters are still loading let others pass. A row that
cannot run fails its own caller. What a row is, text or sound, is its work's business (predictor, transcriber). Does not say
what outputs mean, and admits nobody (the server does).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, Overloaded
from adapthub.adapters.selections import Selection
from adapthub.runtime.names import Names
from adapthub.runtime.requests import as_ours
from adapthub.runtime.residency import Residency

_LOG = logging.getLogger(__name__)
# Tokens of one pass, about. Whoever comes next waits for one, and so does a step of generation.
_PASS_TOKENS = 2048
_READERS, _READERS_EACH = 4, 2  # threads that tokenise, and of these for one tenant at once
_POLL = 0.5  # seconds after which a load is asked for again, so that it does not lapse


class Row(Protocol):
    """One row that was read: its place among its caller's, which part it is of what was long, what it runs on, and its
    share of a pass."""

    @property
    def place(self) -> int: ...
    @property
    def part(self) -> int: ...
    @property
    def selection(self) -> Selection: ...
    @property
    def tokens(self) -> int: ...


Given = TypeVar("Given")
Read_contra = TypeVar("Read_contra", contravariant=True)
Question = TypeVar("Question", bound=Row)
Answer = TypeVar("Answer")


class Work(Protocol[Read_contra, Question, Answer]):
    """What reads rows and answers them."""

    def reader(
        self, name: str | None, selection: Selection
    ) -> Callable[[Read_contra, int], Sequence[Question]]:
        """How the adapters of an expression, which are loaded, read what stands at a place: in one row or in several."""
        ...

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """In order, of adapters that are loaded."""
        ...


class Job(Generic[Question, Answer]):
    """The rows of one caller. `tokens`: of its rows that a pass took. To be awaited once."""

    def __init__(
        self, batcher: Batcher[Any, Question, Answer], tenant: str, questions: Sequence[Question]
    ) -> None:
        self.tenant = tenant
        self.tokens = 0
        self.waiting = deque(questions)
        self.digests = _digests(questions[0].selection) if questions else []
        self._batcher = batcher
        self._left = len(questions)
        self._answers: dict[tuple[int, int], Answer] = {}
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[list[Answer]] = self._loop.create_future()
        if not questions:
            self._done.set_result([])

    async def answers(self) -> list[Answer]:
        """One a row, in order of texts and their parts. Raises what the first row that failed did; a caller that is
        cancelled leaves the queue."""
        try:
            return await self._done
        except asyncio.CancelledError:
            self._batcher.drop(self)
            raise

    def give(self, question: Question, outcome: Answer | AdaptHubError) -> None:
        """A row's outcome, on the batcher's thread."""
        if isinstance(outcome, AdaptHubError):
            self.fail(outcome)
            return
        self._answers[question.place, question.part] = outcome
        self._left -= 1
        if self._left == 0:
            answers = [self._answers[at] for at in sorted(self._answers)]
            self._tell(lambda: self._done.set_result(answers))

    def fail(self, error: AdaptHubError) -> None:
        """The whole job ends with `error`."""
        self._tell(lambda: self._done.set_exception(error))

    def _tell(self, settle: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not self._done.done():
                settle()

        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(unless_done)


class Batcher(Generic[Given, Question, Answer]):
    """One thread that runs passes over what waits.

    `queue_limit`: rows that may be read or wait, of one tenant half of them; a request that finds nothing of its tenant
    there is taken whatever its size is.
    """

    def __init__(
        self,
        work: Work[Given, Question, Answer],
        names: Names,
        residency: Residency,
        *,
        queue_limit: int = 8192,
    ) -> None:
        self._work = work
        self._names = names
        self._residency = residency
        self._queue_limit = queue_limit
        # By tenant, whose turn it is first; no tenant without jobs, no job without rows.
        self._queues: OrderedDict[str, deque[Job[Question, Answer]]] = OrderedDict()
        self._rows: Counter[str] = Counter()  # that wait, by tenant
        self._read_now: Counter[str] = Counter()  # that are being read
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._closing = False
        self._changed = threading.Condition()
        self._readers = ThreadPoolExecutor(_READERS, "adapthub-reader")
        residency.when_ready(self._wake)
        self._thread = threading.Thread(target=self._run, name="adapthub-batcher", daemon=True)
        self._thread.start()

    @asynccontextmanager
    async def reading(
        self, texts: Sequence[Given], adapter: str | None, tenant: str = ""
    ) -> AsyncIterator[list[Question]]:
        """Within: the texts as `adapter` reads them, for `submit`; it stays what it meant at the beginning.

        Waits until the adapter is loaded. Raises Overloaded, what pulling and loading raise, and InvalidInput for a text
        that cannot be read.
        """
        with self._counted(tenant, len(texts)):
            selection = await self._take(adapter)
            digests = _digests(selection)
            try:
                questions = await self._read(texts, adapter, tenant, selection)
            except BaseException:
                self._names.give_back(digests)
                raise
        try:
            yield questions
        finally:
            self._names.give_back(digests)

    def submit(self, questions: Sequence[Question], tenant: str = "") -> Job[Question, Answer]:
        """Queue rows that one `reading` gave. On an event loop; does not wait. Raises Overloaded."""
        job = Job(self, tenant, questions)
        with self._changed:
            if self._closing:
                raise AdaptHubError("the runtime is closed")
            self._check_room(tenant, len(questions))
            if questions:
                self._queues.setdefault(tenant, deque()).append(job)
                self._rows[tenant] += len(questions)
                self._changed.notify_all()
        return job

    def drop(self, job: Job[Question, Answer]) -> None:
        """Nobody waits for a job any more: what of it does not run yet never will."""
        with self._changed:
            self._remove(job)
        self._residency.unwant(job.digests)

    def close(self) -> None:
        """End the thread after the pass that runs; whoever still waits gets an error. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._readers.shutdown()
        self._fail_all(AdaptHubError("the runtime was closed"))

    @contextmanager
    def _counted(self, tenant: str, rows: int) -> Iterator[None]:
        """Within: these rows count as being read. Raises Overloaded."""
        with self._changed:
            self._check_room(tenant, rows)
            self._read_now[tenant] += rows
        try:
            yield
        finally:
            with self._changed:
                self._read_now[tenant] -= rows
                self._read_now += Counter()  # forget tenants at zero

    async def _take(self, adapter: str | None) -> Selection:
        """On a thread, as a name that nobody registered has to be pulled; given back where the caller has left."""
        taking = asyncio.ensure_future(asyncio.to_thread(self._names.take, adapter))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_back)
            raise

    def _give_back(self, taken: asyncio.Future[Selection]) -> None:
        if not taken.cancelled() and taken.exception() is None:
            self._names.give_back(_digests(taken.result()))

    async def _read(
        self,
        texts: Sequence[Given],
        adapter: str | None,
        tenant: str,
        selection: Selection,
    ) -> list[Question]:
        """On the readers' threads, which have so few of each tenant that tenants take turns."""
        digests = _digests(selection)
        turn = self._turns.setdefault(tenant, asyncio.Semaphore(_READERS_EACH))

        def read() -> list[Question]:
            with self._names.held(digests):
                read_one = self._work.reader(adapter, selection)
                return [question for place, text in enumerate(texts) for question in read_one(text, place)]

        while True:
            await self._names.until_loaded(digests)
            async with turn:
                with suppress(AdapterNotFound):  # evicted since; what is not registered makes the wait raise
                    return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    def _run(self) -> None:
        while not self._closing:
            batch: list[tuple[Job[Question, Answer], Question]] = []
            try:
                batch = self._next()
                self._compute(batch)
            except Exception as error:  # a defect; nobody shall wait for an answer that never comes
                _LOG.exception("a pass of many callers' texts failed")
                failure = as_ours(error, "running texts failed")
                for job, _ in batch:
                    job.fail(failure)
                self._fail_all(failure)

    def _fail_all(self, error: AdaptHubError) -> None:
        with self._changed:
            jobs = [job for jobs in self._queues.values() for job in jobs]
            self._queues.clear()
            self._rows.clear()
        for job in jobs:
            job.fail(error)

    def _next(self) -> list[tuple[Job[Question, Answer], Question]]:
        """The rows of the next pass, their adapters held; none once the batcher closes."""
        with self._changed:
            while not self._closing:
                if batch := self._choose():
                    return batch
                self._changed.wait(_POLL if self._queues else None)
        return []

    def _choose(self) -> list[tuple[Job[Question, Answer], Question]]:
        """Rows whose adapters are in slots, one of each tenant in turn. The caller has the lock."""
        ready = self._ready()
        chosen: list[tuple[Job[Question, Answer], Question]] = []
        held: set[Job[Question, Answer]] = set()
        turns = deque(tenant for tenant in self._queues if ready[tenant])
        room = _PASS_TOKENS
        while turns and room > 0:
            tenant = turns.popleft()
            job = ready[tenant][0]
            if job not in held and not self._hold(job):
                ready[tenant].popleft()
                if ready[tenant]:
                    turns.append(tenant)
                continue
            held.add(job)
            self._queues.move_to_end(tenant)
            question = job.waiting.popleft()
            job.tokens += question.tokens
            self._rows[tenant] -= 1
            room -= question.tokens
            chosen.append((job, question))
            if not job.waiting:
                ready[tenant].popleft()
                self._remove(job)
            if ready[tenant]:
                turns.append(tenant)
        return chosen

    def _hold(self, job: Job[Question, Answer]) -> bool:
        """Hold its adapters; False where one was evicted since it was ready: it is waited for again."""
        try:
            self._residency.hold(job.digests)
        except AdapterNotFound:
            return False
        return True

    def _ready(self) -> dict[str, deque[Job[Question, Answer]]]:
        """The jobs of each tenant whose adapters are in slots; loads begin for the others, and what cannot load fails."""
        known: dict[tuple[str, ...], bool | AdaptHubError] = {(): True}
        ready: dict[str, deque[Job[Question, Answer]]] = {}
        for tenant, jobs in [*self._queues.items()]:
            ready[tenant] = deque()
            for job in [*jobs]:
                key = tuple(job.digests)
                if key not in known:
                    known[key] = self._is_loaded(job.digests)
                state = known[key]
                if isinstance(state, AdaptHubError):
                    self._remove(job)
                    job.fail(state)
                elif state:
                    ready[tenant].append(job)
        return ready

    def _is_loaded(self, digests: Sequence[str]) -> bool | AdaptHubError:
        try:
            return self._residency.want(digests) == "ready"
        except AdaptHubError as error:
            return error

    def _compute(self, batch: Sequence[tuple[Job[Question, Answer], Question]]) -> None:
        with ExitStack() as held:
            for job in dict.fromkeys(job for job, _ in batch):
                held.callback(self._residency.release, job.digests)
            outcomes = self._outcomes([question for _, question in batch])
        for (job, question), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, AdaptHubError):
                with self._changed:
                    self._remove(job)
            job.give(question, outcome)

    def _outcomes(self, questions: Sequence[Question]) -> list[Answer | AdaptHubError]:
        """From one pass, or where that fails from one for each half, until the row that fails stands alone."""
        try:
            return [*self._work.answers(questions)]
        except Exception as error:
            if len(questions) == 1:
                return [as_ours(error, "running a text failed")]
        half = len(questions) // 2
        return self._outcomes(questions[:half]) + self._outcomes(questions[half:])

    def _check_room(self, tenant: str, rows: int) -> None:
        own = self._rows[tenant] + self._read_now[tenant]
        others = self._rows.total() + self._read_now.total() - own
        if own and (own + rows > self._queue_limit // 2 or own + others + rows > self._queue_limit):
            raise Overloaded(
                f"{own:,} texts of this caller wait already", hint="Send more once they are answered."
            )
        if others >= self._queue_limit:
            raise Overloaded(f"{others:,} texts wait already", hint="Send it again later.")

    def _remove(self, job: Job[Question, Answer]) -> None:
        """Take a job out of its queue; nothing where it has left it. The caller has the lock."""
        jobs = self._queues.get(job.tenant)
        if jobs is None or job not in jobs:
            return
        self._rows[job.tenant] -= len(job.waiting)
        jobs.remove(job)
        if not jobs:
            del self._queues[job.tenant], self._rows[job.tenant]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _digests(selection: Selection) -> list[str]:
    return sorted({digest for _, digest in selection})
