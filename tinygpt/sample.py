"""Sample: continue prompts with the model of a run folder, on any device."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt import console, registry
from tinygpt.cli.arguments import field_values, parse_settings
from tinygpt.errors import UserError, check_choice, check_path, check_range, visible
from tinygpt.generation.engine import Engine, Event, open_engine, samples
from tinygpt.generation.interactive import interact
from tinygpt.generation.prompt_file import read_prompts
from tinygpt.generation.records import record_line
from tinygpt.generation.sample_file import appending
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.generation.view import (
    ColourView,
    InOrder,
    Progress,
    RowView,
    Speed,
    TextView,
    View,
    has_colours,
    legend,
)
from tinygpt.hardware.loading import importing_torch
from tinygpt.records.find import find_run, has_no_checkpoint

if TYPE_CHECKING:
    from tinygpt.training.trained import Trained

# names of fields in other trainers, and ours
PEERS_NAMES = {
    **{"out_dir": "run", "start": "prompt", "n": "num_samples", "max_tokens": "max_new_tokens"},
    **{"file": "prompt_file", "typical": "typical_p", "repeat_penalty": "repetition_penalty"},
}
REPEATABLE = ("prompt", "stop")
_HELP = """\
python -m tinygpt.sample run=outputs/RUN [prompt=TEXT ...] [FIELD=VALUE ...]

Generates text with a trained model. For several prompts, type prompt=A prompt=B.

  python -m tinygpt.sample run=latest prompt="Once upon a time" temperature=0.8 top_k=50
  python -m tinygpt.sample run=outputs/RUN prompt="Tom said" num_samples=3 seed=1
  python -m tinygpt.sample run=latest interactive=true
  python -m tinygpt.sample run=latest prompt_file=prompts.txt out=samples.jsonl
  python -m tinygpt.sample run=latest prompt="Once" show=logprobs

Fields
"""


@dataclass
class SampleConfig(SamplingConfig):
    """Which run to sample from, and how."""

    run: str = "latest"  # a run folder; latest is the newest in output_dir
    prompt: list[str] = field(default_factory=list)  # without one, a new document begins
    # a file with a prompt on each line; in FILE.jsonl, a JSON text or {"prompt": TEXT}
    prompt_file: str | None = None
    num_samples: int = 1  # texts for each prompt
    interactive: bool = False  # read prompts from the keyboard, until Ctrl-D
    # text, or logprobs: how surprising each token is, in colours on a terminal, else in rows
    show: str = "text"
    # also the log-probability of each token and of this many likeliest ones: in out, or in rows
    logprobs: int | None = None
    # write the samples into this new file as JSON lines, and print none; after an interruption the
    # same command goes on
    out: str | None = None
    # fp32, bf16 or int8 of weights that compiled kernels read; auto leaves it to the model
    weights: str = "auto"
    checkpoint: str = "best"  # best has the lowest val/bpb; latest is the newest
    ema: bool = False  # use the averaged weights, of a run with trainer.ema
    device: str = "auto"  # auto, cpu, cuda or mps; may differ from the training device
    output_dir: str = "outputs"
    # your own modules that define the run's components, such as [my_sgd]
    components: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_used()
        check_range("num_samples", self.num_samples, low=1, high=1_000_000)
        check_range("logprobs", self.logprobs, low=0)
        check_path("run", self.run)
        check_path("output_dir", self.output_dir)
        for name in ("prompt_file", "out"):
            check_path(name, getattr(self, name))
        check_choice("show", self.show, ("text", "logprobs"))
        check_choice("weights", self.weights, ("auto", "fp32", "bf16", "int8"))
        check_choice("checkpoint", self.checkpoint, ("best", "latest"))
        check_choice("device", self.device, ("auto", "cpu", "cuda", "mps"))
        self._check_together()

    def _check_together(self) -> None:
        if self.prompt and self.prompt_file:
            raise UserError(
                "prompt= and prompt_file= both say what to continue; type one of them, or write "
                "the prompt into the file"
            )
        typed = {
            "prompt": bool(self.prompt),
            "prompt_file": self.prompt_file is not None,
            "num_samples": self.num_samples > 1,
            "out": self.out is not None,
        }
        for name in (name for name, is_typed in typed.items() if self.interactive and is_typed):
            raise UserError(
                f"{name}= has no use with interactive=true, which reads prompts from the keyboard "
                "and prints a text for each; leave out one of the two"
            )
        if self.temperature == 0 and self.num_samples > 1:
            raise UserError(
                f"num_samples={self.num_samples} texts are all the same at temperature=0; leave "
                "out one of the two"
            )
        if self.out is not None and self.show != "text":
            raise UserError(
                "out= writes the samples and shows none, so show=logprobs has no use; type "
                "logprobs=0 for the log-probabilities in the file"
            )
        if self.logprobs is not None and self.out is None and self.show == "text":
            raise UserError(
                f"logprobs={self.logprobs} is neither shown nor written; type show=logprobs or "
                "out=FILE with it"
            )


@console.command
def main(arguments: Sequence[str]) -> None:
    """The entry point."""
    if any(argument in ("-h", "--help") for argument in arguments):
        from tinygpt.cli.help import field_lines

        print(_HELP + "\n".join(field_lines("  ", "", SampleConfig)))
        return
    console.log_to_console()
    console.printing_the_result()
    write(parse(arguments))


def parse(arguments: Sequence[str]) -> SampleConfig:
    """Parse the settings; everything after the first `=` is the value, even commas and quotes.

    Raises UserError.
    """
    typed, _ = parse_settings(
        "sample",
        arguments,
        names=[f.name for f in fields(SampleConfig)],
        repeatable=REPEATABLE,
        may_be_empty=("prompt",),
        peers_names=PEERS_NAMES,
    )
    values: dict[str, Any] = {name: typed.pop(name) for name in REPEATABLE if name in typed}
    for (text,) in [typed.pop("logit_bias")] if "logit_bias" in typed else []:
        values["logit_bias"] = _biases(text)
    values |= field_values(SampleConfig, {key: text for key, (text,) in typed.items()})
    return SampleConfig(**values)


def _biases(text: str) -> dict[int, float]:
    """The biases in `13:-100,42:5`, by token."""
    biases: dict[int, float] = {}
    for part in text.strip().removeprefix("{").removesuffix("}").split(","):
        token, _, bias = part.partition(":")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise UserError(
                f"logit_bias={text}: {part.strip()!r} is not TOKEN:BIAS; type such as "
                "logit_bias=13:-100,42:5, with ids of tokens"
            ) from None
    return biases


def write(settings: SampleConfig) -> None:
    """Generate the samples and print them as they are written, or write them to a file."""
    out = None if settings.out is None else _new_file(settings.out)
    prompts = settings.prompt or [""]
    if settings.prompt_file is not None:
        prompts = read_prompts(Path(settings.prompt_file).expanduser(), field="prompt_file")
    registry.import_all()
    registry.import_components(settings.components)
    outputs = Path(settings.output_dir).expanduser()
    run = find_run(settings.run, field="run", output_dir=outputs, obstacle=has_no_checkpoint)

    with importing_torch():  # only once a run is found
        from tinygpt.training.trained import load_trained

    trained = load_trained(
        run,
        checkpoint=settings.checkpoint,
        ema=settings.ema,
        device=settings.device,
        warn=console.warn,
    )
    settings.check_vocabulary(trained.tokenizer.vocab_size)
    n_samples = len(prompts) * settings.num_samples
    engine = open_engine(
        trained.model,
        trained.tokenizer,
        seq_len=trained.cfg.trainer.seq_len,
        n_sequences=1 if settings.interactive else n_samples,
        weights=settings.weights,
    )
    print(f"{run}, {trained.checkpoint.name}, on {trained.device}", file=sys.stderr)
    if settings.weights in ("bf16", "int8"):
        _state_rounding(engine, settings, trained)
    if settings.interactive:
        interact(engine, _view(settings, trained), settings, logprobs=_logprobs(settings))
    elif out is None:
        _print_samples(engine, prompts, settings, trained)
    else:
        _write_samples(engine, prompts, settings, trained, out)


def _state_rounding(engine: Engine, settings: SampleConfig, trained: "Trained") -> None:
    """Print what rounding the weights costs, measured once for a checkpoint."""
    from tinygpt.evaluation.rounding import rounding_of

    found = rounding_of(trained, engine.decoder, weights=settings.weights, ema=settings.ema)
    if found is None:
        run = trained.checkpoint.parent.parent
        print(
            f"weights={settings.weights}: the cost in bits per byte is not known, because the "
            "run's prepared tokens are gone; to make them again type\n"
            f"  python -m tinygpt.prepare {shlex.quote(f'config_file={run}/config.yaml')}",
            file=sys.stderr,
        )
    else:
        print(found, file=sys.stderr)


def _new_file(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists():
        raise UserError(f"out={text} exists, and samples are not mixed; type another name")
    if not path.parent.is_dir():
        raise UserError(f"out={text}: there is no folder {path.parent}; make it, or type another")
    return path


def _logprobs(settings: SampleConfig) -> int | None:
    return settings.logprobs or 0 if settings.show == "logprobs" else settings.logprobs


def _view(settings: SampleConfig, trained: "Trained") -> View:
    if settings.show == "text":
        return TextView()
    if settings.logprobs or not has_colours(sys.stdout):
        return RowView(trained.tokenizer)
    print(legend(), file=sys.stderr)
    return ColourView()


def _encoded(
    prompts: Sequence[str], settings: SampleConfig, trained: "Trained"
) -> Iterator[list[int]]:
    for prompt in prompts:
        ids = trained.tokenizer.encode(prompt)
        yield from (ids for _ in range(settings.num_samples))


def _print_samples(
    engine: Engine, prompts: Sequence[str], settings: SampleConfig, trained: "Trained"
) -> None:
    speed = Speed()
    repeated = (prompt for prompt in prompts for _ in range(settings.num_samples))
    show = InOrder(_view(settings, trained), repeated)

    def on_event(index: int, event: Event) -> None:
        speed.add(event)
        show(index, event)

    made = samples(
        *(engine, _encoded(prompts, settings, trained)),
        config=settings,
        logprobs=_logprobs(settings),
        on_event=on_event,
    )
    for _ in made:
        pass
    print(speed, file=sys.stderr)


def _write_samples(
    engine: Engine,
    prompts: Sequence[str],
    settings: SampleConfig,
    trained: "Trained",
    out: Path,
) -> None:
    n_samples = len(prompts) * settings.num_samples
    drawing = {f.name: getattr(settings, f.name) for f in fields(SamplingConfig)}
    provenance = {
        "settings": {**drawing, "weights": settings.weights, "logprobs": settings.logprobs},
        "run": str(trained.checkpoint.parent.parent),
        "checkpoint": trained.checkpoint.name,
    }
    places = _places(prompts, settings.num_samples)
    expected = ({"prompt": p, "sample": r, **provenance} for p, r in places)
    speed = Speed()
    with appending(out, expected) as file:
        shown = visible(str(file.partial))
        if file.n_kept:
            print(f"{_samples(file.n_kept)} in {shown} already; making the rest", file=sys.stderr)
        progress = Progress(n_samples, speed, n_done=file.n_kept)

        def on_event(index: int, event: Event) -> None:
            speed.add(event)
            progress.add(event)

        made = samples(
            *(engine, _encoded(prompts, settings, trained)),
            config=settings,
            skip=file.n_kept,
            logprobs=settings.logprobs,
            on_event=on_event,
        )
        try:
            for (prompt, repeat), sample in zip(places, made, strict=True):
                line = record_line(
                    sample,
                    prompt=prompt,
                    repeat=repeat,
                    has_logprobs=settings.logprobs is not None,
                    provenance=provenance,
                )
                file.add(line)
        except KeyboardInterrupt:
            if n := file.n_finished():
                rest = f"of {n_samples:,}; repeat the command to make the rest"
                print(f"{_samples(n)} in {shown}, {rest}", file=sys.stderr)
            raise
        finally:
            progress.close()
    print(f"{_samples(n_samples)} in {visible(str(out))}")
    print(speed, file=sys.stderr)


def _samples(n: int) -> str:
    return "1 sample is" if n == 1 else f"{n:,} samples are"


def _places(prompts: Sequence[str], num_samples: int) -> Iterator[tuple[str, int]]:
    """The prompt of each sample, and its number among the samples of that prompt."""
    repeats: Counter[str] = Counter()
    for prompt in prompts:
        for _ in range(num_samples):
            yield prompt, repeats[prompt]
            repeats[prompt] += 1


if __name__ == "__main__":
    main()
