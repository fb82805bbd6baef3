"""A trained model as a model of EleutherAI's lm-evaluation-harness.

As a suite: `python -m tinygpt.evaluate run=RUN suite=tasks tasks.folder=FOLDER`.  With the
harness's own command and flags:

    python -m tinygpt.evaluation.harness run --model tinygpt --model_args run=RUN --tasks ...
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager

from tinygpt import console, registry
from tinygpt.errors import UserError, nearest
from tinygpt.evaluation.subject import Subject
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interfaces import Finding, Findings
from tinygpt.records.find import find_run, has_no_checkpoint

if TYPE_CHECKING:
    from tinygpt.evaluation.suites.tasks import TasksConfig

_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity")
_Z = 1.959963984540054  # of the standard normal distribution, two-sided 95 %


@register_model("tinygpt")
class HarnessModel(LM):  # type: ignore[misc]  # it comes without types
    """Scores and writes text for the harness; the text begins a document, as in training."""

    def __init__(
        self,
        run: str = "latest",
        checkpoint: str = "best",
        device: str = "auto",
        output_dir: str = "outputs",
        subject: Subject | None = None,
        **_: Any,  # batch_size and others that the harness passes to every model
    ) -> None:
        super().__init__()
        if subject is None:
            registry.import_all()
            path = find_run(
                run, field="run", output_dir=Path(output_dir), obstacle=has_no_checkpoint
            )
            # the harness's own default is cuda:0, whether there is one or not
            kind = device if device in ("cpu", "cuda", "mps") else "auto"
            subject = Subject(
                path, checkpoint=checkpoint, device=kind, say=console.say, warn=console.warn
            )
        self.subject = subject

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the likeliest.

        Of a context that does not fit the window, the newest tokens count.
        """
        tokenizer, seq_len = self.subject.tokenizer, self.subject.seq_len
        sequences, lengths = [], []
        for context, continuation in (request.args for request in requests):
            whole = tokenizer.encode(context + continuation)
            shared = min(len(tokenizer.encode(context)), len(whole) - 1)
            lengths.append(len(whole) - shared)
            sequences.append([tokenizer.eot_id, *whole][-(seq_len + 1) :])
        scores = self.subject.token_scores(sequences)
        return [
            (-float(nats[-length:].sum()), bool(likeliest[-length:].all()))
            for (nats, likeliest), length in zip(scores, lengths, strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability of each text as a document, in consecutive windows as in validation."""
        texts = [request.args[0] for request in requests]
        return [-float(nats.sum()) for nats in self.subject.text_nats(texts)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations, cut before the first stop string; greedy unless the task says else."""
        written = []
        for context, settings in (request.args for request in requests):
            sampling = SamplingConfig(
                temperature=float(settings.get("temperature") or 0.0),
                top_k=settings.get("top_k"),
                top_p=settings.get("top_p"),
                max_new_tokens=int(settings.get("max_gen_toks", 256)),
            )
            (ids,) = self.subject.generate([context], sampling)
            text = self.subject.tokenizer.decode(ids)
            until = settings.get("until") or []
            for stop in [until] if isinstance(until, str) else until:
                text = text.split(stop)[0] if stop else text
            written.append(text)
        return written


def measure(config: TasksConfig, subject: Subject) -> Findings:
    """The numbers of `suite=tasks`, named TASK/METRIC."""
    folder = Path(config.folder or "").expanduser().absolute()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = config.names or list(manager.all_tasks)
    for name in names:
        if name not in manager.all_tasks:
            match = nearest(name, manager.all_tasks)
            hint = f"did you mean {match}?" if match else f"it has {', '.join(manager.all_tasks)}"
            raise UserError(f"tasks.names=[{name}] is not a task in {config.folder}; {hint}")
    if not names:
        raise UserError(f"tasks.folder={config.folder} holds no task file")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = simple_evaluate(
        model=HarnessModel(subject=subject),
        tasks=names,
        task_manager=manager,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        bootstrap_iters=0,
    )
    numbers = {}
    for task, metrics in found["results"].items():
        n = int(found["n-samples"][task]["effective"])
        for key, value in metrics.items():
            metric, _, _ = key.partition(",")
            error = metrics.get(key.replace(metric, f"{metric}_stderr", 1))
            if isinstance(value, float) and not metric.endswith("_stderr"):
                numbers[f"{task}/{metric}"] = _finding(metric, value, error, n)
    return Findings(numbers)


def _finding(metric: str, value: float, error: Any, n: int) -> Finding:
    half = _Z * error if isinstance(error, float) else None
    better: Any = "lower" if metric in _LOWER_IS_BETTER else "higher"
    low, high = (None, None) if half is None else (value - half, value + half)
    return Finding(value, low, high, n, better)


def main(arguments: Sequence[str] | None = None) -> None:
    """The harness's own command, which then knows `--model tinygpt`."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    if arguments is not None:
        sys.argv[1:] = arguments
    cli_evaluate()


if __name__ == "__main__":
    main()
