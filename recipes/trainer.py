"""transformers' Trainer, bent where adapters need it: seeded length groups, two learning rates, early
refusal.

The loop, evaluation, checkpoints, best model and resume are transformers'. Here are only a sampler whose
order depends on nothing but (seed, epoch), so that a resumed run sees the same batches; separate learning
rates for adapter and head under a warm-up whose first step already learns; and an error instead of a NaN.
Does not read data, know tasks, show progress or write artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import Trainer

from adapthub.adapters.errors import TrainingError
from adapthub.adapters.heads import outputs_of
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.language_loss import LanguageLoss
from adapthub.recipes.parts import parts_of
from adapthub.recipes.processes import ALONE, Processes
from adapthub.recipes.recipe import Row, lengths_of
from adapthub.recipes.settings import LORA_FA
from adapthub.recipes.shares import shared_loader

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel


@dataclass(frozen=True)
class Rates:
    """How fast the parts learn: peak learning rates of adapter and head, the warm-up in steps, AdamW's
    weight decay, how many times faster LoRA's B learns than the rest of the adapter (LoRA+), and by which of
    settings.OPTIMIZERS.

    `head_modules` names the modules whose parameters count as head; `head` is None where there are none.
    """

    adapter: float
    head: float | None
    head_modules: tuple[str, ...]
    warmup_steps: int
    weight_decay: float
    lora_plus_ratio: float = 1.0
    optimizer: str = "adamw"

    def of(self, name: str) -> float:
        """The peak learning rate of the parameter `name`."""
        if self.head is not None and any(f".{module}." in f".{name}." for module in self.head_modules):
            return self.head
        return self.adapter * self.lora_plus_ratio if "lora_B" in name.split(".") else self.adapter


class LengthGroups(Sampler[int]):
    """Row indices in an order whose consecutive `batch_size` rows have similar lengths.

    The order is a function of (seed, epoch) alone: transformers' own sampler draws from the global
    generator, whose state after a resume in the middle of an epoch is another than in an unbroken run. Rows
    are permuted, sorted by length within groups of 50 batches, cut into batches, and the batches shuffled.
    The batch with the longest row comes first, so that memory runs out early or never; an incomplete batch
    comes last.
    """

    GROUP = 50

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        seed: int,
        follow: Callable[[int], None] | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._follow = follow
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration orders, and tell `follow`."""
        self._epoch = epoch
        if self._follow is not None:
            self._follow(epoch)

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        rows = torch.randperm(len(self._lengths), generator=generator).numpy()
        whole = len(rows) - len(rows) % self._batch_size
        batches = self._batches(rows[:whole])
        order = torch.randperm(len(batches), generator=generator).numpy()
        if len(batches):
            longest = int(np.argmax(self._lengths[batches[order, 0]]))
            order = np.concatenate((order[longest : longest + 1], np.delete(order, longest)))
        for batch in order:
            yield from batches[batch].tolist()
        yield from rows[whole:].tolist()

    def _batches(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[batches, batch_size]"""
        group = self.GROUP * self._batch_size
        for start in range(0, len(rows), group):
            some = rows[start : start + group]
            rows[start : start + group] = some[np.argsort(-self._lengths[some], kind="stable")]
        return rows.reshape(-1, self._batch_size)


class AdapterTrainer(Trainer):
    """transformers' Trainer over rows of plain ints (`input_ids`, ..., `labels`) and a PEFT model.

    The loss of a step is the mean over all targets of its batches, however they are accumulated. `language` computes it
    where the model generates, `loss` from the model's outputs and a batch where the model does not compute it.
    Of several `processes` each computes its share of every batch; the arguments' batch sizes are those of all together.
    Raises TrainingError where the loss stops being a number.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        rates: Rates,
        train_dataset: Sequence[Row],
        loss: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor] | None = None,
        language: LanguageLoss | None = None,
        processes: Processes = ALONE,
        **arguments: Any,
    ) -> None:
        super().__init__(model=model, train_dataset=train_dataset, **arguments)
        self.model_accepts_loss_kwargs = True  # so that it counts the targets of all batches of a step
        self._language = language
        self._loss = loss
        self._adapted = model
        self._rates = rates
        self._rows = train_dataset
        self._processes = processes
        self._failed = False
        self._unseen, self._shown = 0, 0  # rows of an evaluation that are to come, and of its last batch
        if processes.count > 1:
            # Neither DDP nor FSDP around the model: an adapter is small, and its gradients are averaged by us.
            accelerator = cast(Any, self.accelerator)
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of similar lengths, in an order that (seed, epoch) fixes."""
        batch_size = self.args.train_batch_size
        lengths, follow = lengths_of(self._rows), getattr(self._rows, "set_epoch", None)
        order = LengthGroups(lengths, batch_size, self.args.seed, follow)
        if self._processes.count > 1:
            return self._shared(self._rows, order, batch_size)
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", self._rows),
            batch_size=batch_size,
            sampler=order,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches in the order of the rows."""
        if self._processes.count == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows = cast("Sequence[Row]", self.eval_dataset if eval_dataset is None else eval_dataset)
        return self._shared(rows, SequentialSampler(rows), self.args.eval_batch_size)

    def _shared(self, rows: Sequence[Row], order: Sampler[int], batch_size: int) -> DataLoader[Any]:
        device = self.accelerator.device
        return shared_loader(rows, order, batch_size, self.data_collator, self._processes, device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with groups for adapter and head; vectors (biases, norms, magnitudes) do not decay."""
        if self.optimizer is None and self._rates.optimizer == LORA_FA:
            self.optimizer = lora_fa(self._adapted, self._rates)
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(parameter_groups(self._adapted, self._rates), **options)
        return cast(torch.optim.Optimizer, self.optimizer)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Linear warm-up and linear decay to zero. The first step has a rate above zero, unlike
        transformers'.
        """
        warmup = self._rates.warmup_steps
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                self.create_optimizer() if optimizer is None else optimizer,
                lambda step: schedule(step, warmup, num_training_steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean loss of a batch, weighted by its share of the `num_items_in_batch` targets of the whole step."""
        if self._language is not None:
            with self.accelerator.autocast():
                total, targets = self._language(model, inputs)
            loss, outputs = total / targets.clamp_min(1), {}
        elif self._asks_nothing(inputs):
            given = {name: one for name, one in inputs.items() if self._loss is None or name != "labels"}
            outputs = {"logits": outputs_of(model(**given)).float()}
            loss = 0 * outputs["logits"].sum()
        elif self._loss is not None:
            asked = {name: tensor for name, tensor in inputs.items() if name != "labels"}
            outputs = {"logits": outputs_of(model(**asked)).float()}
            loss = self._loss(outputs["logits"], inputs)
        else:
            outputs = model(**inputs)
            loss = outputs["loss"]
        if num_items_in_batch is not None:
            # Those are of all processes, whose gradients are averaged.
            loss = loss * (self._targets(inputs) / num_items_in_batch) * self._processes.count
        return (loss, {**outputs, "loss": loss}) if return_outputs else loss

    def _targets(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How many targets a batch has, as `num_items_in_batch` counts them."""
        labels = inputs["labels"]
        return (labels[..., 1:] if self._loss_shifts_labels else labels).ne(IGNORED).sum()

    def _asks_nothing(self, inputs: Mapping[str, torch.Tensor]) -> bool:
        """Whether a batch only keeps the other processes company: the mean loss of no target is no number."""
        return self._processes.count > 1 and not inputs["labels"].ne(IGNORED).any()

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of a batch, after the last one of a step the gradients averaged over all processes; a loss
        that is not finite ends the run with its step named."""
        parts = parts_of(inputs) if self._in_parts() and num_items_in_batch is not None else [inputs]
        losses = [
            super(AdapterTrainer, self).training_step(model, part, num_items_in_batch) for part in parts
        ]
        loss = torch.stack(losses).sum()
        failed = not torch.isfinite(loss)
        if self._processes.count > 1:
            self._failed |= failed
            failed = False
            if self.accelerator.sync_gradients:
                trained = [one for one in self._adapted.parameters() if one.requires_grad]
                failed = self._processes.average_gradients(trained, failed=self._failed)
        if failed:
            value = "no number in another process" if torch.isfinite(loss) else loss.item()
            raise TrainingError(
                f"the loss became {value} at step {self.state.global_step + 1}",
                hint="Lower learning_rate or raise warmup, and train anew.",
            )
        return loss

    def _in_parts(self) -> bool:
        """Whether a batch's loss is the mean of its targets', so that it can be the sum of its parts' shares; and a part
        takes no longer for being small."""
        alone = self.args.device.type == "cpu" and self.accelerator.num_processes == 1
        return alone and self._loss is None and self.model_accepts_loss_kwargs

    def evaluation_loop(self, dataloader: Any, *arguments: Any, **options: Any) -> Any:
        """See Trainer. The loss is the mean over all targets, whatever batches they came in and however many of these had
        none; of several processes each computes a share of every batch, and all learn everything."""
        self._seen = torch.zeros(2, dtype=torch.float64)
        if self._processes.count > 1:
            self._unseen = len(dataloader.dataset)
            self.gather_function = lambda gathered: gathered[: self._shown]  # prediction_step has gathered
        found = super().evaluation_loop(dataloader, *arguments, **options)
        loss, targets = self._seen.tolist()
        if targets and found.metrics is not None:
            found.metrics["eval_loss"] = loss / targets
        return found

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """See Trainer; counts the loss for `evaluation_loop`. Of several processes, what all of them make of a batch, in the
        order of its rows."""
        loss, outputs, labels = super().prediction_step(model, inputs, *arguments, **options)
        targets = inputs["labels"].ne(IGNORED).sum().to(self.accelerator.device)
        if self._processes.count > 1:  # each one's loss is its share of the batch's, times their number
            loss = None if loss is None else self._processes.mean(loss)
            targets = self._processes.mean(targets) * self._processes.count
        if targets and loss is not None:
            self._seen += torch.tensor([float(loss) * float(targets), float(targets)], dtype=torch.float64)
        if self._processes.count == 1:
            return loss, outputs, labels
        self._shown = min(self._unseen, self.args.eval_batch_size)
        self._unseen -= self._shown
        if outputs is not None:
            # One that stands in for another comes last.
            rows = self._processes.gather([*outputs])[: self._shown]
            outputs, labels = pad_sequence(rows, batch_first=True), torch.zeros(len(rows))
        return loss, outputs, labels

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' estimate walks over every parameter of the model at every step."""
        return 0


def schedule(step: int, warmup: int, total: int) -> float:
    """The learning rate of 0-based `step` as a share of its peak."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total - step) / max(1, total - warmup))


def parameter_groups(model: torch.nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """AdamW's groups over the trainable parameters, in an order that a checkpoint can rely on."""
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rates.of(name), _decays(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": rates.weight_decay if decays else 0.0,
        }
        for (rate, decays), parameters in groups.items()
    ]


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Vectors do not, nor the rows of trained tokens, which are no change but the embedding itself."""
    return parameter.ndim > 1 and "trainable_tokens_delta" not in name


def freeze_a(model: torch.nn.Module) -> None:
    """Leave LoRA's A as it is: what LoRA-FA does not train needs no gradient and no moments."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name.split("."):
            parameter.requires_grad_(False)


def lora_fa(model: PeftModel, rates: Rates) -> torch.optim.Optimizer:
    """PEFT's LoRA-FA, whose one group of all parameters is cut by learning rate and decay as AdamW's groups are; an A stays
    beside its B, whose gradient it corrects."""
    from peft.optimizers.lorafa import LoraFAOptimizer, create_lorafa_optimizer

    config: Any = model.active_peft_config
    made = create_lorafa_optimizer(
        model, r=config.r, lora_alpha=config.lora_alpha, lr=rates.adapter, weight_decay=rates.weight_decay
    )
    (every,) = made.param_groups
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter, name, scaling in zip(
        every["params"], every["names"], every["scaling_factors"], strict=True
    ):
        other = scaling is not None and str(model.active_adapter) not in name.split(".")
        if other or (not parameter.requires_grad and scaling is None):
            continue
        rate, decays = rates.of(name.replace("lora_A", "lora_B")), _decays(name, parameter)
        empty: dict[str, Any] = {"params": [], "names": [], "scaling_factors": []}
        decay = rates.weight_decay if decays else 0.0
        group = groups.setdefault((rate, decays), {**empty, "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
        group["scaling_factors"].append(scaling)
    cut: Any = list(groups.values())
    return cast(torch.optim.Optimizer, LoraFAOptimizer(cut))
