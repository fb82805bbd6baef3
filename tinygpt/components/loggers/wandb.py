"""Weights & Biases: a mirror of the run folder, never a condition for the run.

A failure (no network, no key, a lost server) costs seconds and a warning. Data that was not sent
stays in the run folder; `python -m tinygpt.upload` sends it later.
"""

import logging
import os
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from ssl import SSLError
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from tinygpt.errors import UserError, check_choice, check_range, masked
from tinygpt.interfaces import Logger, LoggerConfig, Metrics, RunInfo
from tinygpt.registry import register

if TYPE_CHECKING:
    import wandb

MODES = ("online", "offline", "disabled")
# 130 is a shell's exit code for Ctrl-C; a paused run has done what was asked
EXIT_CODES = {"finished": 0, "paused": 0, "failed": 1, "interrupted": 130}
FLUSH_S = 1.0  # an offline run that is killed loses the rows of this time; wandb's own value is 15

_log = logging.getLogger(__name__)


@register("logger")
@dataclass
class WandbConfig(LoggerConfig):
    """Project and mode; the API key comes from `wandb login` or WANDB_API_KEY."""

    name: str = "wandb"
    project: str = "tinygpt"
    entity: str | None = None  # user or team; null: the owner of your API key
    mode: str = "online"  # online falls back to offline; offline keeps all in the run folder
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    checkpoint: bool = False  # send the best checkpoint as an artifact when the run has finished
    timeout_s: float = 10.0  # longest wait for the server, at the start and at the end

    def __post_init__(self) -> None:
        check_choice("logger.wandb.mode", self.mode, MODES)
        check_range("logger.wandb.timeout_s", self.timeout_s, above=0)
        if not 1 <= len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            raise UserError(
                f"logger.wandb.project={self.project} must have 1 to 128 characters, "
                "none of them / \\ # ? % or :"
            )
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise UserError(f"logger.wandb.tags: {tag!r} must have 1 to 64 characters")

    def check(self) -> None:
        server = os.environ.get("WANDB_BASE_URL", "")
        if self.mode != "disabled" and masked(server) != server:
            raise UserError(
                f"WANDB_BASE_URL={server} has a password in it, which wandb writes to its "
                "logs; set the URL without it, and WANDB_API_KEY"
            )

    def build(self) -> Logger:
        return WandbLogger(self)


class WandbLogger(Logger):
    """One W&B run for each run; a failing network costs a warning, never the run."""

    def __init__(self, cfg: WandbConfig) -> None:
        self.cfg = cfg
        self._run: wandb.Run | None = None
        self._folder = Path()
        self._later = ""  # the command that sends the remaining data later
        self._warned: set[str] = set()

    def start(self, run: RunInfo) -> None:
        if self.cfg.mode == "disabled":
            return
        self._folder = run.folder
        # before importing wandb, whose crash reports look up a host name even offline
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with self._harmless("start"):
            obstacle = None
            if self.cfg.mode == "online":
                obstacle = self._go_online(run)
            if self._run is None:
                self._run = self._init(run, "offline")
            if not self._run.offline:
                self._close_gap(run.rows)
            self._later = f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"
            if run.resumed_at:  # that file has only the later steps
                self._later = f"python -m tinygpt.upload {shlex.quote(f'run={run.folder}')}"
            if obstacle:
                _log.warning(
                    "wandb: %s; going on as with logger.wandb.mode=offline; send the run later: %s",
                    obstacle,
                    self._later,
                )
            else:
                where = f"send the run later: {self._later}" if self._run.offline else self._run.url
                _log.info("wandb: %s", where)

    def log(self, step: int, metrics: Metrics) -> None:
        if self._run is not None:
            with self._harmless("log a row"):
                self._run.log(dict(metrics), step=step)

    def _close_gap(self, rows: Sequence[Metrics]) -> None:
        """Send the rows that a killed run had logged but not sent."""
        assert self._run is not None
        begin = (
            self._run.starting_step if self._run.resumed else 0
        )  # the server has the earlier rows
        for row in rows:
            if row["step"] >= begin:
                content = {key: value for key, value in row.items() if key != "step"}
                self._run.log(content, step=int(row["step"]))

    def samples(self, step: int, texts: Sequence[str]) -> None:
        if self._run is not None:
            import wandb

            with self._harmless("log samples"):
                table = wandb.Table(columns=["step", "text"], data=[[step, t] for t in texts])
                self._run.log({"samples": table}, step=step)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        run, self._run = self._run, None
        if run is not None:
            with self._harmless("write the summary"):
                run.summary.update(dict(summary))
            if self.cfg.checkpoint and status == "finished":
                with self._harmless("send the checkpoint"):
                    self._send_checkpoint(run, summary)
            with self._harmless("finish"):
                run.finish(exit_code=EXIT_CODES[status])

    def _send_checkpoint(self, run: "wandb.Run", summary: Mapping[str, Any]) -> None:
        """The best checkpoint as an artifact of type model, with its score beside it."""
        import wandb

        step = summary["best_step"]
        metadata = {"step": step, "val/bpb": summary.get("best_val_bpb")}
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
        artifact.add_dir(str(self._folder / "checkpoints" / f"step-{step:08d}"))
        run.log_artifact(artifact)

    def upload(
        self,
        run: RunInfo,
        rows: Sequence[Metrics],
        samples: Mapping[int, str],
        *,
        status: str,
        summary: Mapping[str, Any],
        started_s: float,
    ) -> int:
        """Send an ended run from its folder; returns the number of rows that were new to W&B.

        `started_s` is the moment of its beginning, in seconds since 1970. Raises UserError if W&B
        cannot be reached.
        """
        import wandb

        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        url = wandb.setup().settings.base_url
        if obstacle := unreachable(url, timeout_s=self.cfg.timeout_s):
            raise UserError(f"wandb: {obstacle}")
        try:
            sent = self._init(run, "online", x_start_time=started_s)
        except Exception as error:
            wandb.teardown()
            raise UserError(f"wandb: {_first_line(error)}") from None
        begin = sent.starting_step if sent.resumed else 0  # W&B has the earlier rows
        new = [row for row in rows if row["step"] >= begin]
        for row in new:
            step = int(row["step"])
            content: dict[str, Any] = {key: row[key] for key in row if key != "step"}
            content["_timestamp"] = started_s + row.get("elapsed_s", 0.0)
            if step in samples:
                content["samples"] = wandb.Table(["step", "text"], data=[[step, samples[step]]])
            sent.log(content, step=step)
        sent.summary.update(dict(summary))
        try:
            sent.finish(exit_code=EXIT_CODES[status])
        except Exception as error:
            raise UserError(f"wandb: {_first_line(error)}; upload it once more") from None
        return len(new)

    def _go_online(self, run: RunInfo) -> str | None:
        """Start an online run; returns the reason if that fails."""
        import wandb

        obstacle = unreachable(wandb.setup().settings.base_url, timeout_s=self.cfg.timeout_s)
        if obstacle is None:
            try:
                self._run = self._init(run, "online")
            except Exception as error:
                obstacle = _first_line(error)
                wandb.teardown()  # otherwise a run that failed to start keeps its id reserved
        return obstacle

    def _init(
        self, run: RunInfo, mode: Literal["online", "offline"], **more_settings: Any
    ) -> "wandb.Run":
        import wandb

        settings: dict[str, Any] = more_settings | {
            "init_timeout": self.cfg.timeout_s,
            "finish_timeout": self.cfg.timeout_s,
            "console": "off",  # the folder has train.log, and a captured terminal loses its bar
            "silent": True,  # messages go through our log, and so to train.log too
            "finish_timeout_raises": True,
            "save_code": False,
            "x_transaction_log_flush_interval": FLUSH_S,
        }
        known = wandb.Settings.model_fields  # older versions lack the flush interval
        started = wandb.init(
            project=self.cfg.project,
            entity=self.cfg.entity,
            tags=list(dict.fromkeys([*(run.config.get("tags") or ()), *self.cfg.tags])),
            notes=self.cfg.notes or run.config.get("notes"),
            mode=mode,
            dir=run.folder,
            id=run.id,
            name=run.config.get("name") or run.id,
            group=run.group,
            job_type="train",
            config={**run.derived, **run.config},
            allow_val_change=True,  # a resumed run may have a longer horizon
            resume="allow",
            reinit="finish_previous",  # the jobs of a multirun share a process
            settings=wandb.Settings(**{k: v for k, v in settings.items() if k in known}),
        )
        started.define_metric("*", step_metric="tokens")  # the x axis of every chart
        return started

    @contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Turn an error into a warning, once for each `what`."""
        try:
            yield
        except Exception as error:
            if what not in self._warned:
                later = f"; send the rest later: {self._later}" if self._later else ""
                _log.warning("wandb could not %s: %s%s", what, _first_line(error), later)
            self._warned.add(what)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def unreachable(url: str, *, timeout_s: float) -> str | None:
    """Why the address does not answer in time; None if it does.

    wandb itself would go on trying: it cannot tell a slow network from none.
    """
    answers: SimpleQueue[str | None] = SimpleQueue()
    silent = f"{url} did not answer within {timeout_s:g} s"

    def probe() -> None:
        try:
            urlopen(url, timeout=timeout_s).close()
        except HTTPError:
            answers.put(None)  # a refusal is an answer too
        except Exception as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, SSLError):  # wandb has its own certificates
                answers.put(None)
            elif isinstance(reason, TimeoutError):
                answers.put(silent)
            else:
                answers.put(f"{url} is out of reach: {reason}")
        else:
            answers.put(None)

    # in a thread, because a DNS lookup has no timeout
    threading.Thread(target=probe, daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except Empty:
        return silent
