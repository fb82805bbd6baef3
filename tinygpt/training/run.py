"""One run: build the parts that the config names, connect them, and run the loop."""

import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tinygpt import config, console
from tinygpt.components.loggers.console import ConsoleLogger
from tinygpt.components.loggers.fanout import Fanout
from tinygpt.components.loggers.jsonl import JsonlLogger, read_rows
from tinygpt.config import RunConfig
from tinygpt.corpus.prepared import Prepared, prepare
from tinygpt.corpus.prompts import example_prompt
from tinygpt.errors import AlreadyFinished, UserError
from tinygpt.hardware.ranks import Ranks
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import Callback, CallbackContext, Logger, Metrics, RunInfo
from tinygpt.records import plots
from tinygpt.records.folder import RunFolder
from tinygpt.training import trial
from tinygpt.training.averaging import average_of
from tinygpt.training.building import build_model, trainable
from tinygpt.training.checkpoint import Checkpoints, load_state
from tinygpt.training.initial import begin_with
from tinygpt.training.start import RunStart
from tinygpt.training.state import TrainState
from tinygpt.training.trainer import Trainer


def check(cfg: RunConfig, ranks: Ranks) -> Runtime:
    """The hardware to run on; raises UserError if the device or the text is missing here.

    Connects the ranks, which have met before.
    """
    cfg.dataset.open()
    _ = cfg.tokenizer.identity  # reads the file that it is made from, if there is one
    for logger in cfg.logger.values():
        logger.check()
    trial.check_memory(cfg, ranks=ranks.size)
    return Runtime(cfg.device, ranks)


def run(start: RunStart, runtime: Runtime, folder: RunFolder | None) -> str | None:
    """Train to the end, or to a pause; the signal that interrupted it, "paused", or None.

    Only the main rank has the folder. It logs, runs the callbacks and writes; the others train.
    """
    cfg = start.cfg
    logger = _logger(cfg, folder) if folder else Logger()
    prepared = _prepared(cfg, runtime.ranks)
    checkpoints = Checkpoints(
        start.path / "checkpoints",
        keep=cfg.trainer.keep_checkpoints,
        writes=folder is not None,
        on_first_save=folder.note_first_checkpoint if folder else None,
    )
    callbacks: dict[str, Callback] = {}
    if folder:
        if warning := prepared.overlap.warning(cfg.dataset):
            console.warn(warning)
        _bind(cfg, folder, prepared)
        context = CallbackContext(
            prepared.tokenizer,
            folder.path,
            logger,
            cfg.trainer.seq_len,
            prompts=folder.run["data"].get("prompts") or [""],  # an earlier version has none
            documents=lambda limit: list(prepared.documents("validation", limit=limit)),
        )
        callbacks = {name: choice.build(context) for name, choice in cfg.callback.items()}
    trainer = _trainer(start, runtime, prepared, checkpoints, logger, callbacks, folder)
    if trainer.done():
        _end_if_complete(trainer, folder)
    info = _begun(start, folder, trainer) if folder else None
    status, summary = "failed", {}
    began = time.perf_counter()
    try:
        with runtime.ranks.watched():
            if folder and info:
                folder.begin()
                logger.start(info)
            summary = trainer.fit()
        if folder and info:
            summary = {"run": info.id, "n_params": info.derived["n_params"], **summary}
            folder.write_summary(summary)
        if trainer.interrupted:
            status = "interrupted"
        else:
            status = "paused" if trainer.paused else "finished"
        if folder and status == "finished":
            console.say(_outcome(summary, time.perf_counter() - began))
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        logger.finish(status, summary)
        if folder:
            _draw(folder, floor_bpb=trainer.validation.floor_bpb)
    if status == "paused":
        return status
    return trainer.interrupted


def _logger(cfg: RunConfig, folder: RunFolder) -> Logger:
    choices = [choice.build() for choice in cfg.logger.values()]
    return Fanout([ConsoleLogger(), JsonlLogger(folder.metrics), *choices])


def _begun(start: RunStart, folder: RunFolder, trainer: Trainer) -> RunInfo:
    """Record and print the numbers that follow from config, data and machine; for the loggers."""
    runtime, state = trainer.runtime, trainer.state
    derived = {
        "n_params": sum(p.numel() for p in state.model.parameters()),
        "n_trainable": trainable(state.model),
        "flops_per_token": trainer.flops_per_token,
        "vocab_size": trainer.vocab_size,
        "world_size": runtime.ranks.size,
        "parallel": runtime.parallel,
        "micro_batch_size": trainer.micro_batch_size,
        "grad_accum": trainer.grad_accum,
        "compiled": trainer.model_loss is not trainer.plain_loss,
        "max_steps": trainer.max_steps,
        "max_tokens": None if trainer.sizes is None else trainer.sizes.n_tokens,
        "max_time_s": trainer.max_time_s,
        "steps_per_epoch": trainer.batches.steps_per_epoch,
        "eval_every": trainer.eval_every,
        "validation": {
            "documents": trainer.validation.documents,
            "utf8_bytes": trainer.validation.utf8_bytes,
            "text_sha256": trainer.validation.checksum,
        },
        "floor_bpb": trainer.validation.floor_bpb,
        "hardware": runtime.describe(),
    }
    if start.resumed and (changes := _changes_of_hardware(folder.run.get("derived"), derived)):
        console.warn(f"{changes}: results may differ in the last bits from here on")
    folder.write_run(derived=derived)
    _introduce(trainer, derived)
    return RunInfo(
        folder=folder.path,
        id=folder.run["id"],
        group=folder.run["group"],
        config=config.to_dict(start.cfg),
        derived=derived,
        resumed_at=state.step if start.resumed else None,
        rows=_rows_before(folder, trainer) if start.resumed else [],
    )


def _changes_of_hardware(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """The hardware settings that differ from those before the resume, in words."""
    had, has = (before or {}).get("hardware"), now["hardware"]
    if not had:  # frozen, and never begun
        return ""
    keys = ("device", "device_name", "precision", "kernels", "threads")
    return ", ".join(
        f"{key} was {had.get(key, 'torch')} and is {has[key]}"  # kernels have not always been named
        for key in keys
        if had.get(key, "torch") != has[key]
    )


def _rows_before(folder: RunFolder, trainer: Trainer) -> list[Metrics]:
    """The rows of a resumed run up to its checkpoint; missing rows are named and recorded."""
    state = trainer.state
    all_rows = read_rows(folder.metrics) if folder.metrics.exists() else []
    rows = [row for row in all_rows if row["step"] <= state.step]
    lost = folder.damage
    if missing := max(state.rows_logged - len(rows), 0):
        found = f"has rows up to step {rows[-1]['step']}" if rows else "has no row"
        lost = (
            f"{missing} of {state.rows_logged} rows up to step {state.step} are missing: "
            f"{folder.metrics.name} {found}"
        )
    if lost:
        console.warn(f"{lost}; the run goes on without them")
        folder.write_run(lost_rows=lost)
    state.rows_logged = len(rows)
    return rows


def _end_if_complete(trainer: Trainer, folder: RunFolder | None) -> None:
    """Raise AlreadyFinished on all ranks if a run without further steps lacks nothing either."""
    if trainer.ranks.from_main(lambda: folder is not None and folder.is_complete()):
        step = trainer.state.step
        raise AlreadyFinished(
            f"resume={trainer.checkpoints.folder.parent}: the run is finished, {step} steps; "
            f"to go on type a longer one, such as trainer.max_steps={2 * step}"
        )
    console.say("the last step was made before; completing what is missing")


def _prepared(cfg: RunConfig, ranks: Ranks) -> Prepared:
    """The prepared tokens, checked to be equal on all ranks; the main rank prepares them first."""
    prepared = ranks.main_first(lambda: prepare(cfg, console.say))
    own = _checksums(prepared)
    if ranks.from_main(lambda: own) != own:
        raise UserError(
            f"the tokens in {prepared.folder} are not those of the main rank; "
            "copy its folder here, or type a cache_dir that all machines see"
        )
    return prepared


def _micro_batch_size(start: RunStart, runtime: Runtime, vocab_size: int) -> int:
    """The size in the config; for auto the recorded size, or one that the main rank measures."""
    trainer = start.cfg.trainer
    if isinstance(trainer.micro_batch_size, int):
        return trainer.micro_batch_size
    own_sequences = trainer.sequences_per_step // runtime.ranks.size
    # the number of ranks may have changed since it was measured
    known = start.micro_batch_size if own_sequences % (start.micro_batch_size or 1) == 0 else None
    return runtime.ranks.from_main(
        lambda: known or trial.micro_batch_size(start.cfg, vocab_size, ranks=runtime.ranks.size)
    )


def _trainer(
    start: RunStart,
    runtime: Runtime,
    prepared: Prepared,
    checkpoints: Checkpoints,
    logger: Logger,
    callbacks: Mapping[str, Callback],
    folder: RunFolder | None,
) -> Trainer:
    """The trainer, with its model on the device and in the state of the newest checkpoint."""
    cfg, ranks, vocab_size = start.cfg, runtime.ranks, prepared.tokenizer.vocab_size
    size = _micro_batch_size(start, runtime, vocab_size)
    cfg = replace(cfg, trainer=replace(cfg.trainer, micro_batch_size=size))
    torch.manual_seed(cfg.seed)
    model = build_model(cfg, vocab_size)
    place = runtime.place(model)
    if ranks.size > 1:
        console.say(place)
    state = TrainState(model, cfg.optimizer.build(model), runtime.scaler())
    if cfg.trainer.ema is not None:
        state.ema = average_of(model)
    resumed = folder if start.resumed else None
    saved = ranks.from_main(lambda: _newest(checkpoints, resumed))
    if saved:
        load_state(state, Path(saved) if ranks.is_main else None, ranks)
    elif cfg.init_from is not None:
        begin_with(cfg, model, prepared.tokenizer, folder=folder, ranks=ranks)
    if start.changed:
        state.stop_reason = None  # the settings that ended it may be other ones now
    return Trainer(
        cfg,
        state,
        runtime=runtime,
        prepared=prepared,
        logger=logger,
        callbacks=callbacks,
        checkpoints=checkpoints,
        pause_at=start.pause_at,
        compiled=start.compiled,
    )


def _newest(checkpoints: Checkpoints, resumed: RunFolder | None) -> str | None:
    """The checkpoint that a resumed run goes on from; None begins at step 0.

    Raises UserError if the run has results and no checkpoint can be read: they would be lost.
    """
    saved = checkpoints.latest(console.warn) if resumed else None
    if saved is None and checkpoints.steps():
        raise UserError(
            f"every checkpoint in {checkpoints.folder} is damaged; {_restore_or_anew(checkpoints)}"
        )
    if resumed and saved is None and resumed.has_results():
        raise UserError(
            f"{checkpoints.folder} has no checkpoint that can be read, and beginning again would "
            f"remove the rows of {resumed.path}; {_restore_or_anew(checkpoints)}"
        )
    return str(saved) if saved else None


def _restore_or_anew(checkpoints: Checkpoints) -> str:
    again = shlex.quote(f"config_file={checkpoints.folder.parent / 'config.yaml'}")
    return f"restore a checkpoint, or train a new run:\n  python -m tinygpt.train {again}"


def _checksums(prepared: Prepared) -> dict[str, str]:
    return {split: info.checksum for split, info in prepared.splits.items()}


def _bind(cfg: RunConfig, folder: RunFolder, prepared: Prepared) -> None:
    """Copy the tokenizer into the run folder, or check the copy, and check the tokens.

    Raises UserError if the tokens are not those that the run began with.
    """
    sums = _checksums(prepared)
    before = folder.run.get("data")
    if before is not None and before.get("checksums") != sums:
        raise UserError(
            f"the tokens in {prepared.folder} are not those that the run began with, so it cannot "
            "go on; restore the dataset, or train a new run"
        )
    fingerprint = prepared.tokenizer.fingerprint()
    if before is not None and _saved_fingerprint(cfg, folder) == fingerprint:
        return
    if before is not None:
        console.warn(f"{folder.tokenizer} is damaged; it is restored from {prepared.folder}")
    shutil.rmtree(folder.tokenizer, ignore_errors=True)
    shutil.copytree(prepared.folder / "tokenizer", folder.tokenizer)
    folder.write_run(
        data={
            "prepared": str(prepared.folder),
            "checksums": sums,
            "tokenizer_fingerprint": fingerprint,
            "prompts": (before or {}).get("prompts") or [example_prompt(prepared)],
        }
    )


def _saved_fingerprint(cfg: RunConfig, folder: RunFolder) -> str | None:
    """The fingerprint of the run's own tokenizer; None if it cannot be read."""
    try:
        return cfg.tokenizer.load(folder.tokenizer).fingerprint()
    except UserError:
        return None


def _draw(folder: RunFolder, *, floor_bpb: float | None) -> None:
    """Draw the curve of the run. A full disk is only a warning: the run may have failed before."""
    try:
        rows = read_rows(folder.metrics)
        plots.loss_curve(
            rows, folder.path / "loss.png", title=folder.run["id"], floor_bpb=floor_bpb
        )
    except (OSError, UserError) as error:
        console.warn(f"no picture was drawn: {error}")


def _introduce(trainer: Trainer, derived: dict[str, Any]) -> None:
    """Print model, length, hardware and validation in a few lines."""
    hardware, validation = derived["hardware"], trainer.validation
    length = (
        f"{trainer.max_steps:,} steps"
        if trainer.max_steps is not None
        else f"{trainer.max_time_s:,.0f} s in steps"
    )
    n_tokens = 0 if trainer.sizes is None else trainer.sizes.n_tokens
    epochs = n_tokens / trainer.cfg.tokens_per_step / trainer.batches.steps_per_epoch
    size = f"{trainer.cfg.tokens_per_step:,}"
    if trainer.cfg.grows:
        size = f"{trainer.cfg.first_tokens_per_step:,}, growing to {size}"
    passes = f", {epochs:.1f} passes over the training text" if epochs > 1.05 else ""
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] != 1)}"
    n_params, n_trainable = derived["n_params"], derived["n_trainable"]
    trains = "" if n_trainable == n_params else f", of which {n_trainable:,} train"
    console.say(
        f"{n_params:,} parameters{trains}, vocabulary {derived['vocab_size']:,}, "
        f"{length} of {size} tokens{passes}\n"
        f"{hardware['device']} ({hardware['device_name']}), {hardware['precision']}, "
        f"{threads}, kernels: {hardware['kernels']}; {trainer.compile_note}\n"
        f"validation: {validation.documents:,} of {validation.all_documents:,} documents, "
        f"{validation.utf8_bytes:,} bytes, every token predicted once"
    )
    if trainer.other_peak_lrs:
        others = (f"{name[6:]} {rate:.3g}" for name, rate in trainer.other_peak_lrs.items())
        console.say(f"peak learning rates: lr {trainer.peak_lrs[0]:.3g}, {', '.join(others)}")
    if trainer.state.step:
        console.say(f"going on after step {trainer.state.step:,}")


def _outcome(summary: dict[str, Any], seconds: float) -> str:
    """The result in a line."""
    above, floor = "", summary["floor_bpb"]
    if floor:
        above = f", {summary['val/bpb'] - floor:.4f} above the entropy floor {floor:.4f}"
    reason = f" ({summary['stop_reason']})" if summary["stop_reason"] else ""
    return (
        f"finished{reason} in {seconds:.0f} s: val/loss {summary['val/loss']:.4f}, "
        f"val/bpb {summary['val/bpb']:.4f}{above}"
    )
