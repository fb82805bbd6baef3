"""Many runs: each in a process of its own, judged on the way, and able to go on after any end."""

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from tinygpt import config, console, registry
from tinygpt.config import RunConfig, SweepConfig, choices, compose, overrides
from tinygpt.errors import UserError
from tinygpt.hardware.ranks import Ranks
from tinygpt.interfaces import Launcher, Search, Stopping, Trial
from tinygpt.records.folder import new_run_id, source_state
from tinygpt.sweeps.folder import (
    ENDED,
    SweepFolder,
    SweepRun,
    config_hash,
    find_sweep,
    same_command,
)
from tinygpt.sweeps.view import SweepView

POLL_S = 0.1
_OWN = (*registry.SWEEP_KINDS, "sweep", "objective", "retry_failed")
# fields whose values make the same step another place of the run
_LENGTHS = ("trainer.tokens_per_step", "trainer.max_steps", "trainer.max_tokens")
_NOT_THE_QUESTION = ("launcher", "retry_failed")  # may differ from call to call


def is_about_sweeps(setting: str) -> bool:
    """Whether a typed setting is about several runs, and no part of any of them."""
    return setting.lstrip("+").partition("=")[0].partition(".")[0] in _OWN


def run_sweep(settings: Sequence[str], *, command: Sequence[str], config_dir: Path | None) -> int:
    """Begin a sweep or go on with one; the exit code: 0 only if every run finished or was stopped.

    Raises UserError before anything is written if a run's config is wrong.
    """
    if Ranks().size > 1:
        raise UserError(
            "-m starts a process for each run, and torchrun starts the ranks of one; type it for "
            "each, such as\n  for s in 0 1 2; do torchrun ... -m tinygpt.train seed=$s; done"
        )
    own = [text.lstrip("+") for text in settings if is_about_sweeps(text)]
    of_runs = [text for text in settings if not is_about_sweeps(text)]
    folder, sweep_cfg, space, launcher = _opened(own, of_runs, command, config_dir)
    try:
        stopping = sweep_cfg.stopping.build()
        search = sweep_cfg.search.build(space, folder=folder.path)
        scheduler = Scheduler(
            folder,
            search,
            stopping,
            launcher,
            retry_failed=sweep_cfg.retry_failed,
            config_dir=config_dir,
        )
        return scheduler.run()
    finally:
        folder.close()


def _opened(
    own: list[str], of_runs: list[str], command: Sequence[str], config_dir: Path | None
) -> tuple[SweepFolder, SweepConfig, list[Any], Launcher]:
    """The folder, new or found, with all runs that are known; and what is to be done with it."""
    which = [text.partition("=")[2] for text in own if text.startswith("sweep=")]
    with compose.hydra_conf():
        bundles = choices.groups("sweep", config_dir)["sweep"]
    named = which[-1] if which and which[-1] not in (*bundles, "null", "new") else None
    begin_anew = which[-1:] == ["new"]
    own = [t for t in own if not (t.startswith("sweep=") and (named or begin_anew))]
    outputs = Path(_value(of_runs, "output_dir") or "outputs").expanduser()
    if named:
        try:
            path = find_sweep(named, output_dir=outputs)
        except UserError as error:
            listed = ", ".join([*bundles, "latest", "new"])
            raise UserError(f"{error}\n  choices: {listed}") from None
        typed_before = config.read(path / "sweep.yaml").get("settings", [])
        own = overrides.layered([t for t in typed_before if is_about_sweeps(t)], own)
        more = bool(of_runs)
        of_runs = overrides.layered([t for t in typed_before if not is_about_sweeps(t)], of_runs)
    cfg: SweepConfig = compose.compose("sweep", own, config_dir=config_dir)
    space = overrides.space(of_runs, config_dir=config_dir)
    question = [t for t in own if t.partition("=")[0].partition(".")[0] not in _NOT_THE_QUESTION]
    typed = [*of_runs, *question]
    if not named and not begin_anew:
        found = same_command(outputs, typed, {"sweep": config.to_dict(cfg)})
        if found:
            named, path, more = str(found), found, False
    if named:
        folder = SweepFolder(path)
        launcher = cfg.launcher.build(folder=path, devices={r.cfg.device.type for r in folder.runs})
        if more:
            _add_new(folder, cfg, space, launcher, config_dir)
            folder.remember(settings=typed, swept=_swept(space), sweep=config.to_dict(cfg))
        return folder, cfg, space, launcher
    path = outputs / f"{new_run_id()}_sweep"
    jobs = cfg.search.build(space, folder=path).planned()
    configs = compose.compose_all("train", jobs, config_dir=config_dir)
    _check_stopping(cfg, configs, space)
    devices = {c.device.type for c in configs} or {"auto"}
    launcher = cfg.launcher.build(folder=path, devices=devices)
    jobs_frozen = [frozen(job, c, launcher) for job, c in zip(jobs, configs, strict=True)]
    folder = SweepFolder.create(
        path,
        command=["python", "-m", "tinygpt.train", *command],
        settings=typed,
        swept=_swept(space),
        cfg=cfg,
        jobs=jobs_frozen,
    )
    return folder, cfg, space, launcher


def _value(settings: Sequence[str], key: str) -> str | None:
    """What was typed for a field, the last time."""
    found = [text.partition("=")[2] for text in settings if text.lstrip("+").startswith(f"{key}=")]
    return found[-1] if found else None


def _swept(space: Sequence[Any]) -> list[str]:
    """The fields that have several values in the sweep."""
    return [override.key_or_group for override in space if override.is_sweep_override()]


def _add_new(
    folder: SweepFolder,
    cfg: SweepConfig,
    space: list[Any],
    launcher: Launcher,
    config_dir: Path | None,
) -> None:
    """Freeze the combinations that the sweep has not had yet."""
    jobs = cfg.search.build(space, folder=folder.path).planned()
    known_jobs = [run.overrides for run in folder.runs]
    known = {run.hash for run in folder.runs}
    new = [job for job in jobs if job not in known_jobs]
    configs = compose.compose_all("train", new, config_dir=config_dir)
    _check_stopping(cfg, [*(run.cfg for run in folder.runs), *configs], space)
    added = 0
    for job, run_cfg in zip(new, configs, strict=True):
        complete, complete_cfg = frozen(job, run_cfg, launcher)
        if config_hash(complete_cfg) not in known:
            folder.add(complete, complete_cfg)
            added += 1
    console.say(f"{added} new runs; {len(jobs) - added} are in the sweep already")


def _check_stopping(cfg: SweepConfig, configs: Sequence[RunConfig], space: Sequence[Any]) -> None:
    """Raise UserError if a stopping rule could not compare these runs at equal steps."""
    if cfg.stopping.build() is None:
        return
    if any(c.trainer.planned_steps is None for c in configs):
        raise UserError(
            f"stopping={cfg.stopping.name} judges runs at steps that are known before they begin; "
            "give them a length by trainer.max_steps= or trainer.max_tokens="
        )
    lengths = {(c.trainer.tokens_per_step, c.trainer.planned_steps) for c in configs}
    searched = [key for key in _swept(space) if key in _LENGTHS]
    if len(lengths) > 1 or (searched and not configs):
        raise UserError(
            f"stopping={cfg.stopping.name} compares runs at equal steps, and these differ in "
            f"{' and '.join(searched) or 'their lengths'}; type one value, or stopping=none"
        )


def frozen(job: Sequence[str], cfg: RunConfig, launcher: Launcher) -> tuple[list[str], RunConfig]:
    """The job with the number of its threads, on which the last bits of its result depend."""
    if launcher.threads is None or cfg.device.threads is not None or cfg.device.type == "mps":
        return list(job), cfg
    device = replace(cfg.device, threads=launcher.threads)
    return [*job, f"device.threads={launcher.threads}"], replace(cfg, device=device)


class Scheduler:
    """Keeps every slot busy until no run is left that may go on."""

    def __init__(
        self,
        folder: SweepFolder,
        search: Search,
        stopping: Stopping | None,
        launcher: Launcher,
        *,
        retry_failed: bool,
        config_dir: Path | None,
    ) -> None:
        self.folder = folder
        self.search = search
        self.stopping = stopping
        self.launcher = launcher
        self.config_dir = config_dir
        self.running: dict[Path, SweepRun] = {}
        self.held: dict[Path, SweepRun] = {}  # by a process that an earlier call has left
        self.exhausted = False  # whether the search has no more to suggest
        self.signal: str | None = None
        self.view = SweepView(folder.path, folder.content["swept"], launcher)
        self.waiting = [run for run in folder.runs if self._may_begin(run, retry_failed)]

    def _may_begin(self, run: SweepRun, retry_failed: bool) -> bool:
        if run.is_held():
            self.held[run.path] = run
            return False
        if run.status == "running":  # its process died without a word
            run.write(status="interrupted", error="its process was killed")
        return run.status not in (*ENDED, "paused") or (retry_failed and run.status == "failed")

    def run(self) -> int:
        """Work through the sweep; the exit code."""
        self._greet()
        with self.signals_handled(), self.view:
            while True:
                self._collect()
                if not self.signal:
                    self._fill()
                self.view.show(self.folder.runs)
                if not self.running and not self.held and (self.signal or not self._more()):
                    break
                time.sleep(POLL_S)
        return self._conclude()

    def _greet(self) -> None:
        runs, path = self.folder.runs, self.folder.path
        ended = sum(run.status in ENDED for run in runs)
        begun = any(run.status != "queued" for run in runs)
        if begun:
            console.say(f"going on with {path}: {ended} of {len(runs)} runs have ended")
            if ended == len(runs):
                console.say("to begin the same sweep once more, add sweep=new to the command")
            before, now = self.folder.content.get("git"), source_state()
            if before and now and before["commit"] != now["commit"]:
                console.warn(
                    f"the sweep began with commit {before['commit'][:7]}, and this is "
                    f"{now['commit'][:7]}; if that changes results, its runs are not comparable"
                )
        else:
            console.say(f"sweep {path}: {len(runs)} runs, {self.launcher.slots} at once")

    def _collect(self) -> None:
        """Take note of what has ended, and how far the others are."""
        for path, death in self.launcher.ended().items():
            run = self.running.pop(path)
            if run.is_held():  # a cluster's job is over before its process is
                self.held[path] = run
                continue
            run.refresh()
            if run.status == "interrupted" and self.launcher.requeues and not self.signal:
                self.waiting.append(run)
            elif run.status == "running" and self.signal:  # one that had not begun stays queued
                run.write(status="interrupted", error=self.signal)
            elif run.status in ("running", "queued") and not self.signal:
                error = death or f"its process ended; its last words are in {path}/process.log"
                run.write(status="failed", error=error)
            self.view.ended(run)
        for path, run in list(self.held.items()):
            if not run.is_held():
                del self.held[path]
                run.refresh()
                self.view.ended(run)
                if run.status not in (*ENDED, "paused") and not self.signal:
                    self.waiting.append(run)
        for run in (*self.running.values(), *self.held.values()):
            run.refresh()

    def _fill(self) -> None:
        """Give each free slot the run that it is best spent on."""
        while len(self.running) < self.launcher.slots:
            run = self._next()
            if run is None:
                return
            until = self._pause(run)
            words = [f"resume={run.path}", *([f"until={until}"] if until else [])]
            self.launcher.start(run.path, [sys.executable, "-m", "tinygpt.train", *words])
            self.running[run.path] = run
            self.view.started(run)

    def _next(self) -> SweepRun | None:
        """The run that a free slot is best spent on; None while there is none."""
        if self.stopping:
            known = self._all_known()
            for number, reason in self.stopping.dropped(self._trials(), all_known=known).items():
                run = self._numbered(number)
                run.write(status="stopped", error=reason)
                self.view.ended(run)
            for number in self.stopping.promoted(self._trials(), all_known=known):
                return self._numbered(number)
        if self.waiting:
            return self.waiting.pop(0)
        if not self.exhausted:
            suggested = self.search.suggest(self._trials())
            if suggested is not None:
                cfg = compose.compose("train", suggested, config_dir=self.config_dir)
                return self.folder.add(*frozen(suggested, cfg, self.launcher))
            self.exhausted = True
            return self._next()
        return None

    def _trials(self) -> list[Trial]:
        """All runs; one that was started counts as running before it says so itself."""
        return [
            replace(run.trial, status="running") if run.path in self.running else run.trial
            for run in self.folder.runs
        ]

    def _all_known(self) -> bool:
        """Whether no trial is to come."""
        return self.exhausted and not self.waiting

    def _more(self) -> bool:
        """Whether a run could still be started, now that none is running."""
        if not self._all_known():
            return True
        trials, rule = self._trials(), self.stopping
        return rule is not None and bool(
            rule.promoted(trials, all_known=True) or rule.dropped(trials, all_known=True)
        )

    def _numbered(self, number: int) -> SweepRun:
        return next(run for run in self.folder.runs if run.number == number)

    def _pause(self, run: SweepRun) -> int | None:
        """The step at which the run pauses next: the first rung that it has not been judged at."""
        if self.stopping is None:
            return None
        assert run.max_steps is not None
        if run.status != "paused" and "pause_at" in run.record:  # it was killed on the way there
            unfinished: int | None = run.record["pause_at"]
            return unfinished
        behind = max(run.values, default=0)
        rungs = self.stopping.rungs(run.max_steps, every=run.cfg.trainer.eval_every or 1)
        return next((rung for rung in rungs if rung > behind), None)

    @contextmanager
    def signals_handled(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the runs save and end; a second one ends them at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number).name
            self.launcher.stop()

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _conclude(self) -> int:
        """Say how it went; the exit code."""
        runs, path = self.folder.runs, self.folder.path
        self.view.conclude(runs)
        if self.signal:
            again = shlex.quote(f"sweep={path}")
            console.say(
                f"{self.signal}: interrupted; go on with\n  python -m tinygpt.train -m {again}"
            )
            return 130 if self.signal == "SIGINT" else 143
        failed = [str(run.number) for run in runs if run.status == "failed"]
        if failed:
            again = shlex.join([f"sweep={path}", "retry_failed=true"])
            console.warn(
                f"failed: {', '.join(failed)}; to try them again type\n"
                f"  python -m tinygpt.train -m {again}"
            )
        console.say(f"compare them with\n  python -m tinygpt.compare {shlex.quote(str(path))}")
        good = all(run.status in ("finished", "stopped") for run in runs)
        return 0 if good else 1
