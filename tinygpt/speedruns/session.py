"""A session: the seeds of entries and of the reference, timed in turns on one machine.

A finished seed is kept in the session's folder, so the same command goes on after an interruption.
The folder belongs to the entries' content, the source code, and this start of the machine.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

import tinygpt
from tinygpt import console
from tinygpt.config.choices import CONF
from tinygpt.errors import UserError
from tinygpt.files import write_atomically
from tinygpt.records.read import read_run
from tinygpt.speedruns import rules, timing
from tinygpt.speedruns.entries import Entry
from tinygpt.speedruns.recount import Recount
from tinygpt.speedruns.tracks import Track

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of Linux: another one after each start
# a run of a step, before the first one is timed: libraries and text come from memory from then on,
# and the kernels are compiled
_WARM_UP = (
    *("model=nano", "model.n_layer=1", "tokenizer=byte", "trainer.max_steps=1"),
    *("trainer.micro_batch_size=1", "trainer.tokens_per_step=256", "workers=1"),
)


@dataclass(frozen=True)
class Timed:
    """A seed of an entry, measured and recounted."""

    seed: int
    wall_s: float
    peak_mem_bytes: int
    started_at: str  # ISO time
    loss: float  # in the track's unit, by the recount
    hardware: dict[str, Any]
    run: str  # its folder


class Session:
    """Runs each seed of each entry once; call `times` for the results."""

    def __init__(
        self,
        track: Track,
        entries: Sequence[Entry],
        *,
        text: Path | None,
        output_dir: Path,
    ) -> None:
        self.track, self.entries, self.text = track, list(entries), text
        identity = {
            "track": repr(track),
            "entries": [entry.sha256 for entry in entries],
            "source": _source_sha256(),
            "machine": [platform.node(), os.cpu_count(), _boot_id()],
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        names = "-".join(entry.name for entry in entries)[:60]
        self.folder = (output_dir / "speedruns" / track.name / f"{names}-{key}").absolute()
        self._is_warm = False

    def check(self) -> None:
        """Compose and check the config of each entry; raises UserError before anything is timed."""
        for entry in self._others_first():
            rules.check_config(entry, self.track, self._configs[entry.name], self.text)

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        """The whole config of each entry, as another process composes it: its code stays there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return {entry.name: self._config(entry) for entry in self._others_first()}

    def _config(self, entry: Entry) -> dict[str, Any]:
        try:
            printed = timing.printed(
                timing.command("train", [*self._settings(entry), "-c", "job"]),
                cwd=self.folder,
                env=self._environments[entry.name],
                of=str(entry.path),
            )
        except UserError as error:
            if any(text.startswith("experiment=") for text in entry.settings):
                raise UserError(
                    f"{error}\n  an entry cannot choose the dataset: if its experiment= is of "
                    "another one, write the other settings of the experiment into the entry"
                ) from None
            raise
        return dict(yaml.safe_load(printed))

    def _others_first(self) -> list[Entry]:
        """The entries, the reference last: it has been checked before."""
        return sorted(self.entries, key=lambda entry: entry.is_reference)

    @cached_property
    def _environments(self) -> dict[str, dict[str, str]]:
        """The environment of each entry's processes.

        They import copies of the files that the entry lists, and nothing that lies beside them.
        """
        found = {}
        for entry in self.entries:
            folder = self.folder / entry.name / "components"
            shutil.rmtree(folder, ignore_errors=True)
            for name in entry.components:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(entry.path.parent / name, folder)
            found[entry.name] = timing.environment([folder] if entry.components else [])
        return found

    def _settings(self, entry: Entry) -> list[str]:
        modules = [f"components=[{','.join(entry.modules)}]"] if entry.modules else []
        return [*entry.settings, *self.track.settings(self.text), *modules]

    def times(self, seeds: Sequence[int]) -> dict[str, list[Timed]]:
        """The results of each entry by name, one for each seed, entries taking turns.

        Raises UserError for the first run that fails or breaks a rule. Only the reference may miss
        the target.
        """
        found: dict[str, list[Timed]] = {entry.name: [] for entry in self.entries}
        try:
            lock = FileLock(self.folder / ".lock").acquire(blocking=False)
        except Timeout:
            raise UserError(f"{self.folder} is in use by another speedrun; wait for it") from None
        with lock:
            for seed in seeds:
                for entry in self.entries:
                    timed = self._seed(entry, seed)
                    if not entry.is_reference:
                        rules.check_target(_about(entry, seed), self.track, timed.loss)
                    found[entry.name].append(timed)
        return found

    def _seed(self, entry: Entry, seed: int) -> Timed:
        folder = self.folder / entry.name / f"seed-{seed}"
        result = folder / "result.json"
        about = _about(entry, seed)
        if result.is_file():
            content = json.loads(result.read_text(encoding="utf-8"))
            again = " (measured before)"
        else:
            self._warm_up()
            content = self._measured(entry, seed, folder)
            write_atomically(result, json.dumps(content, indent=2))
            again = ""
        recount = Recount(**content["recount"])
        run = read_run(Path(content["run"]))
        rules.check_run(about, entry, self.track, self._configs[entry.name], run, recount)
        loss = self.track.loss(
            recount.bits_per_byte, characters=recount.characters, utf8_bytes=recount.utf8_bytes
        )
        console.say(f"{about}: {content['wall_s']:.1f} s, {loss:.4f} {self.track.unit}{again}")
        device_peak = (run.metric("peak_mem_bytes") or 0) * (
            run.derived["hardware"]["device"] != "cpu"
        )
        return Timed(
            seed=seed,
            wall_s=content["wall_s"],
            peak_mem_bytes=int(device_peak or content["peak_rss_bytes"]),
            started_at=content["started_at"],
            loss=loss,
            hardware=run.derived["hardware"],
            run=content["run"],
        )

    def _measured(self, entry: Entry, seed: int, folder: Path) -> dict[str, Any]:
        """Run a seed, and recount it; raises UserError if either process fails."""
        about = _about(entry, seed)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
        folder.mkdir(parents=True)
        cache = folder / "cache"
        settings = [f"seed={seed}", f"output_dir={folder / 'runs'}", f"cache_dir={cache}"]
        env, log = self._environments[entry.name], folder / "process.log"
        console.say(f"{about}: training")
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        measured = timing.timed(
            timing.command("train", [*self._settings(entry), *settings]),
            cwd=folder,
            env=env,
            output=log,
        )
        if measured.code:
            output = log.read_text(encoding="utf-8", errors="replace")
            raise timing.failed(about, output, measured.code)
        (run,) = (path.parent for path in (folder / "runs").glob("*/run.json"))
        recounted = timing.printed(
            timing.command("speedruns.recount", [str(run), *entry.modules]),
            cwd=folder,
            env=env,
            of=f"{about}: the recount",
        )
        shutil.rmtree(cache)
        return {
            "wall_s": measured.wall_s,
            "peak_rss_bytes": measured.peak_rss_bytes,
            "started_at": started_at,
            "run": str(run),
            "recount": json.loads(recounted.splitlines()[-1]),
        }

    def _warm_up(self) -> None:
        """Run a step on the track's text, untimed, once in this process."""
        if self._is_warm:
            return
        self._is_warm = True
        console.say("warming up: libraries, kernels and text are read once before the clock starts")
        folder = self.folder / "warm_up"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        own = [f"output_dir={folder}", f"cache_dir={folder / 'cache'}", "trainer.eval_bytes=1000"]
        timing.printed(
            timing.command("train", [*self.track.settings(self.text), *_WARM_UP, *own]),
            cwd=folder,
            env=timing.environment(),
            of="warming up",
        )
        shutil.rmtree(folder)


def _about(entry: Entry, seed: int) -> str:
    return f"{entry.name} seed={seed}"


def _source_sha256() -> str:
    """The sha256 of the source code and the choices in conf/."""
    digest = hashlib.sha256()
    for folder in (Path(tinygpt.__file__).resolve().parent, CONF):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".c", ".h", ".yaml"):
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.is_file() else ""
