"""What SFT and GRPO share: a `transformers.Trainer` whose checkpoints are whole or absent, and whose batches are
pictures and questions."""

import functools
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainerControl

from othink_mr1.errors import UserError
from othink_mr1.grpo.shared_prefix import install
from othink_mr1.models.loading import load_model
from othink_mr1.models.lora import adapter_weights, bare, save_adapter, with_adapter
from othink_mr1.models.processor import Processor
from othink_mr1.prompts import train_prompt
from othink_mr1.training import checkpoints, phases, sharding, together
from othink_mr1.training.allocator import keep_freed_memory
from othink_mr1.training.config import VisionLanguageConfig

Sample = dict[str, Any]
T = TypeVar("T")
_BETWEEN = "between_logs.json"
# model, processor, samples, batch size, longest completion -> metrics
Validate = Callable[[PreTrainedModel, Processor, Sequence[Sample], int, int], dict[str, float]]


class Numbered(torch.utils.data.Dataset[Sample]):
    """Samples with their place in the dataset as `index`, which seeds their sampling noise."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self.samples[index], "index": index}


class Collator:
    """Encodes the prompts of a batch; everything else of a sample but its picture goes along as it is."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        texts = [sample.get("prompt") or train_prompt(sample["problem"]) for sample in samples]
        prompts = self.processor.encode(texts, [sample["image"] for sample in samples])
        return {"prompts": prompts, "samples": [{k: v for k, v in s.items() if k != "image"} for s in samples]}


class VisionLanguageTrainer(Trainer):
    """Trains on samples (dicts with `image`, `problem`, ...) and validates with `validate`.

    Checkpoints are written beside and renamed: a folder `checkpoint-N` is always whole, and verified before it is used.
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
        if args.device.type == "cpu":
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
        # Whether pictures always have the same features; with an adapter that may be without `freeze_vision`.
        self.vision_is_frozen = not any(p.requires_grad for p in model.model.visual.parameters())
        self.remove_callback(PrinterCallback)
        self.processor = processor
        self.validate = validate
        # Losses here are means already; the Trainer divides them by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._buffer: dict[str, list[float]] = defaultdict(list)
        self._phases: dict[str, float] = defaultdict(float)
        self._grad_norm: float | None = None
        self._bad_losses = 0  # of the step's micro-batches
        self._skipped, self._skipped_in_a_row = 0, 0  # steps whose gradient was not finite
        self._saving_to: str | None = None
        self._resumed_from: str | None = None
        self._log_started, self._logged_before, self._tokens_before = time.perf_counter(), 0, 0
        self.add_callback(_GoOnBetweenLogs(self))
        self.add_callback(_MarkPhases(self))
        self.add_callback(_SkipNonFinite(self))
        if args.save_minutes is not None:
            self.add_callback(_SaveByTheClock(60 * args.save_minutes))

    def bare(self) -> PreTrainedModel:
        """The Qwen-VL model inside what is wrapped around it."""
        return bare(self.accelerator.unwrap_model(self.model))

    def inside(self, function: Callable[[PreTrainedModel], T]) -> T:
        """What `function` says of the bare model, where all of its weights are at hand. It has no gradient."""
        with torch.no_grad():
            return self.model(inside=function) if self.is_sharded else function(self.bare())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True goes on from the newest whole one of `output_dir`, or
                begins where there is none.

        Raises:
            UserError: another process writes checkpoints to `output_dir`.
        """
        folder = Path(self.args.output_dir)
        writes = self.is_world_process_zero()
        with checkpoints.held(folder) if writes else nullcontext():
            found = resume_from_checkpoint
            if found is True:
                found = together.first(str(checkpoints.newest(folder) or "") if writes else None)
            self._resumed_from = str(found) if found else None
            if found and writes:
                print(f"going on from {found}", flush=True)
            return super().train(resume_from_checkpoint=self._resumed_from, **kwargs)

    def mark(self, name: str) -> None:
        """Says which part of a step begins, such as "backward"; it lasts until the next one."""
        phases.mark(self.state.global_step, name)

    @contextmanager
    def compute_loss_context_manager(self) -> Iterator[None]:
        """The Trainer enters it around the forward pass."""
        self.mark("forward")
        with super().compute_loss_context_manager():
            yield
        self.mark("backward")

    def count_tokens(self, *masks: torch.Tensor) -> None:
        """Adds to `num_tokens`, the tokens seen so far; the Trainer's state carries the sum through a resume."""
        count = torch.stack([mask.sum() for mask in masks]).sum()
        self.state.num_input_tokens_seen += int(self.accelerator.reduce(count, "sum"))

    def share(self, mask: torch.Tensor) -> torch.Tensor:
        """The tokens of `mask` relative to their mean over the processes: a token mean times this, averaged over the
        processes, is the mean over all of their tokens."""
        count = mask.sum().float()
        return count / self.accelerator.reduce(count, "mean").clamp(min=1) if together.several() else count.new_ones(())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Marks its block, and counts its time, which appears in the next log as `time/<name>`, seconds a step."""
        self.mark(name)
        began = time.perf_counter()
        yield
        self._phases[name] += time.perf_counter() - began

    def note(self, **metrics: float) -> None:
        """Keeps metrics of a micro-batch until the next log, where the mean of the finite ones appears."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self._buffer[name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            now = time.perf_counter()
            steps = max(1, self.state.global_step - self._logged_before)
            logs = {**logs, **self._means()}
            if self._skipped:
                logs["skipped_steps"] = self._skipped
            logs["num_tokens"] = self.state.num_input_tokens_seen
            logs["step_time"] = (now - self._log_started) / steps
            logs["tokens_per_second"] = (logs["num_tokens"] - self._tokens_before) / (now - self._log_started)
            logs |= {f"time/{name}": seconds / steps for name, seconds in self._phases.items()}
            self._buffer.clear()
            self._phases.clear()
            self._begin_log(now)
        if "train_loss" in logs:  # of the whole training; the Trainer's is that of the steps since the last resume
            logs = {**logs, "train_loss": self._total_loss_scalar / max(1, self.state.global_step)}
        super().log(logs, start_time)

    def _means(self) -> dict[str, float]:
        """Of what was noted since the last log, in all processes."""
        noted = together.every(dict(self._buffer))
        values = {name: [v for buffer in noted for v in buffer.get(name, ())] for buffer in noted for name in buffer}
        return {name: sum(found) / len(found) for name, found in values.items()}

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of a sharded model
        self._grad_norm = None if norm is None else float(norm)
        return norm

    def _precision(self) -> AbstractContextManager[Any]:
        """The training pass's precision, for what is computed beside it: the Trainer wraps the model's call alone."""
        return self.accelerator.autocast()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The Trainer's, with an eye on the loss, which may be bad where the gradient is not."""
        loss = super().training_step(*args, **kwargs)
        self._bad_losses += int(not torch.isfinite(loss))
        return loss

    def skip_step_if_not_finite(self) -> None:
        """Drops the gradient where it or a micro-batch's loss is not finite: weights and optimiser stay as they are.

        Raises:
            UserError: that many steps in a row were of this kind; what was trained before is in the last checkpoint.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = self._grad_norm if self.args.max_grad_norm > 0 else None
        if norm is None:
            total = torch.nn.utils.get_total_norm(gradients)
            norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)
        bad = torch.tensor(float(self._bad_losses), device=self.args.device)
        self._bad_losses = 0
        if math.isfinite(norm) and not self.accelerator.reduce(bad, "sum"):
            self._skipped_in_a_row = 0
            return
        for parameter in self.model.parameters():
            parameter.grad = None
        self._skipped += 1
        self._skipped_in_a_row += 1
        step, most = self.state.global_step + 1, self.args.max_skipped_steps
        if self.is_world_process_zero():
            print(f"step {step}: loss or gradient (norm {norm}) is not finite; the step is skipped", flush=True)
        if self._skipped_in_a_row >= most:
            raise UserError(
                f"step {step}: loss or gradient was not finite in {most} steps in a row (norm {norm}); the last "
                f"checkpoint in {self.args.output_dir} is good: lower learning_rate, or look for what the rewards give"
            )

    def _begin_log(self, now: float) -> None:
        self._log_started, self._logged_before = now, self.state.global_step
        self._tokens_before = self.state.num_input_tokens_seen

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What `validate` says of the model as it is now."""
        if self.validate is None:
            raise ValueError("evaluation needs a `validate` function, such as training.validation.greedy_accuracy")
        self.model.eval()
        self.mark("validation")
        began = time.perf_counter()
        with self._precision():
            metrics = self._validate()
        self.log(dict(metrics))
        self._log_started += time.perf_counter() - began
        # The Trainer asks for an evaluation until it hears of one.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validate(self) -> dict[str, float]:
        """Each process looks at its part of the samples; where weights are sharded, all have to make the same steps,
        and each looks at all."""
        validate, samples = self.validate, self.eval_dataset
        assert validate is not None
        size, length = self.args.per_device_eval_batch_size, self.args.eval_max_new_tokens
        mine = range(0 if self.is_sharded else self.args.process_index, len(samples), self._eval_stride)
        part = [samples[i] for i in mine] if len(mine) < len(samples) else samples
        found = self.inside(lambda model: validate(model, self.processor, part, size, length)) if len(part) else {}
        told = together.every((len(part), found))
        total = sum(count for count, _ in told)
        return {name: sum(count * f[name] for count, f in told if count) / total for name in told[0][1]}

    @property
    def _eval_stride(self) -> int:
        return 1 if self.is_sharded else self.args.world_size

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        target = model or self.model
        if self.args.lora_r:
            weights = adapter_weights(target, Path(resume_from_checkpoint))
            if self.is_sharded:
                sharding.take_weights(target, weights)
            else:
                target.load_state_dict(weights, strict=False)
            return
        # Qwen-VL checkpoints are saved under older names of their weights. `from_pretrained` translates them; the
        # Trainer's own loading does not, and goes on with whatever weights it has, with no more than a warning.
        if self.is_sharded:
            mine = load_model(resume_from_checkpoint, device="cpu").state_dict() if self.args.should_save else {}
            sharding.take_weights(target, mine)
            return
        saved = load_model(resume_from_checkpoint, device="cpu")
        target.load_state_dict(saved.state_dict(), strict=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights and processor, the adapter's alone where there is one; every process has to call it."""
        folder = Path(output_dir or self.args.output_dir)
        weights = sharding.whole_weights(self.model) if self.is_sharded else None
        if not self.args.should_save:
            return
        if self.args.lora_r:
            save_adapter(self.accelerator.unwrap_model(self.model), folder, weights)
        else:
            self.bare().save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharding.save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir) / "optimizer.pt")
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharding.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint) / "optimizer.pt")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _between_logs(self) -> dict[str, Any]:
        return {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "buffer": self._buffer,
            "extra": self.extra_state(),
        }

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the Trainer's own: plain values."""
        return {"skipped": self._skipped, "skipped_in_a_row": self._skipped_in_a_row}

    def take_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `extra_state`."""
        self._skipped, self._skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]

    def save_more(self, folder: Path) -> None:
        """Writes a subclass's own files into a checkpoint that is being made; every process calls it."""

    def load_more(self, folder: Path) -> None:
        """The inverse of `save_more`."""

    def _go_on_between_logs(self) -> None:
        self._begin_log(time.perf_counter())
        if self._resumed_from is None:
            return
        saved = json.loads((Path(self._resumed_from) / _BETWEEN).read_text(encoding="utf-8"))[self.args.process_index]
        self._tr_loss.fill_(saved["loss"])
        self._total_loss_scalar = saved["total_loss"]
        self._globalstep_last_logged = saved["logged"]
        self._buffer.update(saved["buffer"])
        self.take_extra_state(saved["extra"])
        self.load_more(Path(self._resumed_from))

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.mark("saving")
        folder, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        unfinished = folder / checkpoints.UNFINISHED
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
        together.barrier()
        self._saving_to = str(unfinished)
        try:
            super()._save_checkpoint(model, trial)
            self.save_more(unfinished / name)
            between = together.every(self._between_logs())  # by then every process's files are there
            if self.args.should_save:
                (unfinished / name / _BETWEEN).write_text(json.dumps(between), encoding="utf-8")
                checkpoints.keep(folder, name, self.args.save_total_limit)
            together.barrier()
        finally:
            self._saving_to = None
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)


class _GoOnBetweenLogs(TrainerCallback):
    """Takes up the sums of a log that a checkpoint fell into the middle of; the Trainer would begin them anew."""

    def __init__(self, trainer: VisionLanguageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._go_on_between_logs()


class _MarkPhases(TrainerCallback):
    """The phases that lie between what the trainers themselves do."""

    def __init__(self, trainer: VisionLanguageTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mark("optimiser")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mark("between steps")


class _SkipNonFinite(TrainerCallback):
    """Looks at the gradient just before the optimiser takes it."""

    def __init__(self, trainer: VisionLanguageTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.skip_step_if_not_finite()


class _SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint when the last one is too long ago; saving changes nothing of what is trained."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= together.any_of(time.monotonic() - self._last >= self.seconds, args.device)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = time.monotonic()


class StopAndReport(TrainerCallback):
    """Tells how far training is, and ends it after a checkpoint once a stop is asked for."""

    def __init__(self, report: Callable[[int, int, str], None], stop_requested: Callable[[], bool]) -> None:
        self.report = report
        self.stop_requested = stop_requested
        self.stopped = False
        self._metrics = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps, "")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        # An RL loss says nothing, its reward does.
        names = ("reward", "beta", "eval_accuracy") if "reward" in logs else ("loss", "eval_accuracy")
        shown = [f"{name} {logs[name]:.3g}" for name in names if name in logs]
        if "tokens_per_second" in logs:
            shown.append(f"{logs['tokens_per_second']:.0f} tokens/s")
        self._metrics = "  ".join(shown) or self._metrics
        self.report(state.global_step, state.max_steps, self._metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.report(state.global_step, state.max_steps, self._metrics)
        if together.any_of(self.stop_requested(), args.device) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True
        return control
