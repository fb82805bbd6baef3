"""Runs as tasks of a Ray cluster; all machines must see the sweep's folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Launcher, LauncherConfig
from tinygpt.registry import register
from tinygpt.sweeps.launchers.local import how_it_died
from tinygpt.sweeps.launchers.processes import check_gpus, run_command


@register("launcher")
@dataclass
class RayConfig(LauncherConfig):
    """Which cluster, and the resources of a run."""

    name: str = "ray"
    address: str | None = None  # auto joins the running cluster; null starts one on this machine
    cpus: int = 1  # cores and threads of a run
    gpus: int = 0  # of a run; a run uses one

    def __post_init__(self) -> None:
        check_range("launcher.cpus", self.cpus, low=1)
        check_range("launcher.gpus", self.gpus, low=0, high=1)

    def build(self, *, folder: Path, devices: Collection[str]) -> RayLauncher:
        check_gpus(self.gpus, devices)
        return RayLauncher(self)


class RayLauncher(Launcher):
    """A task for each run; as many at once as the cluster has resources for."""

    def __init__(self, cfg: RayConfig) -> None:
        try:
            import ray as ray_library
        except ImportError:
            raise UserError('launcher=ray needs Ray; type pip install "tinygpt[ray]"') from None
        ray: Any = ray_library  # its type stubs lack functions with keyword arguments
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=cfg.address,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level="error",
                include_dashboard=False if cfg.address is None else None,
            )
        except (ConnectionError, ValueError) as error:
            raise UserError(
                f"launcher.address={cfg.address}: {str(error).splitlines()[0]}; start a cluster "
                "with `ray start --head`, or leave the address out"
            ) from None
        self.threads = None if cfg.gpus else cfg.cpus
        room = ray.cluster_resources()
        self.slots = int(room.get("CPU", 0) // cfg.cpus)
        if cfg.gpus:
            self.slots = min(self.slots, int(room.get("GPU", 0) // cfg.gpus))
        if not self.slots:
            raise UserError(
                f"the cluster has {room.get('CPU', 0):g} CPUs and {room.get('GPU', 0):g} GPUs, and "
                f"a run asks for launcher.cpus={cfg.cpus} launcher.gpus={cfg.gpus}"
            )
        remote = ray.remote(num_cpus=cfg.cpus, num_gpus=cfg.gpus, max_retries=0)
        self._task = remote(run_command)
        self._runs: dict[Path, Any] = {}
        self._stopping = False

    def start(self, run: Path, command: Sequence[str]) -> None:
        log = run.absolute() / "process.log"
        self._runs[run] = self._task.remote(
            list(command), log, cwd=Path.cwd(), threads=self.threads
        )

    def ended(self) -> dict[Path, str | None]:
        import ray

        waiting = {reference: run for run, reference in self._runs.items()}
        if not waiting:
            return {}
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return {waiting[r]: self._how_it_ended(self._runs.pop(waiting[r])) for r in ready}

    def _how_it_ended(self, reference: Any) -> str | None:
        import ray

        try:
            return how_it_died(ray.get(reference))
        except ray.exceptions.RayError as error:
            return f"its task ended: {str(error).strip().splitlines()[0][:200]}"

    def stop(self) -> None:
        import ray

        for reference in self._runs.values():
            ray.cancel(reference, force=self._stopping)
        self._stopping = True
