"""Python API: train, load and find runs, score and generate text, rank runs.

Functions raise UserError with the same text that the command line prints.

    import tinygpt
    run = tinygpt.run(["model=nano", "dataset=storyworld", "trainer.max_steps=100"])
    print(run.summary["val/bpb"], run.generate("Once upon a time"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt import console, registry
from tinygpt.cli.arguments import import_components
from tinygpt.config import RunConfig, overrides
from tinygpt.errors import UserError, check_range, did_you_mean
from tinygpt.generation.engine import Event, Sample, TokenEvent, generate, open_engine
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interchange import starting
from tinygpt.records.find import find_run, find_runs, has_no_checkpoint
from tinygpt.records.folder import new_run_id
from tinygpt.records.read import RunRecord, read_run, read_runs
from tinygpt.records.saved_config import load_config

if TYPE_CHECKING:
    from torch import Tensor

    from tinygpt.comparison.statistics import Comparison
    from tinygpt.components.loggers.jsonl import Row
    from tinygpt.interchange.export.write import Export
    from tinygpt.interfaces import Tokenizer
    from tinygpt.language_model import LanguageModel
    from tinygpt.training.trained import Trained


@dataclass(frozen=True)
class Token:
    """A token of a scored text."""

    id: int
    text: str  # U+FFFD if the token is only part of a character
    logprob: float  # natural logarithm of the token's probability


class Run:
    """A run folder; the model is loaded on first use."""

    def __init__(
        self,
        path: Path,
        *,
        checkpoint: str = "best",
        ema: bool = False,
        device: str = "auto",
    ) -> None:
        self.path = path
        self._checkpoint, self._ema, self._device = checkpoint, ema, device

    def __repr__(self) -> str:
        bpb = self.summary.get("val/bpb")
        known = "" if bpb is None else f", val/bpb {bpb:.4f}"
        return f"<Run {self.path}: {self.status}{known}>"

    @cached_property
    def record(self) -> RunRecord:
        """The contents of the folder, as read by `tinygpt.runs` and `tinygpt.compare`."""
        return read_run(self.path)

    @property
    def status(self) -> str:
        """finished, running, paused, interrupted, failed, queued, dead or damaged."""
        return self.record.status

    @cached_property
    def config(self) -> RunConfig:
        """The complete config; raises UserError if it cannot be read."""
        registry.import_all()
        return load_config(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """Final numbers, such as "val/bpb"; empty until the run has finished."""
        return self.record.summary

    @property
    def metrics(self) -> list[Row]:
        """The logged rows in order, each with a "step"; for pandas: `DataFrame(run.metrics)`."""
        return self.record.rows

    @cached_property
    def _trained(self) -> Trained:
        from tinygpt.training.trained import load_trained

        registry.import_all()
        return load_trained(
            self.path,
            checkpoint=self._checkpoint,
            ema=self._ema,
            device=self._device,
            warn=console.warn,
        )

    @property
    def model(self) -> LanguageModel:
        """The trained model in evaluation mode: `model(tokens (B, T)) -> logits (B, T, V)`."""
        return self._trained.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return self._trained.tokenizer

    def logits(self, text: str) -> Tensor:
        """Float32 logits (T, V) for the end-of-text token and the text's tokens, T - 1 of them.

        Row t predicts the token after token t, so row 0 predicts the first token of the text.
        Raises UserError for a text longer than the context window.
        """
        import torch

        seq_len = self._trained.cfg.trainer.seq_len
        ids = [self.tokenizer.eot_id, *self.tokenizer.encode(text)]
        if len(ids) > seq_len:
            raise UserError(
                f"the text has {len(ids) - 1} tokens, and logits takes at most {seq_len - 1}, "
                f"one less than trainer.seq_len={seq_len}; pass a shorter text, or use logprobs"
            )
        with torch.no_grad():
            logits: Tensor = self.model(torch.tensor([ids], device=self._trained.device))
        return logits[0].float()

    def logprobs(self, text: str) -> list[Token]:
        """Every token of the text with its log-probability; the text is scored as one document.

        A text longer than the context window is split into consecutive windows of trainer.seq_len
        tokens, as in validation.
        """
        import numpy as np
        import torch

        from tinygpt.training.batches import eval_batches

        tokenizer, trained = self.tokenizer, self._trained
        ids = tokenizer.encode(text)
        nats: list[float] = []
        windows = eval_batches(
            np.array([tokenizer.eot_id, *ids]), seq_len=trained.cfg.trainer.seq_len, batch_size=1
        )
        with torch.no_grad():
            for window in windows:
                tokens = torch.from_numpy(window).to(trained.device)
                scores = self.model(tokens[:, :-1]).float().log_softmax(-1)
                nats += scores.gather(-1, tokens[:, 1:, None]).flatten().tolist()
        return [Token(i, tokenizer.decode([i]), p) for i, p in zip(ids, nats, strict=True)]

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        num_samples: int = 1,
        on_text: Callable[[int, str], None] | None = None,
        weights: str = "auto",
        **sampling: Any,
    ) -> list[str]:
        """Generate `num_samples` continuations of each prompt; returns them without the prompt.

        `sampling` takes the fields of SamplingConfig, such as temperature, top_k and seed.
        `on_text(index, text so far)` is called after each token. `weights` is auto, fp32, bf16 or
        int8, as in the sample command.
        """
        so_far: dict[int, str] = {}

        def on_event(index: int, event: Event) -> None:
            so_far[index] = so_far.get(index, "") + event.text
            if on_text and (event.text or isinstance(event, TokenEvent)):
                on_text(index, so_far[index])

        made = self._samples(
            prompt, num_samples=num_samples, on_event=on_event, weights=weights, sampling=sampling
        )
        return [sample.text for sample in made]

    def samples(
        self,
        prompt: str | Sequence[str] = "",
        *,
        num_samples: int = 1,
        logprobs: int | None = None,
        weights: str = "auto",
        **sampling: Any,
    ) -> list[Sample]:
        """As `generate`, but with tokens and the reason for the end of each text.

        `logprobs` adds the log-probability of each token and of that many likeliest ones.
        """
        check_range("logprobs", logprobs, low=0)
        return self._samples(
            prompt, num_samples=num_samples, logprobs=logprobs, weights=weights, sampling=sampling
        )

    def stream(
        self,
        prompt: str = "",
        *,
        logprobs: int | None = None,
        weights: str = "auto",
        **sampling: Any,
    ) -> Iterator[Event]:
        """Generate one continuation; yields a TokenEvent for each token, then a FinishedEvent."""
        config, trained = _sampling_config(sampling), self._trained
        engine = open_engine(
            trained.model,
            trained.tokenizer,
            seq_len=trained.cfg.trainer.seq_len,
            n_sequences=1,
            weights=weights,
        )
        engine.submit(trained.tokenizer.encode(prompt), config, logprobs=logprobs)
        return engine.events()

    def score(
        self, prompt: str, continuations: Sequence[str], *, weights: str = "fp32"
    ) -> list[float]:
        """Nats of each continuation after the prompt: minus the log of its probability.

        Prompt and continuation are encoded separately. See `tinygpt.generation.scoring.score`.
        """
        from tinygpt.generation.scoring import score

        trained, encode = self._trained, self.tokenizer.encode
        engine = open_engine(
            trained.model,
            trained.tokenizer,
            seq_len=trained.cfg.trainer.seq_len,
            n_sequences=max(1, len(continuations)),
            weights=weights,
        )
        ids = [encode(text) for text in continuations]
        return score(engine.decoder, encode(prompt), ids, eot_id=self.tokenizer.eot_id)

    def _samples(
        self,
        prompt: str | Sequence[str],
        *,
        num_samples: int,
        weights: str,
        sampling: Mapping[str, Any],
        logprobs: int | None = None,
        on_event: Callable[[int, Event], None] | None = None,
    ) -> list[Sample]:
        config = _sampling_config(sampling)
        check_range("num_samples", num_samples, low=1)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        encoded = [self.tokenizer.encode(text) for text in prompts]
        return generate(
            self.model,
            self.tokenizer,
            [ids for ids in encoded for _ in range(num_samples)],
            config=config,
            seq_len=self._trained.cfg.trainer.seq_len,
            logprobs=logprobs,
            weights=weights,
            on_event=on_event,
        )

    def export(
        self,
        to: str,
        *,
        out: str | Path | None = None,
        dtype: str = "fp32",
        license: str = "unknown",
    ) -> Export:
        """Write the model for another tool, like `python -m tinygpt.export`, and check it there.

        `to` is hf, gguf, llama2c or onnx; `out` a folder, by default exports/FORMAT in the run's;
        `dtype` fp32 or fp16. Print the result to see what was checked. Raises UserError for a
        model that the format cannot hold.
        """
        from tinygpt.interchange.export.settings import ExportConfig

        settings = ExportConfig(to, None if out is None else str(out), dtype, license)
        from tinygpt.interchange.export.source import Source
        from tinygpt.interchange.export.write import export
        from tinygpt.training.trained import load_weights

        registry.import_all()
        trained = load_weights(self.path, checkpoint=self._checkpoint, warn=console.warn)
        best = self._checkpoint == "best"
        source = Source(
            run=self.path,
            checkpoint=trained.checkpoint.name,
            cfg=trained.cfg,
            model=trained.model.eval(),
            tokenizer=trained.tokenizer,
            prompts=tuple((self.record.run.get("data") or {}).get("prompts") or ()),
            bpb=self.summary.get("best_val_bpb" if best else "val/bpb"),
            dtype=dtype,
            license=license,
        )
        folder = Path(settings.out).expanduser() if settings.out else self.path / "exports" / to
        return export(source, to=to, out=folder)


def _sampling_config(sampling: Mapping[str, Any]) -> SamplingConfig:
    names = [f.name for f in fields(SamplingConfig)]
    for name in sampling:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"{name} is not a field of sampling{hint}\n  fields: {names}")
    config = SamplingConfig(**sampling)
    config.check_used()
    return config


class Ranking:
    """A comparison as tables: print it, or display it in a notebook."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __str__(self) -> str:
        from tinygpt.comparison import tables

        return tables.markdown(self.comparison)

    _repr_markdown_ = __str__

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each configuration; for pandas: `DataFrame(ranking.rows)`."""
        from tinygpt.comparison import tables

        content = tables.to_dict(self.comparison)
        return [
            {
                "protocol": table["protocol"],
                "rank": group["rank"],
                **group["values"],
                "seeds": len(group["metrics"]["val/bpb"]["values"]),
                **{name: of["mean"] for name, of in group["metrics"].items()},
                "half_width_95": group["metrics"]["val/bpb"]["half_width_95"],
                "difference": group["difference"],
                "p_value": group["p_value"],
                "words": group["words"],
            }
            for table in content["tables"]
            for group in table["configurations"]
        ]


def load(
    run: str | Path = "latest",
    *,
    checkpoint: str = "best",
    ema: bool = False,
    device: str = "auto",
    output_dir: str | Path = "outputs",
) -> Run:
    """Open a run folder; "latest" is the newest one in `output_dir`.

    `checkpoint` is "best" (lowest val/bpb) or "latest"; `ema` uses the averaged weights of a
    run with trainer.ema; `device` auto, cpu, cuda or mps.
    Raises UserError if there is no such run.
    """
    outputs = Path(output_dir).expanduser()
    path = find_run(str(run), field="run", output_dir=outputs, obstacle=has_no_checkpoint)
    return Run(path, checkpoint=checkpoint, ema=ema, device=device)


def find(
    *patterns: str | Path, status: str | None = None, output_dir: str | Path = "outputs"
) -> Iterator[Run]:
    """Iterate over the runs that patterns match, such as find("outputs", status="finished").

    A pattern is a run, a sweep, a folder of them, or a glob; without one, all runs of `output_dir`.
    Raises UserError for a pattern that matches no run.
    """
    names = [str(pattern) for pattern in patterns or (output_dir,)]
    paths = find_runs(names, output_dir=Path(output_dir).expanduser())
    for record in read_runs(paths):
        if status is None or record.status == status:
            run = Run(record.path)
            run.record = record
            yield run


def rank(runs: Iterable[Run], *, baseline: Run | None = None) -> Ranking:
    """Compare runs like `python -m tinygpt.compare`; the best configuration comes first.

    Raises UserError if the baseline has not finished.
    """
    from tinygpt.comparison.statistics import compare

    records = [run.record for run in runs]
    measure = None
    if baseline is not None:
        measure = next((r for r in records if r.path == baseline.path), baseline.record)
        if measure not in records:
            records.append(measure)
    return Ranking(compare(records, baseline=measure))


def run(settings: Sequence[str], *, quiet: bool = False) -> Run:
    """Train one run in this process and return it, finished or paused.

    `settings` are those of `python -m tinygpt.train`, including `resume=RUN` but not sweeps (use
    `-m` on the command line). `quiet` prints no progress; train.log still has it. Raises UserError
    for bad settings or a failed run, and KeyboardInterrupt for an interrupted run, which is saved.
    """
    from tinygpt.training import launch
    from tinygpt.training.start import RunStart

    for text in settings:
        if text.startswith("-") or "=" not in text:
            raise UserError(f"{text!r} is not a setting; pass settings as key=value, without flags")
    import_components(settings)
    if any(text.startswith("resume=") for text in settings):
        job = launch.resumed(settings)
    else:
        (typed,) = overrides.jobs(settings, multirun=False)
        cfg = starting.compose_run(typed)
        name = new_run_id()
        start = RunStart(cfg, Path(cfg.output_dir).expanduser() / name)
        job = launch.Job(start, typed, run_id=name)
    path = job.start.path
    with ExitStack() as stack:
        if quiet:
            stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        code = launch.launch(job)
    if code:
        record = json.loads((path / "run.json").read_bytes())
        if record["status"] == "interrupted":
            raise KeyboardInterrupt(f"{record['error']}; go on with resume={path}")
        raise UserError(f"{record['error']}\n  run folder: {path}")
    return Run(path)
