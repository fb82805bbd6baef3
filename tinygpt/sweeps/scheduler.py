"""Sweeps: each run in a process of its own, stopped early if a rule says so, and resumable."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinygpt import config, console, registry, signals
from tinygpt.config import RunConfig, SweepConfig, choices, compose, overrides
from tinygpt.errors import UserError
from tinygpt.hardware.ranks import Ranks
from tinygpt.interchange import starting
from tinygpt.interfaces import Launcher, Search, Stopping, Trial
from tinygpt.records.folder import new_run_id, source_state
from tinygpt.sweeps.folder import (
    ENDED,
    PlannedRun,
    SweepFolder,
    SweepRun,
    config_hash,
    find_sweep,
    same_command,
)
from tinygpt.sweeps.space import with_axes
from tinygpt.sweeps.view import SweepView

POLL_S = 0.1
_OWN = (*registry.SWEEP_KINDS, "sweep", "objective", "retry_failed")
# fields that change how far a run is at a given step
_LENGTHS = (
    *("trainer.tokens_per_step", "trainer.first_tokens_per_step", "trainer.tokens_warmup_ratio"),
    *("trainer.max_steps", "trainer.max_tokens"),
)
_NOT_THE_QUESTION = ("launcher", "retry_failed")  # may differ from call to call


def is_about_sweeps(setting: str) -> bool:
    """Whether a setting is about the sweep and not part of a run's config."""
    return setting.lstrip("+").partition("=")[0].partition(".")[0] in _OWN


def run_sweep(settings: Sequence[str], *, command: Sequence[str], config_dir: Path | None) -> int:
    """Begin a sweep or go on with one; returns 0 only if every run finished or was stopped.

    Raises UserError before anything is written if a run's config is wrong.
    """
    if Ranks().size > 1:
        raise UserError(
            "-m starts a process for each run, and torchrun starts the ranks of one; type it for "
            "each, such as\n  for s in 0 1 2; do torchrun ... -m tinygpt.train seed=$s; done"
        )
    sweep = open_sweep(settings, command=command, config_dir=config_dir)
    try:
        scheduler = Scheduler(
            sweep.folder,
            sweep.cfg.search.build(sweep.space, folder=sweep.folder.path),
            sweep.cfg.stopping.build(),
            sweep.launcher,
            retry_failed=sweep.cfg.retry_failed,
            config_dir=config_dir,
        )
        return scheduler.run()
    finally:
        sweep.folder.close()


@dataclass(frozen=True)
class OpenSweep:
    """A sweep before its runs are started: the folder is held until it is closed."""

    folder: SweepFolder
    cfg: SweepConfig
    space: list[Any]  # Hydra's overrides, those with several values among them
    launcher: Launcher


def open_sweep(
    settings: Sequence[str], *, command: Sequence[str], config_dir: Path | None
) -> OpenSweep:
    """A new sweep, or the one that `sweep=` names, or the one that the same settings began.

    Raises UserError before anything is written if a run's config is wrong.
    """
    own = [text.lstrip("+") for text in settings if is_about_sweeps(text)]
    of_runs = [text for text in settings if not is_about_sweeps(text)]
    which, _ = overrides.split_off("sweep", own)
    bundles = choices.groups("sweep", config_dir)["sweep"]
    named = which[-1] if which and which[-1] not in (*bundles, "null", "new") else None
    begin_anew = which[-1:] == ["new"]
    own = [t for t in own if not (t.startswith("sweep=") and (named or begin_anew))]
    typed_outputs, _ = overrides.split_off("output_dir", of_runs)
    outputs = Path(*typed_outputs[-1:] or ["outputs"]).expanduser()
    if named:
        try:
            path = find_sweep(named, output_dir=outputs)
        except UserError as error:
            listed = ", ".join([*bundles, "latest", "new"])
            raise UserError(f"{error}\n  choices: {listed}") from None
        return _reopened(path, own, of_runs, config_dir)
    cfg: SweepConfig = compose.compose("sweep", own, config_dir=config_dir)
    of_runs = with_axes(cfg, of_runs)
    frozen_settings = [*of_runs, *_question(own)]
    if not begin_anew and (found := same_command(outputs, frozen_settings, config.to_dict(cfg))):
        return _reopened(found, own, [], config_dir)
    space = overrides.space(of_runs, config_dir=config_dir)
    path = outputs / f"{new_run_id()}_sweep"
    jobs = cfg.search.build(space, folder=path).planned()
    configs = starting.compose_runs(jobs, config_dir=config_dir)
    _check_comparable(cfg, configs, space)
    devices = {c.device.type for c in configs} or {"auto"}
    launcher = cfg.launcher.build(folder=path, devices=devices)
    runs = [frozen(job, c, launcher) for job, c in zip(jobs, configs, strict=True)]
    folder = SweepFolder.create(
        path,
        command=["python", "-m", "tinygpt.train", *command],
        settings=frozen_settings,
        swept=_swept(space),
        cfg=cfg,
        runs=_once_each(runs),
    )
    return OpenSweep(folder, cfg, space, launcher)


def _reopened(path: Path, own: list[str], of_runs: list[str], config_dir: Path | None) -> OpenSweep:
    """A sweep that goes on: what is typed now changes what was typed before."""
    folder = SweepFolder(path)
    try:
        before = folder.content["settings"]
        kept = (*registry.SWEEP_KINDS, "objective")
        saved = {key: value for key, value in folder.content["sweep"].items() if key in kept}
        own_before = overrides.of_config(saved, config_dir)
        cfg: SweepConfig = compose.compose(
            "sweep", overrides.layered(own_before, own), config_dir=config_dir
        )
        runs_before = [text for text in before if not is_about_sweeps(text)]
        all_of_runs = overrides.layered(runs_before, of_runs)
        space = overrides.space(all_of_runs, config_dir=config_dir)
        devices = {run.cfg.device.type for run in folder.runs} or {"auto"}
        launcher = cfg.launcher.build(folder=path, devices=devices)
        if any(not text.startswith("components=") for text in of_runs) or folder.lost:
            _add_new(folder, cfg, space, launcher, config_dir)
        question = overrides.layered([t for t in before if is_about_sweeps(t)], _question(own))
        folder.remember(cfg, settings=[*all_of_runs, *question], swept=_swept(space))
    except BaseException:
        folder.close()
        raise
    return OpenSweep(folder, cfg, space, launcher)


def _question(own: Sequence[str]) -> list[str]:
    """The settings of a sweep that say what it looks for, and not where its runs run."""
    return [t for t in own if t.partition("=")[0].partition(".")[0] not in _NOT_THE_QUESTION]


def _once_each(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs without those that an earlier one repeats, such as lr=1e-3 after lr=0.001."""
    once = {run.identity: run for run in reversed(runs)}
    kept = [run for run in runs if once[run.identity] is run]
    if len(kept) < len(runs):
        console.warn(f"{len(runs) - len(kept)} of {len(runs)} runs repeat another; each runs once")
    return kept


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
    typed_before = [run.typed for run in folder.runs]
    new = [job for job in jobs if job not in typed_before]
    configs = starting.compose_runs(new, config_dir=config_dir)
    # a run that leaves threads to the launcher was made already, with whatever threads
    known = {config_hash(run.cfg) for run in folder.runs}
    known |= {config_hash(run.cfg, with_threads=False) for run in folder.runs}
    added = 0
    for job, run_cfg in zip(new, configs, strict=True):
        run = frozen(job, run_cfg, launcher)
        if run.identity not in known:
            folder.add(run)
            known.add(run.identity)
            added += 1
    console.say(f"{added} new runs; {len(jobs) - added} are in the sweep already")


def _check_comparable(cfg: SweepConfig, configs: Sequence[RunConfig], space: Sequence[Any]) -> None:
    """Raise UserError if the runs lack the objective, or cannot be compared at equal steps."""
    if cfg.objective.endswith("_ema") and any(c.trainer.ema is None for c in configs):
        raise UserError(
            f"objective={cfg.objective} is of averaged weights, which these runs do not keep; type "
            "trainer.ema=0.999 too"
        )
    if cfg.stopping.build() is None:
        return
    if any(c.trainer.planned_steps is None for c in configs):
        raise UserError(
            f"stopping={cfg.stopping.name} judges runs at steps that are known before they begin; "
            "give them a length by trainer.max_steps= or trainer.max_tokens="
        )
    lengths = {c.trainer.planned_sizes for c in configs}
    searched = [key for key in _swept(space) if key in _LENGTHS]
    if len(lengths) > 1 or (searched and not configs):
        raise UserError(
            f"stopping={cfg.stopping.name} compares runs at equal steps, and these differ in "
            f"{' and '.join(searched) or 'their lengths'}; type one value, or stopping=none"
        )


def frozen(job: Sequence[str], cfg: RunConfig, launcher: Launcher) -> PlannedRun:
    """The run with its number of threads, which decides the last bits of its result."""
    if "__main__" in cfg.components:
        raise UserError(
            "a component of this sweep is defined in the script itself, which the processes of its "
            "runs cannot import; move it to a module, such as my_components.py, and import that"
        )
    if launcher.threads is None or cfg.device.threads is not None or cfg.device.type == "mps":
        return PlannedRun(list(job), cfg)
    device = replace(cfg.device, threads=launcher.threads)
    typed = [*job, f"device.threads={launcher.threads}"]
    return PlannedRun(typed, replace(cfg, device=device), threads_by_launcher=True)


class Scheduler:
    """Keeps every slot of the launcher busy until no run is left to start."""

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
        self.held: dict[Path, SweepRun] = {}  # by processes that an earlier call started
        self.exhausted = False  # whether the search has nothing more to suggest
        self.signal: str | None = None
        self.view = SweepView(folder.path, folder.content["swept"], launcher)
        self.waiting = [run for run in folder.runs if self._may_begin(run, retry_failed)]

    def _may_begin(self, run: SweepRun, retry_failed: bool) -> bool:
        if run.is_held():
            self.held[run.path] = run
            return False
        if run.status == "running":  # its process was killed
            run.write(status="interrupted", error="its process was killed")
        again = run.is_incomplete() or (retry_failed and run.status == "failed")
        return again or run.status not in (*ENDED, "paused")

    def run(self) -> int:
        """Run the sweep to its end; returns the exit code."""
        self._greet()
        with signals.handled(self._end_soon), self.view:
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
            console.say(
                f"going on with {path}: {ended} of {len(runs)} runs have ended, "
                f"{self.launcher.slots} at once"
            )
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
        """Record which runs have ended, and read how far the others are."""
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
        """Start a run in each free slot."""
        while len(self.running) < self.launcher.slots:
            run = self._next()
            if run is None:
                return
            until = self._pause(run)
            words = [f"resume={run.path}", *([f"until={until}"] if until else [])]
            # those that this process has imported: what a folder alone names is not passed on
            if here := set(run.cfg.components) - {*registry.not_imported(run.cfg.components)}:
                registry.let_processes_find(here)
                words.append(f"components=[{','.join(sorted(here))}]")
            try:
                self.launcher.start(run.path, [sys.executable, "-m", "tinygpt.train", *words])
            except OSError as error:
                run.damaged(error)
                continue
            self.running[run.path] = run
            self.view.started(run)

    def _next(self) -> SweepRun | None:
        """The run to start in a free slot; None while there is none."""
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
                cfg = starting.compose_run(suggested, config_dir=self.config_dir)
                return self.folder.add(frozen(suggested, cfg, self.launcher))
            self.exhausted = True
            return self._next()
        return None

    def _trials(self) -> list[Trial]:
        """All runs; a started one counts as running before its folder says so."""
        return [
            replace(run.trial, status="running") if run.path in self.running else run.trial
            for run in self.folder.runs
        ]

    def _all_known(self) -> bool:
        """Whether no further trial will be added."""
        return self.exhausted and not self.waiting

    def _more(self) -> bool:
        """Whether a run can still be started, now that none is running."""
        if not self._all_known():
            return True
        trials, rule = self._trials(), self.stopping
        return rule is not None and bool(
            rule.promoted(trials, all_known=True) or rule.dropped(trials, all_known=True)
        )

    def _numbered(self, number: int) -> SweepRun:
        return next(run for run in self.folder.runs if run.number == number)

    def _pause(self, run: SweepRun) -> int | None:
        """The step at which the run pauses next: the first rung at which it was not judged yet."""
        if self.stopping is None:
            return None
        assert run.max_steps is not None
        if run.status != "paused" and "pause_at" in run.record:  # killed before that step
            unfinished: int | None = run.record["pause_at"]
            return unfinished
        behind = max(run.values, default=0)
        rungs = self.stopping.rungs(run.max_steps, every=run.cfg.trainer.eval_every or 1)
        return next((rung for rung in rungs if rung > behind), None)

    def _end_soon(self, name: str) -> None:
        """Let the runs save and end because of this signal; a second signal kills them."""
        self.signal = name
        self.launcher.stop()

    def _conclude(self) -> int:
        """Print the result; returns the exit code."""
        runs, path = self.folder.runs, self.folder.path
        self.view.conclude(runs)
        if self.signal:
            again = shlex.quote(f"sweep={path}")
            console.say(
                f"{self.signal}: interrupted; go on with\n  python -m tinygpt.train -m {again}"
            )
            return signals.exit_code(self.signal)
        failed = [str(run.number) for run in runs if run.status == "failed"]
        if failed:
            again = shlex.join([f"sweep={path}", "retry_failed=true"])
            console.warn(
                f"failed: {', '.join(failed)}; to try them again type\n"
                f"  python -m tinygpt.train -m {again}"
            )
        console.say(f"compare them with\n  python -m tinygpt.compare {shlex.quote(str(path))}")
        # a damaged folder is named each time; its run was made again under another number
        return 0 if all(run.status in ("finished", "stopped") for run in runs) else 1
