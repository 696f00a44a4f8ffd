"""TRL's trainers of preferences, bent where our loop needs it: rows that are encoded already, our order, rates and checks.

The loss is TRL's. There is one base in memory: the reference is that with the adapter switched off, or, where a run goes on
from an adapter, with that adapter as it was. What TRL changes of a base it is given is put back. Does not read data, encode,
or choose the objective.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from adapthub.recipes.adaptation import peft_warnings
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.recipe import Row
from adapthub.recipes.trainer import AdapterTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

Training = tuple[Callable[..., Trainer], Callable[..., TrainingArguments]]

# Ours: rows are encoded, the base's dropout is switched off here and the adapter's is a setting, nothing is recomputed.
_OURS: Mapping[str, Any] = {"max_length": None, "disable_dropout": False, "gradient_checkpointing": None}
_MISSING = object()
_REFERENCE = "ref"
"""TRL's name for the copy of an adapter."""


def pair_training(
    tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], *, goes_on: bool
) -> Training:
    """DPO's trainer and arguments for the objectives of pairs. `goes_on`: from an adapter, which is the reference."""
    smoothing = settings.get("label_smoothing", 0.0)
    loss = "sigmoid_norm" if settings["objective"] == "dpo-norm" else "robust" if smoothing else "sigmoid"
    numbers = {"beta": settings["beta"], "label_smoothing": smoothing, "loss_type": [loss]}
    trainer = partial(PairTrainer, tokenizer=tokenizer, goes_on=goes_on)
    return trainer, partial(DPOConfig, **_OURS, **numbers)


def judged_training(
    tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], *, goes_on: bool
) -> Training:
    """KTO's trainer and arguments; `goes_on` as for pairs."""
    weights = {"desirable_weight": settings["good_weight"], "undesirable_weight": settings["bad_weight"]}
    arguments = partial(KTOConfig, **_OURS, **weights, beta=settings["beta"])
    return partial(JudgedTrainer, tokenizer=tokenizer, goes_on=goes_on), arguments


class _Undisturbed:
    """What TRL changes of a base and of what is trained on it, to be put back."""

    def __init__(self, model: PeftModel) -> None:
        self._base = cast(Any, model.get_base_model())
        self._attributes = {name: vars(self._base).get(name, _MISSING) for name in ("forward", "model_tags")}
        configurations = (self._base.config.get_text_config(), self._base.generation_config)
        self._padding = [(one, one.pad_token_id) for one in configurations if one is not None]
        self._dropouts = [
            (module, module.p)
            for name, module in self._base.named_modules()
            if isinstance(module, nn.Dropout) and "lora_dropout" not in name
        ]
        self._parameters = [(one, one.data, one.requires_grad) for one in model.parameters()]

    def keep_parameters(self) -> None:
        """TRL turns what is trained on a quantised base into bfloat16, where ours learns in float32; and an adapter that is
        added makes PEFT choose anew what is trained."""
        for parameter, values, _ in self._parameters:
            parameter.data = values
        self.keep_trained()

    def keep_trained(self) -> None:
        """PEFT trains all of an adapter that it switches to, ours perhaps a part."""
        for parameter, _, trained in self._parameters:
            parameter.requires_grad_(trained)

    def without_dropout(self) -> None:
        """A reference that is drawn anew at every pass is none (TRL's disable_dropout says why)."""
        for module, _ in self._dropouts:
            module.p = 0.0

    def restore(self) -> None:
        for name, value in self._attributes.items():
            if value is _MISSING:
                vars(self._base).pop(name, None)
            else:
                setattr(self._base, name, value)
        for configuration, padding in self._padding:
            configuration.pad_token_id = padding
        for module, share in self._dropouts:
            module.p = share


class _EncodedRows(Trainer):
    """Stands before one of TRL's trainers, which take a datasets.Dataset of texts: gives them one that nobody reads."""

    def __init__(
        self, *, train_dataset: Sequence[Row], eval_dataset: Sequence[Row] | None = None, **arguments: Any
    ) -> None:
        nothing = Dataset.from_list([{"prompt": ""}])
        super().__init__(
            train_dataset=nothing,
            eval_dataset=None if eval_dataset is None else nothing,
            **arguments,
        )
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """AdaptHub tells nobody what it trains."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The card is ours, and checkpoints have none."""


class PreferenceTrainer(AdapterTrainer, ABC):
    """AdapterTrainer over rows of answer_rows, before one of TRL's trainers in the order of inheritance.

    An evaluation's outputs are each row's log likelihoods [4], as PreferringRecipe.measure takes them.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        args: TrainingArguments,
        goes_on: bool,
        **arguments: Any,
    ) -> None:
        self._goes_on = goes_on
        self._undisturbed = _Undisturbed(model)
        try:
            with _ref_in_prefix(), peft_warnings():
                super().__init__(
                    model=model, args=args, processing_class=copy.deepcopy(tokenizer), **arguments
                )
            # TRL copies an adapter that it is given as the reference: a fresh one is the base alone, without a copy.
            if not goes_on:
                model.delete_adapter(_REFERENCE)
            self._undisturbed.keep_parameters()
            if goes_on:
                _copy_reference(model)
                _freeze_reference(model)
            self._undisturbed.without_dropout()
        except BaseException:
            self._undisturbed.restore()
            raise
        self.model_accepts_loss_kwargs = (
            False  # TRL's loss is a mean over pairs: accumulated batches weigh the same
        )
        self.processing_class = None  # else it would be saved in every checkpoint

    def train(self, *arguments: Any, **options: Any) -> Any:
        """See Trainer.train; the base is then as it was."""
        try:
            with peft_warnings():
                return super().train(*arguments, **options)
        finally:
            if self._goes_on:
                cast("PeftModel", self.model).delete_adapter(_REFERENCE)
                self._undisturbed.keep_trained()
            self._undisturbed.restore()

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """TRL's loss of one of our batches, in place of AdapterTrainer's."""
        found = super(AdapterTrainer, self).compute_loss(model, self._as_trl(inputs), *arguments, **options)
        if self._goes_on:
            self._undisturbed.keep_trained()
            _freeze_reference(cast("PeftModel", self.model))
        return found

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Log likelihoods [rows, 4] for the recipe's measure, which also gives the loss."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            own = self._likelihoods(model, inputs)
            with self.accelerator.unwrap_model(model).disable_adapter():
                base = self._likelihoods(model, inputs)
        outputs = torch.cat([own.view(2, -1), base.view(2, -1)]).T
        return None, outputs, torch.zeros(len(outputs), device=outputs.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without the tokens seen since this process began, which a resumed run cannot know."""
        for kept in vars(self)["_metrics"].values():
            kept.pop("num_tokens", None)
        super().log(logs, start_time)

    def _likelihoods(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of each sequence's log probabilities [sequences], by the head that TRL trains through."""
        found = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["labels"],
            use_cache=False,
            fused_lm_head=True,
        ).log_probs
        # 0 wherever nothing is asked for, as at the positions that a method puts before the tokens.
        sums: torch.Tensor = found.float().sum(dim=1)
        return sums

    @abstractmethod
    def _as_trl(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One of our batches as TRL's loss takes it."""


class PairTrainer(PreferenceTrainer, _EncodedRows, DPOTrainer):
    """TRL's DPOTrainer."""

    def _as_trl(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _masked(inputs)


class JudgedTrainer(PreferenceTrainer, _EncodedRows, KTOTrainer):
    """TRL's KTOTrainer, which takes no batches of one answer (recipes.prefer says so before anything is loaded)."""

    def __init__(self, *, args: TrainingArguments, data_collator: Any, **arguments: Any) -> None:
        def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
            return {**data_collator(rows), "label": torch.tensor([row.get("good", True) for row in rows])}

        super().__init__(args=args, data_collator=collate, **arguments)

    def _as_trl(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masked, rows = _masked(inputs), len(inputs["label"])
        answers = {name: part[:rows] for name, part in masked.items()}
        return {
            **answers,
            **{f"KL_{name}": part[rows:] for name, part in masked.items()},
            "label": inputs["label"],
        }


def _copy_reference(model: PeftModel) -> None:
    """Copy the adapter anew: TRL's copy of a prompt or a prefix over a quantised base is in bfloat16."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if f".{_REFERENCE}." in name:
            parameter.data = parameters[name.replace(f".{_REFERENCE}.", ".default.")].data.clone()


def _freeze_reference(model: PeftModel) -> None:
    """Keep the copy from learning."""
    for name, parameter in model.named_parameters():
        if f".{_REFERENCE}." in name:
            parameter.requires_grad_(False)


@contextmanager
def _ref_in_prefix() -> Iterator[None]:
    """Without PEFT's warning that TRL's name for a second adapter stands in the word prefix: it is never loaded."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter name 'ref' should not be contained in the prefix")
        yield


def _masked(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch as TRL names its parts."""
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "completion_mask": (inputs["labels"] != IGNORED).long(),
    }
