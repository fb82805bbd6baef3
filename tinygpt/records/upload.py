"""Send a run to W&B from its folder."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime

from tinygpt.components.loggers.wandb import WandbConfig, WandbLogger
from tinygpt.config import convert
from tinygpt.config.overrides import parse
from tinygpt.errors import UserError
from tinygpt.interfaces import RunInfo
from tinygpt.records.evaluations import as_metrics
from tinygpt.records.read import RunRecord

OVER = ("finished", "failed", "interrupted", "stopped", "dead", "paused")


def wandb_config(run: RunRecord, options: Mapping[str, str]) -> WandbConfig:
    """The W&B logger's config: the run's own, overridden by the typed options."""
    known = {field.name for field in fields(WandbConfig)} - {"name", "mode"}
    had = (run.config.get("logger") or {}).get("wandb") or {}
    values = {key: value for key, value in had.items() if key in known}
    for key, text in options.items():
        (override,) = parse([f"{key}={text}"])
        values[key] = convert(WandbConfig, key, override.value(), field_name=key)
    return WandbConfig(**values)


def send(run: RunRecord, cfg: WandbConfig) -> str:
    """Send one run; returns a line that says how many rows were new.

    Raises UserError if the run has not ended, or if W&B cannot be reached.
    """
    if run.status not in OVER:
        raise UserError(f"it is {run.status}; a run is sent when it is over")
    info = RunInfo(
        folder=run.path,
        id=run.id,
        group=run.group,
        config=run.config,
        derived=run.derived,
        resumed_at=None,
    )
    samples = {
        int(path.stem.rpartition("-")[2]): path.read_text("utf-8", errors="replace")
        for path in (run.path / "samples").glob("step-*.txt")
    }
    ended = {"finished": "finished", "stopped": "finished", "failed": "failed"}
    new = WandbLogger(cfg).upload(
        info,
        run.rows,
        samples,
        status=ended.get(run.status, "interrupted"),
        summary={**run.summary, "status": run.status, **_evaluations(run)},
        started_s=datetime.fromisoformat(run.started_at).timestamp(),
    )
    evaluations = f", and the evaluations {', '.join(run.evaluations)}" if run.evaluations else ""
    return f"{new} of {len(run.rows)} rows were new and are sent{evaluations}"


def _evaluations(run: RunRecord) -> dict[str, float | str]:
    """The numbers of `tinygpt.evaluate`, and the checkpoint that each suite measured."""
    found: dict[str, float | str] = {}
    for suite, result in run.evaluations.items():
        found |= {f"evaluation/{suite}/checkpoint": result.checkpoint, **as_metrics(result)}
    return found
