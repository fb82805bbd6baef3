"""Start or resume one run: its folder, how it ends, and the messages about it."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt import config, console, registry
from tinygpt.config import RunConfig, overrides
from tinygpt.config.nested import flatten
from tinygpt.config.resolution import escaped
from tinygpt.errors import AlreadyFinished, UserError
from tinygpt.hardware.loading import importing_torch
from tinygpt.hardware.ranks import RankLost, Ranks
from tinygpt.records.find import find_run
from tinygpt.records.folder import RunFolder
from tinygpt.records.hints import sample_command
from tinygpt.records.read import read_record
from tinygpt.records.saved_config import load_config
from tinygpt.training.moved import (
    MOVABLE,
    absolute,
    check_same_text,
    look_up,
    use_own_tokenizer,
)
from tinygpt.training.start import RunStart

# a resumed run keeps these: with another value it would be another run
_FROZEN = (
    "dataset",
    "tokenizer",
    "model",
    "seed",
    "init_from",
    "trainer.seq_len",
    *("trainer.tokens_per_step", "trainer.first_tokens_per_step", "trainer.tokens_warmup_ratio"),
    *("trainer.freeze", "trainer.lora_rank", "trainer.lora_alpha", "trainer.lora_targets"),
    "trainer.eval_bytes",  # else the best val/bpb would be one of another text
)
_EXIT_CODES = {
    **{"finished": 0, "paused": 0, "failed": 1},
    **{"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129},
}


@dataclass
class Job:
    """One start of a run, and how the user asked for it."""

    start: RunStart
    overrides: list[str]
    run_id: str = ""  # of a new run


def launch(job: Job) -> int:
    """Run one job in its folder and return its exit code; a failure is recorded, not raised.

    Raises UserError for a missing device or text, before the folder is made.
    """
    with importing_torch():  # only when there is something to run
        from tinygpt.training.progress import check_length
        from tinygpt.training.run import check, run

    start, ranks = job.start, Ranks()
    if ranks.restarts and not start.resumed:
        raise UserError(
            "torchrun has restarted its ranks, which would begin a new run; pass --max-restarts=0, "
            "and continue with resume=latest"
        )
    start.cfg.trainer.grad_accum(ranks=ranks.size)
    if start.resumed:
        check_length(start, typed=job.overrides)
    ranks.meet()
    ranks.from_main(start.to_json)
    runtime = check(start.cfg, ranks)
    if start.resumed:
        folder = RunFolder.reopen(
            start.path, cfg=start.cfg, overrides=job.overrides, pause_at=start.pause_at
        )
    else:
        folder = RunFolder.create(
            start.path, cfg=start.cfg, overrides=job.overrides, run_id=job.run_id, group=None
        )
    code = _in_folder(start, folder, lambda: run(start, runtime, folder), ranks)
    ranks.leave(code)
    return code


def _in_folder(
    start: RunStart, folder: RunFolder, work: Callable[[], str | None], ranks: Ranks
) -> int:
    """Do the work of a run, record and print how it ended, and return the exit code."""

    def last_word() -> None:
        error = "did not end after a signal; a rank that it waits for may have died"
        folder.write_run(status="failed", error=error)
        console.log_error(f"{error}\n  run folder: {start.path}")

    try:
        with ranks.watched(last_word):
            ended_by = work()
    except AlreadyFinished as done:
        with folder.closing("finished"):
            console.say(str(done))
        return _EXIT_CODES["finished"]
    except RankLost as error:
        with folder.closing("failed", str(error)):
            console.log_error(f"{error}\n  {_go_on(start.path, ranks, start.cfg)}")
        return _EXIT_CODES["failed"]
    except UserError as error:
        with folder.closing("failed", str(error)):
            console.log_error(f"{error}\n  run folder: {start.path}")
        return _EXIT_CODES["failed"]
    except KeyboardInterrupt as error:
        ended_by = str(error) or "SIGINT"
    except Exception as error:
        refusal = console.refusal(error)
        with folder.closing("failed", refusal or f"{type(error).__name__}: {error}"):
            if refusal:
                console.log_error(f"{refusal}\n  {_go_on(start.path, ranks, start.cfg)}")
            else:
                console.log_error(f"the run in {start.path} failed", traceback=True)
        return _EXIT_CODES["failed"]
    if ended_by == "paused":
        with folder.closing("paused"):
            console.say(
                f"paused after step {start.pause_at}; {_go_on(start.path, ranks, start.cfg)}"
            )
    elif ended_by:
        with folder.closing("interrupted", ended_by):
            console.say(f"{ended_by}: interrupted; {_go_on(start.path, ranks, start.cfg)}")
    else:
        with folder.closing("finished"):
            console.say(
                f"everything is in {start.path}; write with it:\n"
                f"  {sample_command(start.path, folder.run)}"
            )
    return _EXIT_CODES[ended_by or "finished"]


def _named(field: str, path: Path, cfg: RunConfig | None) -> str:
    """A run as it is typed for another command, with the modules that its components need."""
    modules = cfg.components if cfg else []
    return shlex.join([f"{field}={path}", *([f"components=[{','.join(modules)}]"] * bool(modules))])


def _go_on(path: Path, ranks: Ranks, cfg: RunConfig | None = None) -> str:
    """The command that resumes a run, on any number of ranks."""
    start = "torchrun ... -m" if ranks.size > 1 else "python -m"
    return f"go on with\n  {start} tinygpt.train {_named('resume', path, cfg)}"


def take_part() -> int:
    """Run one of the other ranks and return its exit code; the main rank sends the start.

    Prints nothing, except when this rank fails alone or the main rank has died.
    """
    with importing_torch():
        from tinygpt.training.run import check, run

    ranks, path, code = Ranks(), Path(), _EXIT_CODES["failed"]
    registry.import_all()
    try:
        ranks.meet()
        start = RunStart.from_json(ranks.from_main(dict[str, Any]))
        path = start.path
        runtime = check(start.cfg, ranks)
        with ranks.watched():
            ended_by = run(start, runtime, None)
        code = _EXIT_CODES[ended_by or "finished"]
    except RankLost as error:
        if error.rank == 0 and ranks.rank == 1:  # one rank prints it
            console.log_error(f"{error}\n  {_go_on(path, ranks)}")
    except AlreadyFinished:
        code = _EXIT_CODES["finished"]
    except UserError as error:
        if not ranks.main_fails_too():
            console.log_error(f"rank {ranks.rank}: {error}")
    except KeyboardInterrupt:
        code = _EXIT_CODES["SIGINT"]
    except Exception:
        console.log_error(f"rank {ranks.rank} failed", traceback=True)
    ranks.leave(code)
    return code


def resumed(settings: Sequence[str]) -> Job:
    """The start of the run that `resume=` names, with the other settings as changes.

    Raises UserError for a change that would make it another run.
    """
    registry.import_all()
    which, typed = overrides.split_off("resume", settings)
    until, typed = overrides.split_off("until", typed)
    outputs, _ = overrides.split_off("output_dir", typed)
    if len(which) > 1:
        raise UserError(f"resume= goes on with one run, and is typed for {' and '.join(which)}")
    folder = Path(*outputs[-1:] or ["outputs"]).expanduser()
    path = find_run(which[-1], field="resume", output_dir=folder)
    content: dict[str, Any] = escaped(config.to_dict(load_config(path)))
    had_auto = content["trainer"]["micro_batch_size"] == "auto"
    record = read_record(path)
    moved = []
    for override in overrides.parse(overrides.layered([], typed)):
        key = override.key_or_group
        if key == "components":
            names = override.value()
            names = names if isinstance(names, list) else [names]
            content[key] = list(dict.fromkeys([*content.get(key, []), *map(str, names)]))
            continue
        if key in MOVABLE and record.get("data"):
            moved.append(str(override.input_line))
            _assign(content, key, absolute(override.value()))
            continue
        if any(key == frozen or key.startswith(f"{frozen}.") for frozen in _FROZEN):
            again = shlex.join([f"config_file={path / 'config.yaml'}", str(override.input_line)])
            raise UserError(
                f"{override.input_line} would make resume={path} another run; "
                f"for a new one type\n  python -m tinygpt.train {again}"
            )
        if isinstance(content.get(key), dict) or _names_a_component(key):
            raise UserError(
                f"{override.input_line} is a choice, and a resumed run keeps those it began with; "
                f"change single fields, such as {_field_of(key)}"
            )
        _assign(content, key, override.value())
    look_up(content, record.get("working_dir"))
    if not any(text.startswith("tokenizer.path=") for text in typed):
        use_own_tokenizer(content, path)
    cfg = config.resolve(content, RunConfig)
    if moved:
        check_same_text(cfg, record, typed=moved, run=path)
    pause_at = config.parse_count("until", until[-1]) if until else None
    derived = record.get("derived") or {}
    start = RunStart(
        cfg,
        path,
        resumed=True,
        changed=bool(typed),
        pause_at=pause_at,
        compiled=derived.get("compiled"),
        # a number that was typed has not been measured
        micro_batch_size=derived.get("micro_batch_size") if had_auto else None,
    )
    return Job(start, typed)


def _names_a_component(key: str) -> bool:
    """Whether the field chooses a component, such as schedule.name or callback.sample.name."""
    kind, *rest = key.split(".")
    return (
        kind in registry.KINDS
        and rest[-1:] == ["name"]
        and len(rest) == 1 + (kind in registry.MANY)
    )


def _field_of(key: str) -> str:
    """An example of a field that may change, near the choice that was typed."""
    if key == "device":
        return "device.type=cpu"
    return "optimizer.lr=1e-4 or trainer.max_steps=500"


def _assign(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted field of a saved config; raises UserError if there is none."""
    *parents, leaf = path.split(".")
    node: Any = content
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict):
        raise config.unknown_key(path, flatten(content))
    node[leaf] = value
