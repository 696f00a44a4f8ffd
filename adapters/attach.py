"""A base with adapters under it: attach and detach by digest, and one pass of the backbone for rows that use different
adapters, expressions of several, or none.

The base's weights and module tree are never changed. What adapters add comes in through forward hooks, one on each
module that some attached adapter touches, so that attaching costs the adapter's own size however many are there. Rows are
sorted by adapter once a batch, then every module sees its segments in place. Where an adapted module sees something else
than the batch's tokens (DeBERTa's relative positions), rows of different adapters run in passes of their own.

`logits` runs single passes with heads. `applying` lends the hooks to a pass that somebody else runs (the generation
engine, over its paged keys and values).`image_logits` does what `logits` does, for pictures.

Does not read references, pull, tokenise, generate, or turn logits into labels. One pass at a time: calls from several
threads wait for each other; attaching reads and checks outside that lock and takes it only to put the result in.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from adapthub.adapters.bank import Bank
from adapthub.adapters.binder import Binding
from adapthub.adapters.binding import bind
from adapthub.adapters.delta import Segment
from adapthub.adapters.entries import NotTold, TokenEntries
from adapthub.adapters.errors import InvalidExpression, InvalidInput, UnsupportedAdapter
from adapthub.adapters.flat import Prefix, exact_offset, flat_batch, positions
from adapthub.adapters.heads import TASKS_BY_TOKEN
from adapthub.adapters.layers import has_channels_first
from adapthub.adapters.module_trees import without_modules
from adapthub.adapters.passes import Hook, NotByToken, running, running_told
from adapthub.adapters.pictures import Pictures
from adapthub.adapters.selections import Selection, Selections, runs
from adapthub.adapters.served_heads import Head, Heads
from adapthub.adapters.telling import Telling

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.base import Base


# Second copies of LoRAs that run together, unless the caller says otherwise.
STACK_BYTES = 2 << 30


@dataclass(frozen=True)
class _Row:
    """One input of a batch and where its result goes."""

    place: int
    input_ids: Sequence[int]
    token_types: Sequence[int] | None
    selection: Selection
    prefix: Prefix | None

    @property
    def length(self) -> int:
        return len(self.input_ids)


class AdaptedBase:
    """One base and the adapters attached to it.

    Rows run flattened and unpadded where the base's family allows (found by trying it once, here), else padded.
    `layout` says which: "flat" or "padded"; `offset` is a row's first position; `selections` says what a row may use.
    `stack_bytes` bounds the second copies of LoRAs that passes of many rows of one token keep, to be faster (stacks.Stacks).
    """

    def __init__(self, base: Base, *, stack_bytes: int = STACK_BYTES) -> None:
        self.base = base
        if base.device.type == "cuda":
            # It prepares itself for every length that it meets: over a second for the first 32 unlike rows on an H200, which
            # took 20 ms afterwards. In use lengths are new. The setting is the process's.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._modules = {name: module for name, module in base.model.named_modules() if name}
        self._bank = Bank(stack_bytes)
        self.telling = Telling(base, self._bank)
        self._tells = True
        self._lock = threading.RLock()
        output = base.model.get_output_embeddings()
        self._output = next((name for name, module in self._modules.items() if module is output), None)
        self._heads = Heads(base)
        self._summed: dict[Selection, Head] = {}
        self._hooks: dict[str, Any] = {}
        self._backbone = without_modules(
            base.backbone, ["pooler"] if hasattr(base.backbone, "pooler") else []
        )
        self._accepts = set(inspect.signature(base.backbone.forward).parameters)
        flat = "position_ids" in self._accepts
        vocabulary = base.model.config.get_text_config().vocab_size if flat else 0
        offset = exact_offset(base.backbone, vocabulary) if flat else None
        self.offset = offset or 0
        self.selections = Selections(base, self._bank, self._lock, self._modules, offset or 0)
        self.layout = "padded" if offset is None else "flat"
        self._pictures = Pictures(self, base, self._modules, self._head)

    @property
    def attached(self) -> Mapping[str, Binding]:
        """What is attached, by digest: a snapshot."""
        with self._lock:
            return dict(self._bank.bindings)

    def attach(self, artifact: Artifact) -> str:
        """Make `artifact` ready and return its digest; at once if it is attached already.

        Raises BaseMismatch, TensorMismatch or UnsupportedAdapter, and then nothing has changed.
        """
        if artifact.digest in self._bank.bindings:
            return artifact.digest
        binding = bind(artifact, self.base, self._modules, self._heads)
        if binding.prefix is not None and binding.head is not None and self.layout != "flat":
            raise self.no_prefix()
        positions = self.selections.room(binding.prefix)
        if positions is not None and positions < 1:
            raise UnsupportedAdapter(
                f"the prefix of {artifact.path.name} leaves {self.base.ref} no positions for a text"
            )
        return self.put(binding)

    def put(self, binding: Binding) -> str:
        """Attach what was bound to this very base, and found right then; the same digest again changes nothing."""
        with self._lock:
            if binding.digest in self._bank.bindings:  # attached meanwhile, and perhaps in use
                return binding.digest
            self._bank.add(binding)
            for path in binding.updates.keys() - self._hooks.keys():
                module, updates = self._modules[path], self._bank.of_module(path)
                stacks, is_output = self._bank.stacks_of(path), path == self._output
                hook = Hook(self, path, updates, stacks, is_output, has_channels_first(module))
                self._hooks[path] = module.register_forward_hook(hook)
        return binding.digest

    def detach(self, digest: str) -> None:
        """Forget an adapter, after the pass that runs now. Raises AdapterNotFound."""
        with self._lock:
            for path in self._bank.remove(digest):
                self._hooks.pop(path).remove()
            self.telling.forget(digest)
            self._summed = {
                selection: head
                for selection, head in self._summed.items()
                if digest not in {term for _, term in selection}
            }

    def close(self) -> None:
        """Detach everything and leave the base without a hook."""
        for digest in self.attached:
            self.detach(digest)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, on this thread: no pass of another runs. For what changes how the base runs."""
        with self._lock:
            yield

    @contextmanager
    def applying(self, segments: Sequence[Segment], kept: Sequence[Segment]) -> Iterator[None]:
        """Within: a pass of `base.model` over a flattened [1, T] input adds the adapters of `segments`. Holds the lock.

        `segments` cover the T tokens in order, `kept` the K rows that `logits_to_keep` chose for the output embeddings.
        The caller runs the pass, in this thread. Raises AdapterNotFound at once for a digest that is not attached. The
        pass raises UnsupportedAdapter, naming the module, where an adapted module sees another number of rows while the
        segments' adapters differ.
        """
        with self._lock:
            for terms in {segment.terms for segment in segments}:
                for _, digest in terms:
                    self._bank.get(digest)
            with running(self, segments, (1, segments[-1].stop), kept):
                yield

    @contextmanager
    def applying_to_all(self, selection: Selection) -> Iterator[None]:
        """Within: any pass of `base.model` adds the adapters of one selection to all of it, whatever its modules see (the
        two sides of an encoder-decoder, say). Holds the lock. The caller runs the passes, in this thread.

        Raises AdapterNotFound, InvalidExpression, and UnsupportedAdapter for a prefix, which belongs to rows of tokens.
        """
        with self._lock:
            self.selections.task_of(selection)
            if self.selections.prefix_of(selection) is not None:
                raise self.no_prefix()
            with running(self, [Segment(0, 1, selection)], (1, 1)):
                yield

    @contextmanager
    def applying_told(self, entries: TokenEntries, paths: Iterable[str]) -> Iterator[None]:
        """Within: a pass of `base.model` over [1, T] adds what `entries` say under the modules at `paths`, by kernels.

        Holds the lock. The caller runs the pass, in this thread, or captures it.
        """
        modules = {path: self._modules[path] for path in paths}
        with self._lock, running_told(entries, modules, self._output):
            yield

    def logits(
        self, features: Sequence[Mapping[str, Sequence[int]]], selections: Sequence[Selection]
    ) -> list[torch.Tensor]:
        """Runs all rows; a float32 CPU tensor a row, in order.

        `features`: one tokenizer output a row (input_ids, and token_type_ids where the family has them), no padding.
        `selections`: the row's (weight, digest) terms. Results: [T, labels] for token classification, [T, 2] for question
        answering, [labels] for text classification, the last hidden state [T, hidden] for a row whose adapters have no head,
        and on the base alone. A row's result does not depend on its neighbours beyond floating-point order.

        Raises AdapterNotFound for a digest that is not attached, InvalidExpression for a sum that has no meaning,
        InvalidInput for an empty row or one that is too long, UnsupportedAdapter for a prefix that cannot run here.
        """
        if len(features) != len(selections):
            raise InvalidInput(f"{len(features)} rows and {len(selections)} selections")
        if not features:
            return []
        with self._lock, torch.inference_mode():
            rows = [self._row(i, *pair) for i, pair in enumerate(zip(features, selections, strict=True))]
            rows.sort(key=lambda row: row.selection)
            results = self._run(rows)
        return [results[place].float().cpu() for place in range(len(rows))]

    def image_logits(
        self, pictures: Sequence[torch.Tensor], selections: Sequence[Selection]
    ) -> list[torch.Tensor]:
        """Runs all pictures; a float32 CPU tensor a row, in order.

        `pictures`: pixel values [channels, height, width] a row, as `base.processor` makes them, all of one size.
        `selections` as for `logits`. Results: [labels]; for a row whose adapters have no head, and on the base alone, the
        last hidden state, [tokens, hidden] or [channels, height, width].

        Raises AdapterNotFound, InvalidExpression as `logits` does, and InvalidInput for pictures of unlike shapes.
        """
        if len(pictures) != len(selections):
            raise InvalidInput(f"{len(pictures)} pictures and {len(selections)} selections")
        if not pictures:
            return []
        with self._lock, torch.inference_mode():
            for selection in dict.fromkeys(selections):
                self.selections.task_of(selection)
            return [result.float().cpu() for result in self._pictures.logits(pictures, selections)]

    def _row(self, place: int, feature: Mapping[str, Sequence[int]], selection: Selection) -> _Row:
        self.selections.task_of(selection)
        prefix = self.selections.prefix_of(selection)
        if prefix is not None and self.layout != "flat":
            raise self.no_prefix()
        ids = feature["input_ids"]
        longest = self.selections.room(prefix)
        if not ids or (longest is not None and len(ids) > longest):
            raise InvalidInput(
                f"row {place} has {len(ids)} tokens; this base takes 1 to {longest or 'any number'}",
                hint="Truncate or split the text.",
            )
        return _Row(place, ids, feature.get("token_type_ids"), selection, prefix)

    def _run(self, rows: Sequence[_Row]) -> dict[int, torch.Tensor]:
        """Results by place: from one pass, or from one a selection where a module does not see tokens."""
        try:
            hidden = self._run_flat(rows) if self.layout == "flat" else self._run_padded(rows)
            return self._apply_heads(rows, hidden)
        except NotTold:
            self._tells = False  # this base computes in several dtypes, or some module sees no tokens
            return self._run(rows)
        except NotByToken:
            groups = [rows[start:stop] for start, stop in runs([row.selection for row in rows])]
            return {place: result for group in groups for place, result in self._run(group).items()}

    def _run_flat(self, rows: Sequence[_Row]) -> list[torch.Tensor]:
        """The last hidden state [T, hidden] of every row, from one [1, sum T] pass."""
        device = self.base.device
        lengths, prefixes = [row.length for row in rows], [row.prefix for row in rows]
        inputs = {
            "input_ids": torch.tensor([[i for row in rows for i in row.input_ids]], device=device),
            "position_ids": positions(lengths, prefixes, self.offset).to(device),
        }
        if self._accepts_types(rows):
            types = [t for row in rows for t in (row.token_types or [0] * row.length)]
            inputs["token_type_ids"] = torch.tensor([types], device=device)
        with self._adding(rows, lengths), flat_batch(lengths, prefixes):
            hidden = self._backbone(**inputs, **self._no_cache())[0][0]
        return list(hidden.split(lengths))

    def _adding(self, rows: Sequence[_Row], lengths: Sequence[int]) -> AbstractContextManager[None]:
        """Within: a flattened pass adds the rows' adapters; where they are many, on a GPU, by kernels."""
        segments = _segments(rows, lengths)
        entries = self.telling.entries(segments) if self._tells else None
        if entries is None:
            return running(self, segments, (1, sum(lengths)))
        used = {digest for segment in segments for _, digest in segment.terms}
        paths = {path for digest in used for path in self._bank.get(digest).updates}
        return self.applying_told(entries, paths)

    def _run_padded(self, rows: Sequence[_Row]) -> list[torch.Tensor]:
        """The same from a right-padded [B, L] pass, for families that cannot run flattened."""
        longest = max(row.length for row in rows)
        inputs = self._padded_inputs(rows, 0)
        if self._accepts_types(rows):
            types = [torch.tensor(row.token_types or [0] * row.length) for row in rows]
            inputs["token_type_ids"] = pad_sequence(types, batch_first=True).to(self.base.device)
        with running(self, _segments(rows, [longest] * len(rows)), (len(rows), longest)):
            hidden = self._backbone(**inputs, **self._no_cache())[0]
        return [hidden[index, : row.length] for index, row in enumerate(rows)]

    def _apply_heads(self, rows: Sequence[_Row], hidden: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Each row's head on its hidden states, by the row's place."""
        results: dict[int, torch.Tensor] = {}
        pooled = self._pool(rows, hidden)
        for start, stop in runs([row.selection for row in rows]):
            group = range(start, stop)
            head = self._head(rows[start].selection)
            if head is None:
                results |= {rows[i].place: hidden[i] for i in group}
                continue
            if head.task in TASKS_BY_TOKEN:
                logits = head.tokens(torch.cat([hidden[i] for i in group]))
                parts = logits.split([rows[i].length for i in group])
            else:
                parts = tuple(
                    head.pooled(
                        pad_sequence([hidden[i] for i in group], batch_first=True),
                        torch.stack([pooled[i] for i in group]) if head.uses_pooler else None,
                        **self._padded_inputs([rows[i] for i in group], head.padding),
                    )
                )
            results |= {rows[i].place: part for i, part in zip(group, parts, strict=True)}
        return results

    def _pool(self, rows: Sequence[_Row], hidden: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """The backbone's pooler [hidden] for each row whose head reads it, by index; adapters reach it as elsewhere."""
        wanted = [i for i, row in enumerate(rows) if (head := self._head(row.selection)) and head.uses_pooler]
        if not wanted:
            return {}
        first = pad_sequence([hidden[i] for i in wanted], batch_first=True)
        with running(self, _segments([rows[i] for i in wanted], [1] * len(wanted)), (len(wanted), 1)):
            pooled = cast(nn.Module, self.base.backbone.pooler)(first)
        return dict(zip(wanted, pooled, strict=True))

    def _head(self, selection: Selection) -> Head | None:
        """A selection's head: one adapter's own, the weighted mean of several whose heads agree, or none."""
        bindings = [self._bank.get(digest) for _, digest in selection]
        heads = [binding.head for binding in bindings if binding.head is not None]
        if not heads:
            return None
        if len(heads) == 1:
            return heads[0]
        if selection not in self._summed:
            self._summed[selection] = _mean_head(self._heads, selection, bindings, heads)
        return self._summed[selection]

    def no_prefix(self) -> UnsupportedAdapter:
        """What to raise for rows with a prefix where they cannot run flattened."""
        return UnsupportedAdapter(
            f"prefix adapters are not run on base models of type {self.base.model.config.model_type!r}"
        )

    def _padded_inputs(self, rows: Sequence[_Row], padding: int) -> dict[str, torch.Tensor]:
        ids = pad_sequence(
            [torch.tensor(list(row.input_ids)) for row in rows], batch_first=True, padding_value=padding
        )
        lengths = torch.tensor([row.length for row in rows])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        return {"input_ids": ids.to(self.base.device), "attention_mask": mask.to(self.base.device)}

    def _accepts_types(self, rows: Sequence[_Row]) -> bool:
        return "token_type_ids" in self._accepts and any(row.token_types is not None for row in rows)

    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if "use_cache" in self._accepts else {}


def _segments(rows: Sequence[_Row], widths: Sequence[int]) -> list[Segment]:
    """Runs of rows with one selection as runs of tokens, where row i has `widths[i]` of them."""
    starts, keys = [0, *accumulate(widths)], [row.selection for row in rows]
    return [Segment(starts[start], starts[stop], keys[start]) for start, stop in runs(keys)]


def _mean_head(
    makes: Heads, selection: Selection, bindings: Sequence[Binding], heads: Sequence[Head]
) -> Head:
    """The heads' mean by weight. A head has no base to differ from, so its sum is normalised: equal heads stay equal."""
    if len({binding.labels for binding in bindings}) > 1 or len({head.labels for head in heads}) > 1:
        raise InvalidExpression("adapters whose heads have unlike labels cannot be summed")
    total = sum(weight for weight, _ in selection)
    if abs(total) < 1e-6:
        raise InvalidExpression(
            "the weights of adapters with heads sum to zero", hint="Choose weights with another sum."
        )
    tensors = {
        name: torch.stack(
            [weight / total * head.tensors[name] for (weight, _), head in zip(selection, heads, strict=True)]
        ).sum(0)
        for name in heads[0].tensors
    }
    return makes.make(heads[0].task, tensors)
