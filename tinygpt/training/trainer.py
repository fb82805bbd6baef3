"""The loop, in the order things happen.  B sequences, T tokens per sequence, V vocabulary."""

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tinygpt import console, signals
from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import Callback, Logger, Metrics
from tinygpt.training.averaging import evaluation_weights, swapped, update
from tinygpt.training.batches import Ahead, TokenData, TrainBatches
from tinygpt.training.cadence import Cadence, sizes_of_run
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.clock import Clock
from tinygpt.training.losses import ModelLoss, bits_per_byte, mean_nats
from tinygpt.training.state import TrainState
from tinygpt.training.validation import Validation

T = TypeVar("T")


class Diverged(UserError):
    """The loss is no longer finite."""


class Trainer(Cadence):
    """Trains the model of `state` to the end of the run; call `fit` once.

    Every rank has a trainer. Ranks see different sequences of a step and take each step together.
    """

    def __init__(
        self,
        cfg: RunConfig,
        state: TrainState,
        *,
        runtime: Runtime,
        prepared: TokenData,
        logger: Logger,
        callbacks: Mapping[str, Callback],
        checkpoints: Checkpoints,
        pause_at: int | None = None,  # step after which the run evaluates, saves and ends for now
        compiled: bool | None = None,  # what device.compile=auto came to when the run began
    ) -> None:
        trainer_cfg = cfg.trainer
        assert isinstance(trainer_cfg.micro_batch_size, int), "auto is decided before"
        self.micro_batch_size = trainer_cfg.micro_batch_size
        self.pause_at = pause_at
        self.seed = cfg.seed
        self.begins_trained = cfg.init_from is not None
        self.schedule = cfg.schedule
        self.runtime = runtime
        self.ranks = runtime.ranks
        self.logger = logger
        self.callbacks = callbacks
        self.checkpoints = checkpoints
        self.batches = TrainBatches(
            prepared.tokens("train"),
            seq_len=trainer_cfg.seq_len,
            sequences_per_step=trainer_cfg.sequences_per_step,
            seed=cfg.seed,
            document_ends=(
                prepared.document_ends("train") if cfg.dataset.window == "document" else None
            ),
        )
        # on a CPU a thread would take from the step as much time as it gives
        self.sequences = Ahead(self._sequences) if runtime.works_ahead else self._sequences
        self.masked_eot = prepared.tokenizer.eot_id if cfg.dataset.mask_documents else None
        validation = Validation(
            prepared, max_bytes=trainer_cfg.eval_bytes, window=cfg.dataset.window
        )
        self.vocab_size = prepared.tokenizer.vocab_size
        self.flops_per_token = state.model.flops_per_token()
        sizes = sizes_of_run(
            trainer_cfg,
            steps_per_epoch=self.batches.steps_per_epoch,
            flops_per_token=self.flops_per_token,
        )
        super().__init__(trainer_cfg, state, validation=validation, sizes=sizes)
        self.peak_lrs = [group["lr"] for group in state.optimizer.param_groups]
        self.other_peak_lrs = {  # of named groups whose rate is not that of the first one
            f"optim/lr_{group['name']}": peak
            for group, peak in zip(state.optimizer.param_groups, self.peak_lrs, strict=True)
            if peak != self.peak_lrs[0] and "name" in group
        }
        self.parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self.plain_loss = ModelLoss(state.model)
        self.model_loss, self.compile_note = runtime.compile(
            self.plain_loss,
            planned_steps=self.max_steps,
            flops=self.flops_per_token * self.micro_batch_size * self.cfg.seq_len,
            before=compiled,
        )
        self.shared_loss = runtime.mean_gradients(state.model, self.loss)
        self.grad_accum = self.cfg.grad_accum(ranks=self.ranks.size)
        self.loss_sum = torch.tensor(state.loss_sum, device=runtime.device)
        self.grad_norm = torch.zeros((), device=runtime.device)
        self.bad_step = torch.tensor(-1, device=runtime.device)
        self.signal = 0  # the number of the one that asked this rank to end
        self.interrupted: str | None = None  # its name, when all ranks know of it
        self.clock = Clock(state.timed_steps, state.timed_s)

    def fit(self) -> dict[str, Any]:
        """Train to the end, a pause, a signal or a callback's stop; returns the summary."""
        state = self.state
        began = time.perf_counter() - state.elapsed_s
        with (
            signals.handled(self._end_soon),
            self.checkpoints.settled(),
            self.runtime.adapted_to_load(),
        ):
            if self.begins_trained and not state.last_eval:
                self.log_beginning()
            while not self.done() and not self.interrupted and not self.paused:
                row = self.train_step()  # advances state.step by one
                self.agree(elapsed_s=time.perf_counter() - began)
                evaluates = self.eval_due() or self.paused
                if evaluates:
                    with evaluation_weights(state.optimizer):
                        row |= self.evaluate()
                        self.watch(row)
                if evaluates or self.row_due():
                    self.logger.log(state.step, row | self.since_last_row())
                    state.rows_logged += 1
                ends_here = self.interrupted or self.paused
                is_best = state.step in (state.best_step, state.best_step_ema)
                if self.save_due() or is_best or ends_here:
                    self.save()  # last, so it remembers all of the above
        state.elapsed_s = time.perf_counter() - began  # the last evaluation and checkpoint too
        if self.done() and not self.interrupted:
            with evaluation_weights(state.optimizer):
                if not state.last_eval:  # a finished run of an earlier version, completed now
                    self.evaluate()
                self.on_main(self._end_callbacks)
        return self.summary()

    def log_beginning(self) -> None:
        """Evaluate the weights that the run begins with, as the row of step 0, and save them.

        They stay the best checkpoint if training does not improve on them.
        """
        row = {**self.evaluate(), "tokens": 0, "elapsed_s": self.state.elapsed_s}
        self.logger.log(0, row)
        self.state.rows_logged += 1
        self.save()

    def agree(self, *, elapsed_s: float) -> None:
        """Share the main rank's clocks with all ranks, and any signal that a rank has received."""
        own_clock = elapsed_s if self.ranks.is_main else 0.0
        self.state.elapsed_s, self.save_takes_s, number = self.ranks.most(
            own_clock, self.checkpoints.took_s, self.signal
        )
        if number:
            self.interrupted = signal.Signals(int(number)).name

    def train_step(self) -> Metrics:
        """One optimizer update."""
        state, cfg = self.state, self.cfg
        # dropout depends on (seed, step, rank) only
        self.runtime.seed(_step_seed(self.seed, state.step, self.ranks.rank))
        lr_ratio = self.schedule.multiplier(self.progress())
        for group, peak in zip(state.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * lr_ratio
        with self.clock.waiting_for_data():
            sequences = self.sequences(state.step)
        batch = self.runtime.to_device(sequences)
        assert len(batch) * cfg.seq_len * self.ranks.size == self.step_tokens
        micro_batches = torch.split(batch, self.micro_batch_size)
        loss = torch.zeros((), device=self.runtime.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self.shared_loss.micro_step(last=number == len(micro_batches)):
                portions = len(batch) / len(micro_batch)
                part = self.shared_loss(micro_batch) / portions  # (B, T + 1)
                state.scaler.scale(part).backward()  # type: ignore[no-untyped-call]  # torch's own
            loss += part.detach()
        loss = self.ranks.mean(loss)
        state.scaler.unscale_(state.optimizer)
        grad_norm = self.runtime.clip(self.parameters, cfg.grad_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        if cfg.ema is not None:
            update(state.ema, state.model, decay=cfg.ema, updates=state.ema_updates)
            state.ema_updates += 1
        # fp16 finds its scale by infinite gradients, whose updates it skips
        watched = loss if state.scaler.is_enabled() else loss + grad_norm
        broken = ~torch.isfinite(watched) & (self.bad_step < 0)
        self.bad_step = torch.where(broken, state.step + 1, self.bad_step)
        self.grad_norm = grad_norm
        self.loss_sum += loss
        state.loss_count += 1
        self.clock.row_steps += 1
        state.tokens += self.step_tokens
        state.step += 1
        rates = {name: peak * lr_ratio for name, peak in self.other_peak_lrs.items()}
        return {"optim/lr": self.peak_lrs[0] * lr_ratio, **rates, "tokens": state.tokens}

    def _sequences(self, step: int) -> Tensor:
        """This rank's sequences of a step: (B, T + 1), in main memory."""
        first, end = (self.tokens_of(0, n) // self.cfg.seq_len for n in (step, step + 1))
        own = (end - first) // self.ranks.size
        rows = self.batches.rows(first, end)
        return self.runtime.pin(
            torch.from_numpy(rows[self.ranks.rank * own : (self.ranks.rank + 1) * own])
        )

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean nats per target of (B, T + 1) tokens."""
        return self._nats(self.model_loss, tokens)

    def _nats(self, model_loss: nn.Module, tokens: Tensor) -> Tensor:
        return mean_nats(model_loss, tokens, self.runtime, masked_eot=self.masked_eot)

    def since_last_row(self) -> Metrics:
        """Metrics of the steps since the row before; the only place that waits for the device."""
        self.check_finite()
        state = self.state
        self.logged_s = state.elapsed_s
        row = {
            "train/loss": self.loss_sum.item() / state.loss_count,
            "optim/grad_norm": self.grad_norm.item(),
            "elapsed_s": state.elapsed_s,
            **self.clock.row(self.tokens_of(state.step - self.clock.row_steps, state.step)),
        }
        state.timed_steps, state.timed_s = self.clock.steps, self.clock.training_s
        self.loss_sum.zero_()
        state.loss_count = 0
        return row

    def watch(self, row: Metrics) -> None:
        """Call the callbacks after an evaluation; each may ask to stop."""

        def ask() -> str | None:
            reason = None
            for callback in self.callbacks.values():
                reason = callback.on_eval(self.state, row) or reason
            return reason

        with self.clock.paused():
            self.state.stop_reason = self.on_main(ask) or self.state.stop_reason

    def _end_callbacks(self) -> None:
        for callback in self.callbacks.values():
            callback.on_end(self.state)

    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on the main rank, with the whole model, and return its result on all ranks."""
        with self.runtime.model_on_main(self.state.model):
            return self.ranks.from_main(work)

    def evaluate(self) -> Metrics:
        """Loss over the pinned part of the validation split; every token is predicted once.

        With trainer.ema also that of the averaged weights.
        """
        self.check_finite()
        state = self.state
        self.evaluated_s = state.elapsed_s
        nats = self._validation_nats()
        bpb = bits_per_byte(nats, self.validation.utf8_bytes)
        row = {"val/loss": nats / (len(self.validation.tokens) - 1), "val/bpb": bpb}
        if self.validation.floor_bpb is not None:
            row["val/bpb_above_floor"] = bpb - self.validation.floor_bpb
        if not math.isfinite(bpb):
            raise Diverged(f"val/loss is not finite after step {state.step}; {self._way_out()}")
        if state.best_bpb is None or bpb < state.best_bpb:
            state.best_bpb, state.best_step = bpb, state.step
        if state.ema:
            with swapped(state.ema, state.model):
                nats = self._validation_nats()
            bpb = bits_per_byte(nats, self.validation.utf8_bytes)
            row |= {
                "val/loss_ema": nats / (len(self.validation.tokens) - 1),
                "val/bpb_ema": bpb,
            }
            if state.best_bpb_ema is None or bpb < state.best_bpb_ema:
                state.best_bpb_ema, state.best_step_ema = bpb, state.step
        state.last_eval = dict(row)
        return row

    @torch.no_grad()
    def _validation_nats(self) -> float:
        """The sum over all tokens and ranks."""
        state, nats = self.state, 0.0
        with self.clock.paused():
            state.model.eval()
            batches = self.validation.batches(
                seq_len=self.cfg.seq_len, batch_size=self.micro_batch_size
            )
            for batch, counts in self.ranks.share(batches):
                tokens = self.runtime.to_device(torch.from_numpy(batch))
                # compiling again, without gradients and for each shape, would take minutes
                loss = self._nats(self.plain_loss, tokens).item()
                nats += loss * tokens[:, 1:].numel() if counts else 0.0
            state.model.train()
            return self.ranks.total(nats)

    def save(self) -> None:
        """Begin to write a checkpoint; raises Diverged if a loss was not finite."""
        self.check_finite()
        with self.clock.paused():
            self.state.loss_sum = self.loss_sum.item()
            self.saved_s = self.state.elapsed_s
            self.state.peak_mem_bytes = self.peak_mem_bytes()
            with evaluation_weights(self.state.optimizer):
                self.checkpoints.start_saving(self.state)

    def check_finite(self) -> None:
        """Raise Diverged if a step since the last check had a loss that is not finite."""
        step = int(self.bad_step.item())
        if step >= 0:
            raise Diverged(f"the loss is not finite at step {step}; {self._way_out()}")

    def _way_out(self) -> str:
        self.checkpoints.wait()
        saved = self.checkpoints.steps()
        kept = f"the checkpoint of step {saved[-1]} is intact; " if saved else ""
        return f"{kept}train again with a lower optimizer.lr, or a lower trainer.grad_clip"

    @property
    def paused(self) -> bool:
        """Whether the run has reached `pause_at` before its end."""
        return self.pause_at is not None and self.state.step >= self.pause_at and not self.done()

    def peak_mem_bytes(self) -> int | None:
        """The most memory that any part of the run took, as far as the device tells."""
        known = (self.state.peak_mem_bytes, self.runtime.peak_mem_bytes())
        return max((size for size in known if size is not None), default=None)

    def summary(self) -> dict[str, Any]:
        """The final numbers of the run."""
        state = self.state
        return {
            "step": state.step,
            "tokens": state.tokens,
            "epochs": state.tokens / self.cfg.tokens_per_step / self.batches.steps_per_epoch,
            **state.last_eval,
            "best_val_bpb": state.best_bpb,
            "best_step": state.best_step,
            **({"best_val_bpb_ema": state.best_bpb_ema} if state.ema else {}),
            "floor_bpb": self.validation.floor_bpb,
            "elapsed_s": state.elapsed_s,
            "tokens_per_sec": self.clock.overall(self.tokens_of(0, self.clock.steps)),
            "peak_mem_bytes": self.peak_mem_bytes(),
            "stop_reason": state.stop_reason,
        }

    def _end_soon(self, name: str) -> None:
        """End after the current step because of this signal; a second signal ends the run now."""
        if self.signal:
            raise KeyboardInterrupt(name)
        self.signal = signal.Signals[name]
        message = f"{name}: saving after this step; once more ends it at once"
        # a thread: the signal may have come in the middle of a print, which cannot be repeated
        threading.Thread(target=console.say, args=(message,)).start()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one step on one rank; seeds of neighbouring steps are unrelated."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
