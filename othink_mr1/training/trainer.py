"""What SFT and GRPO share: a resumable `transformers.Trainer` whose samples are pictures and questions."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerControl

from othink_mr1.grpo.shared_prefix import install
from othink_mr1.models.lora import with_adapter
from othink_mr1.models.processor import Processor
from othink_mr1.training import deepspeed_engine, sharding, together
from othink_mr1.training.allocator import keep_freed_memory
from othink_mr1.training.callbacks import MarkPhases, SaveByTheClock, SumTokens
from othink_mr1.training.config import VisionLanguageConfig
from othink_mr1.training.nonfinite import DropNonFinite
from othink_mr1.training.resumable import ResumableTrainer
from othink_mr1.training.samples import Collator, Numbered, Sample

T = TypeVar("T")
# model, processor, samples, batch size, longest completion -> metrics
Validate = Callable[[PreTrainedModel, Processor, Sequence[Sample], int, int], dict[str, float]]


class VisionLanguageTrainer(ResumableTrainer):
    """Trains on samples (dicts with `image`, `problem`, ...) and validates with `validate`.

    Attributes:
        grad_norm: of the present step, before clipping.
        vision_is_frozen: whether pictures always have the same features; with an adapter that may be without
            `freeze_vision`.
    """

    args: VisionLanguageConfig
    control: TrainerControl

    def __init__(
        self,
        model: PreTrainedModel,
        args: VisionLanguageConfig,
        processor: Processor,
        train_samples: Sequence[Sample],
        validation_samples: Sequence[Sample] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        validate: Validate | None = None,
    ) -> None:
        # Sharded weights come and go with every layer: to keep what they free takes more than sharing saves.
        if args.device.type == "cpu" and not (args.strategy == "fsdp" and together.several()):
            keep_freed_memory()
        install(model)
        trained: torch.nn.Module = model
        if args.lora_r:
            rank, alpha, targets = args.lora_r, args.lora_alpha, args.lora_target_modules
            trained = with_adapter(model, rank, alpha, targets, not args.freeze_vision, args.seed)
        elif args.freeze_vision:
            model.model.visual.requires_grad_(False)
        super().__init__(
            model=trained,
            args=args,
            data_collator=Collator(processor),
            train_dataset=Numbered(train_samples),
            eval_dataset=validation_samples,
            processing_class=processor,
            callbacks=callbacks,
        )
        if args.strategy == "fsdp" and together.several():
            sharding.shard(trained, args.device)
            # It would wrap the model again, in DDP.
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.is_sharded = sharding.is_sharded(trained)
        self.vision_is_frozen = not any(p.requires_grad for p in model.model.visual.parameters())
        self.processor = processor
        self.validate = validate
        # Losses here are means already; the Trainer divides them by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self.grad_norm = 0.0
        self._tokens = torch.zeros((), dtype=torch.long, device=args.device)  # of the step, in this process
        self._dropped = DropNonFinite(self)
        self.remove_callback(PrinterCallback)
        self.add_callback(SumTokens(self))
        self.add_callback(MarkPhases(self))
        self.add_callback(self._dropped)
        if args.save_minutes is not None:
            self.add_callback(SaveByTheClock(60 * args.save_minutes))

    def place(self, model: PreTrainedModel) -> None:
        """Puts another model where the trained one is: on its device, in the precision of its weights, shared out as
        they are."""
        model.to(self.args.device)
        if self.is_deepspeed_enabled:
            deepspeed_engine.cast(model, self.accelerator)
        if self.is_sharded:
            sharding.shard(model, self.args.device)

    def inside(self, function: Callable[[PreTrainedModel], T]) -> T:
        """What `function` says of the bare model, where all of its weights are at hand. It has no gradient."""
        with torch.no_grad():
            return self.model(inside=function) if self.is_sharded else function(self.bare())

    # One step

    @contextmanager
    def compute_loss_context_manager(self) -> Iterator[None]:
        """The Trainer enters it around the forward pass."""
        self.mark("forward")
        with super().compute_loss_context_manager():
            yield
        self.mark("backward")

    def _precision(self) -> AbstractContextManager[Any]:
        """The training pass's precision, for what is computed beside it: the Trainer wraps the model's call alone."""
        return self.accelerator.autocast()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The Trainer's; its loss is looked at, too."""
        loss = super().training_step(*args, **kwargs)
        self._dropped.saw(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> float:
        """The Trainer asks for it between clipping and the optimiser's step."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # of a sharded model
        return self.grad_norm

    def extra_state(self) -> dict[str, Any]:
        return {"skipped": self._dropped.total, "skipped_in_a_row": self._dropped.in_a_row}

    def take_extra_state(self, state: dict[str, Any]) -> None:
        self._dropped.total, self._dropped.in_a_row = state["skipped"], state["skipped_in_a_row"]

    # What is told of it

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Marks its block, and counts its time, which appears in the next log as `time/<name>`, seconds a step."""
        self.mark(name)
        with self.meter.timed(name):
            yield

    def note(self, **metrics: float) -> None:
        """Keeps metrics of a micro-batch until the next log, where the mean of the finite ones appears."""
        self.meter.note(metrics)

    def count_tokens(self, *masks: torch.Tensor) -> None:
        """Adds to `num_tokens`, the tokens seen so far; a process may do so as often as it likes."""
        self._tokens += torch.stack([mask.sum() for mask in masks]).sum()

    def sum_tokens(self) -> None:
        """At a step's end, in all processes; the Trainer's state carries the sum through a resume."""
        self.state.num_input_tokens_seen += int(self.accelerator.reduce(self._tokens, "sum"))
        self._tokens.zero_()

    def share(self, mask: torch.Tensor) -> torch.Tensor:
        """The tokens of `mask` relative to their mean over the processes: a token mean times this, averaged over the
        processes, is the mean over all of their tokens."""
        count = mask.sum().float()
        return count / self.accelerator.reduce(count, "mean").clamp(min=1) if together.several() else count.new_ones(())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            step, tokens = self.state.global_step, self.state.num_input_tokens_seen
            logs = {**logs, **self.meter.means()}
            if self._dropped.total:
                logs["skipped_steps"] = self._dropped.total
            logs |= {"num_tokens": tokens, **self.meter.speed(step, tokens)}
            self.meter.clear(step, tokens)
        if "train_loss" in logs:  # of the whole training; the Trainer's is that of the steps since the last resume
            logs = {**logs, "train_loss": self._total_loss_scalar / max(1, self.state.global_step)}
        super().log(logs, start_time)

    # Validation

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What `validate` says of the model as it is now."""
        if self.validate is None or not self.eval_dataset:
            raise ValueError("evaluation needs validation_samples, and a function such as validation.greedy_accuracy")
        self.model.eval()
        self.mark("validation")
        with self.meter.left_out():
            with self._precision():
                metrics = self._validate()
            self.log(dict(metrics))
        # The Trainer asks for an evaluation until it hears of one.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validate(self) -> dict[str, float]:
        """Each process looks at its part of the samples; where weights are sharded, all have to make the same steps,
        and each looks at all."""
        validate, samples = self.validate, self.eval_dataset
        assert validate is not None
        size, length = self.args.per_device_eval_batch_size, self.args.eval_max_new_tokens
        first, stride = (0, 1) if self.is_sharded else (self.args.process_index, self.args.world_size)
        mine = range(first, len(samples), stride)
        part = [samples[i] for i in mine] if len(mine) < len(samples) else samples
        found = self.inside(lambda model: validate(model, self.processor, part, size, length)) if len(part) else {}
        told = together.every((len(part), found))
        total = sum(count for count, _ in told)
        return {name: sum(count * f[name] for count, f in told if count) / total for name in told[0][1]}
