"""Runs as SLURM jobs, through submitit; all machines must see the sweep's folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.errors import UserError, check_choice, check_range
from tinygpt.interfaces import Launcher, LauncherConfig
from tinygpt.registry import register
from tinygpt.sweeps.launchers.local import how_it_died
from tinygpt.sweeps.launchers.processes import check_gpus, run_command

if TYPE_CHECKING:
    import submitit

CLUSTERS = ("slurm", "local")


@register("launcher")
@dataclass
class SlurmConfig(LauncherConfig):
    """The resources of each run."""

    name: str = "slurm"
    jobs: int = 16  # the most jobs that are queued or running at once
    partition: str | None = None
    cpus: int = 1  # cores and threads of a run
    gpus: int = 0  # of a run; a run uses one
    memory_gb: int | None = None  # null leaves it to SLURM
    timeout_min: int = 720  # then the run saves and is requeued
    account: str | None = None
    cluster: str = "slurm"  # local: processes on this machine through submitit, to try a command

    def __post_init__(self) -> None:
        check_choice("launcher.cluster", self.cluster, CLUSTERS)
        for name in ("jobs", "cpus", "timeout_min"):
            check_range(f"launcher.{name}", getattr(self, name), low=1)
        check_range("launcher.gpus", self.gpus, low=0, high=1)
        check_range("launcher.memory_gb", self.memory_gb, low=1)

    def build(self, *, folder: Path, devices: Collection[str]) -> Slurm:
        check_gpus(self.gpus, devices)
        return Slurm(self, folder)


class Slurm(Launcher):
    """A job for each run; submitit's files are in the sweep's folder `submitit`."""

    requeues = True  # after a timeout or a preemption

    def __init__(self, cfg: SlurmConfig, folder: Path) -> None:
        try:
            import submitit  # noqa: F401  # to check that it is installed
        except ImportError:
            raise UserError(
                'launcher=slurm needs submitit; type pip install "tinygpt[slurm]"'
            ) from None
        if cfg.cluster == "slurm" and shutil.which("srun") is None:
            raise UserError(
                "launcher=slurm: there is no srun here; type it on a machine of the cluster, or "
                "launcher.cluster=local to try it here"
            )
        self.cfg = cfg
        self.slots = cfg.jobs
        self.threads = None if cfg.gpus else cfg.cpus
        self._folder = folder / "submitit"
        self._jobs: dict[Path, submitit.Job[int]] = {}

    @cached_property
    def _executor(self) -> submitit.AutoExecutor:
        """Created at first use, because it makes its folder."""
        import submitit

        cfg = self.cfg
        executor = submitit.AutoExecutor(self._folder, cluster=cfg.cluster)
        asked: dict[str, Any] = {
            "gpus_per_node": cfg.gpus or None,
            "mem_gb": cfg.memory_gb,
            "slurm_partition": cfg.partition,
            "slurm_account": cfg.account,
        }
        executor.update_parameters(
            name="tinygpt",
            timeout_min=cfg.timeout_min,
            cpus_per_task=cfg.cpus,
            **{key: value for key, value in asked.items() if value is not None},
        )
        return executor

    def start(self, run: Path, command: Sequence[str]) -> None:
        log = run.absolute() / "process.log"
        self._jobs[run] = self._executor.submit(
            run_command, list(command), log, cwd=Path.cwd(), threads=self.threads
        )

    def ended(self) -> dict[Path, str | None]:
        done = [run for run, job in self._jobs.items() if job.done()]
        return {run: _how_it_ended(self._jobs.pop(run)) for run in done}

    def stop(self) -> None:
        for job in self._jobs.values():
            if not job.done():
                job.cancel(check=False)


def _how_it_ended(job: submitit.Job[int]) -> str | None:
    error = job.exception()
    if error is None:
        return how_it_died(job.result())
    return f"job {job.job_id} ended: {str(error).strip().splitlines()[-1][:200]}"
