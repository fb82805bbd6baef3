"""Makes run folders like those of training, without training."""

import json
from pathlib import Path
from typing import Any

from tinygpt.interfaces import Finding
from tinygpt.records import evaluations
from tinygpt.records.evaluations import Result

TEXT = {"documents": 10, "utf8_bytes": 5000, "text_sha256": "ab" * 32}


def make_run(
    path: Path,
    *,
    bpb: float | None = 1.5,
    seed: int = 0,
    status: str = "finished",
    config: dict[str, Any] | None = None,
    validation: dict[str, Any] | None = TEXT,
    tokens: int = 4000,
    rows: int = 5,
    exist_ok: bool = False,
    **run: Any,
) -> Path:
    """A folder with a run of `rows` rows whose losses fall."""
    path.mkdir(parents=True, exist_ok=exist_ok)
    content = {
        "model": {"name": "gpt", "n_layer": 2},
        "optimizer": {"name": "adamw", "lr": 0.001},
        "trainer": {"tokens_per_step": 100, "max_steps": 40},
        "seed": seed,
        "output_dir": str(path.parent),
    }
    for key, value in (config or {}).items():
        group, _, name = key.partition(".")
        content[group] = {**content.get(group, {}), name: value} if name else value
    derived = {"flops_per_token": 1000, "n_params": 500, "max_steps": 40}
    if validation is not None:
        derived["validation"] = validation
    record = {
        "id": f"{path.parent.name}-{path.name}" if path.name.isdecimal() else path.name,
        "group": path.parent.name if path.name.isdecimal() else None,
        "status": status,
        "error": None,
        "started_at": "2026-01-01T00:00:00+00:00",
        "config": content,
        "derived": derived,
    }
    (path / "run.json").write_text(json.dumps(record | run))
    lines = [
        {
            "step": step,
            "tokens": 100 * step,
            "elapsed_s": step / 10,
            "train/loss": 3 / step,
            **({"val/bpb": 3 / step} if step % 5 == 0 else {}),
        }
        for step in range(1, rows + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if bpb is not None:
        summary = {"val/bpb": bpb, "val/loss": bpb / 2, "tokens": tokens, "elapsed_s": 4.0}
        (path / "summary.json").write_text(json.dumps(summary | {"tokens_per_sec": 1000.0}))
    return path


def evaluated(
    run: Path,
    value: float,
    *,
    items: int = 200,
    name: str = "name",
    of_tokens: bool = False,
    made_by: dict[str, Any] | None = None,
) -> None:
    """Give a run a result of the suite `choices`, of which more is better."""
    result = Result(
        suite="choices",
        protocol={"settings": {"items": items}, "text_sha256": "ab" * 32},
        checkpoint="step-1",
        numbers={name: Finding(value, better="higher", of_tokens=of_tokens), "words": Finding(3.0)},
        examples={},
        notes=[],
        seconds=1.0,
        made_by=made_by or {},
    )
    evaluations.write(run / evaluations.FOLDER, result)
