"""Train: compose the config, build what it names, run the loop, say where everything is."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from tinygpt import cli, compose, config, registry
from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import CallbackContext, RunInfo
from tinygpt.run_folder import RunFolder, find_run, new_run_id

if TYPE_CHECKING:
    from tinygpt.prepared import Prepared

# what a resumed run keeps: with another value of these it would be another run
_FROZEN = ("dataset", "tokenizer", "model", "seed", "trainer.seq_len", "trainer.tokens_per_step")
_EXIT_CODES = {"finished": 0, "failed": 1, "SIGINT": 130, "SIGTERM": 143}


class AlreadyFinished(UserError):
    """A resumed run that has nothing left to do."""


@dataclass
class Job:
    """One run to make: what was typed, what it means, and where it goes."""

    cfg: RunConfig
    overrides: list[str]
    path: Path
    run_id: str
    group: str | None = None
    resumed: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 only if every run finished."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(cli.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    args = cli.parse_arguments("train", arguments)
    if args.help:
        from tinygpt import help

        print(help.text("train"))
        return 0
    cli.log_to_console()
    if any(text.startswith("resume=") for text in args.settings):
        return run_and_report(_resumed_job(args))
    jobs = compose.jobs(args.settings, multirun=args.multirun)
    configs = compose.compose_all("train", jobs, config_dir=args.config_dir)
    if args.cfg:
        print(yaml.safe_dump(config.to_dict(configs[0]), sort_keys=False, allow_unicode=True))
        return 0
    name = new_run_id()
    outputs = Path(configs[0].output_dir).expanduser()
    if not args.multirun:
        return run_and_report(Job(configs[0], jobs[0], outputs / name, run_id=name))
    return sweep(configs, jobs, outputs / f"{name}_sweep", command=arguments)


def sweep(
    configs: Sequence[RunConfig], jobs: Sequence[list[str]], folder: Path, *, command: Sequence[str]
) -> int:
    """One run after another in numbered folders; one that fails does not stop the others."""
    folder.mkdir(parents=True)
    index = {"command": shlex.join(command), "jobs": dict(enumerate(jobs))}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(index, sort_keys=False, allow_unicode=True))
    codes: dict[int, int] = {}
    for number, (cfg, overrides) in enumerate(zip(configs, jobs, strict=True)):
        cli.say(f"\nrun {number + 1} of {len(jobs)}: {' '.join(overrides) or 'defaults'}")
        run_id = f"{folder.name}-{number}"
        job = Job(cfg, overrides, folder / str(number), run_id=run_id, group=folder.name)
        codes[number] = run_and_report(job)
        if codes[number] in (_EXIT_CODES["SIGINT"], _EXIT_CODES["SIGTERM"]):
            return codes[number]
    failed = [str(number) for number, code in codes.items() if code]
    cli.say(f"\nsweep {folder}: {len(codes) - len(failed)} of {len(codes)} runs finished")
    if failed:
        cli.warn(f"failed: {', '.join(failed)}; the reason is in run.json of each")
    return 1 if failed else 0


def run_and_report(job: Job) -> int:
    """Run one job in its folder; its exit code. A failure is recorded and told, not raised."""
    if job.resumed:
        folder = RunFolder.reopen(job.path, cfg=job.cfg, overrides=job.overrides)
    else:
        folder = RunFolder.create(
            job.path, cfg=job.cfg, overrides=job.overrides, run_id=job.run_id, group=job.group
        )
    try:
        interrupted = train(job, folder)
    except AlreadyFinished as error:
        folder.close("finished")
        cli.log_error(str(error))
        return _EXIT_CODES["failed"]
    except UserError as error:
        folder.close("failed", str(error))
        cli.log_error(f"{error}\n  run folder: {job.path}")
        return _EXIT_CODES["failed"]
    except KeyboardInterrupt:
        folder.close("interrupted", "KeyboardInterrupt")
        cli.warn(f"interrupted; go on with\n  {_command('train', f'resume={job.path}')}")
        return _EXIT_CODES["SIGINT"]
    except Exception as error:
        cli.log_error(f"the run in {job.path} failed", traceback=True)
        folder.close("failed", f"{type(error).__name__}: {error}")
        return _EXIT_CODES["failed"]
    if interrupted:
        folder.close("interrupted", interrupted)
        cli.say(f"{interrupted}: saved; go on with\n  {_command('train', f'resume={job.path}')}")
        return _EXIT_CODES[interrupted]
    folder.close("finished")
    cli.say(f"everything is in {job.path}; write with it:\n  {_sample_command(job.path)}")
    return _EXIT_CODES["finished"]


def train(job: Job, folder: RunFolder) -> str | None:
    """Build everything and run the loop; the name of the signal that interrupted it, if one did."""
    import torch

    from tinygpt import plots
    from tinygpt.checkpoint import Checkpoints, load_state
    from tinygpt.loggers.console import ConsoleLogger
    from tinygpt.loggers.fanout import Fanout
    from tinygpt.loggers.jsonl import JsonlLogger, read_rows
    from tinygpt.prepared import prepare
    from tinygpt.runtime import Runtime
    from tinygpt.state import TrainState
    from tinygpt.trainer import Trainer

    cfg = job.cfg
    runtime = Runtime(cfg.device)
    loggers = [ConsoleLogger(), JsonlLogger(folder.metrics)]
    logger = Fanout([*loggers, *(choice.build() for choice in cfg.logger.values())])
    prepared = prepare(cfg, cli.say)
    tokenizer = prepared.tokenizer
    _check_data(folder, prepared)

    torch.manual_seed(cfg.seed)
    model = cfg.model.build(vocab_size=tokenizer.vocab_size, seq_len=cfg.trainer.seq_len)
    model.to(runtime.device)
    state = TrainState(model, cfg.optimizer.build(model), runtime.scaler())
    checkpoints = Checkpoints(folder.checkpoints, keep=cfg.trainer.keep_checkpoints)
    saved = checkpoints.latest(cli.warn) if job.resumed else None
    if saved:
        load_state(state, saved)

    context = CallbackContext(tokenizer, folder.path, logger, cfg.seed, cfg.trainer.seq_len)
    trainer = Trainer(
        cfg,
        state,
        runtime=runtime,
        prepared=prepared,
        logger=logger,
        callbacks={name: choice.build(context) for name, choice in cfg.callback.items()},
        checkpoints=checkpoints,
        say=cli.say,
    )
    if trainer.done():
        raise AlreadyFinished(
            f"resume={job.path}: the run is finished, {state.step} steps; "
            f"to go on type a longer one, such as trainer.max_steps={2 * state.step}"
        )
    derived = {
        "n_params": sum(p.numel() for p in model.parameters()),
        "flops_per_token": cfg.model.flops_per_token(
            vocab_size=tokenizer.vocab_size, seq_len=cfg.trainer.seq_len
        ),
        "vocab_size": tokenizer.vocab_size,
        "grad_accum": cfg.trainer.grad_accum,
        "max_steps": trainer.max_steps,
        "max_time_s": trainer.max_time_s,
        "steps_per_epoch": trainer.batches.steps_per_epoch,
        "floor_bpb": trainer.validation.floor_bpb,
        "hardware": runtime.describe(),
    }
    folder.write_run(derived=derived)
    _introduce(trainer, derived)
    logger.start(
        RunInfo(
            folder=folder.path,
            id=folder.run["id"],
            group=folder.run["group"],
            config=config.to_dict(cfg),
            derived=derived,
            resumed_at=state.step if job.resumed else None,
        )
    )
    status, summary = "failed", {}
    began = time.perf_counter()
    try:
        summary = {"run": folder.run["id"], **trainer.fit(), "n_params": derived["n_params"]}
        summary["floor_bpb"] = trainer.validation.floor_bpb
        status = "interrupted" if trainer.interrupted else "finished"
        folder.write_summary(summary)
    finally:
        logger.finish(status, summary)
        rows = read_rows(folder.metrics)
        plots.loss_curve(
            rows,
            folder.path / "loss.png",
            title=folder.run["id"],
            floor_bpb=trainer.validation.floor_bpb,
        )
    if not trainer.interrupted:
        cli.say(_outcome(summary, time.perf_counter() - began))
    return trainer.interrupted


def _check_data(folder: RunFolder, prepared: "Prepared") -> None:
    """Bind the run to its tokens: the tokenizer travels with it, a resume needs the same ones."""
    sums = {split: info.tokens_sha256 for split, info in prepared.splits.items()}
    before = folder.run.get("data")
    if before is None:
        shutil.copytree(prepared.folder / "tokenizer", folder.tokenizer, dirs_exist_ok=True)
        folder.write_run(data={"prepared": str(prepared.folder), "tokens_sha256": sums})
    elif before["tokens_sha256"] != sums:
        raise UserError(
            f"the tokens in {prepared.folder} are not those that the run began with, so it cannot "
            "go on; restore the dataset, or train a new run"
        )


def _introduce(trainer: Any, derived: dict[str, Any]) -> None:
    """What is about to run, in a few lines."""
    hardware, validation = derived["hardware"], trainer.validation
    length = (
        f"{trainer.max_steps:,} steps of {trainer.cfg.tokens_per_step:,} tokens"
        if trainer.max_steps
        else f"{trainer.max_time_s:,.0f} s in steps of {trainer.cfg.tokens_per_step:,} tokens"
    )
    part = f"{validation.documents:,} of {validation.all_documents:,} documents"
    cli.say(
        f"{derived['n_params']:,} parameters, vocabulary {derived['vocab_size']:,}, {length}\n"
        f"{hardware['device']} ({hardware['device_name']}), {hardware['precision']}, "
        f"{hardware['threads']} threads; {trainer.compile_note}\n"
        f"validation: {part}, {validation.utf8_bytes:,} bytes, every token predicted once"
    )
    if trainer.state.step:
        cli.say(f"going on after step {trainer.state.step:,}")


def _outcome(summary: dict[str, Any], seconds: float) -> str:
    """The result in a line."""
    floor = summary["floor_bpb"]
    above = ""
    if floor:
        above = f", {summary['val/bpb'] - floor:.4f} above the entropy floor {floor:.4f}"
    reason = f" ({summary['stop_reason']})" if summary["stop_reason"] else ""
    return (
        f"finished{reason} in {seconds:.0f} s: val/loss {summary['val/loss']:.4f}, "
        f"val/bpb {summary['val/bpb']:.4f}{above}"
    )


def _resumed_job(args: Any) -> Job:
    """The run named by `resume=`, with the changes that a run may see while it goes on."""
    if args.multirun:
        raise UserError("resume= goes on with one run; type it without -m")
    registry.import_all()
    resume = [text for text in args.settings if text.startswith("resume=")]
    typed = [text for text in args.settings if not text.startswith("resume=")]
    # a run in another output_dir is found by its path; `latest` looks here
    path = find_run(resume[-1].partition("=")[2], field="resume", output_dir=Path("outputs"))
    content = config.read(path / "config.yaml")
    for override in compose.parse(compose.layered([], typed)):
        key = override.key_or_group
        if any(key == frozen or key.startswith(f"{frozen}.") for frozen in _FROZEN):
            raise UserError(
                f"{override.input_line} would make resume={path} another run; "
                f"train a new one with config_file={path / 'config.yaml'} {override.input_line}"
            )
        _assign(content, key, override.value())
    cfg = config.resolve(content, RunConfig)
    return Job(cfg, typed, path, run_id="", resumed=True)


def _assign(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted field of a saved config; raises UserError if there is none."""
    *parents, leaf = path.split(".")
    node: Any = content
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict):
        raise config.unknown_key(path, compose.dotted_keys(OmegaConf.create(content)))
    node[leaf] = value


def _command(entry: str, *settings: str) -> str:
    return f"python -m tinygpt.{entry} {shlex.join(settings)}"


def _sample_command(path: Path) -> str:
    return f'python -m tinygpt.sample run={shlex.quote(str(path))} prompt="Once upon a time"'


if __name__ == "__main__":
    main()
