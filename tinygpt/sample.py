"""Sample: continue prompts with the model of a run folder, on any device."""

import codecs
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tinygpt import config, console, registry
from tinygpt.cli.arguments import component_names, parse_settings
from tinygpt.errors import as_typed, check_choice, check_path, check_range, visible
from tinygpt.generation.sampling import SamplingConfig, generate
from tinygpt.records.find import find_run, has_no_checkpoint

# names of fields in other trainers, and ours
PEERS_NAMES = {"out_dir": "run", "start": "prompt"}
_HELP = """\
python -m tinygpt.sample run=outputs/RUN [prompt=TEXT ...] [FIELD=VALUE ...]

Generates text with a trained model. For several prompts, type prompt=A prompt=B.

  python -m tinygpt.sample run=latest prompt="Once upon a time" temperature=0.8 top_k=50
  python -m tinygpt.sample run=outputs/RUN prompt="Tom said" num_samples=3 seed=1

Fields
"""


@dataclass
class SampleConfig(SamplingConfig):
    """Which run to sample from, and how."""

    run: str = "latest"  # a run folder; latest is the newest in output_dir
    prompt: list[str] = field(default_factory=lambda: [""])  # "" starts a new document
    num_samples: int = 1  # texts for each prompt
    checkpoint: str = "best"  # best has the lowest val/bpb; latest is the newest
    device: str = "auto"  # auto, cpu, cuda or mps; may differ from the training device
    output_dir: str = "outputs"
    # your own modules that define the run's components, such as [my_rmsprop]
    components: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("num_samples", self.num_samples, low=1, high=1_000_000)
        check_path("run", self.run)
        check_path("output_dir", self.output_dir)
        check_choice("checkpoint", self.checkpoint, ("best", "latest"))
        check_choice("device", self.device, ("auto", "cpu", "cuda", "mps"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    console.guarded(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> None:
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_HELP + "\n".join(_field_lines()))
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
        repeatable=("prompt",),
        may_be_empty=("prompt",),
        peers_names=PEERS_NAMES,
    )
    values: dict[str, Any] = {"prompt": typed.pop("prompt")} if "prompt" in typed else {}
    for (text,) in [typed.pop("components")] if "components" in typed else []:
        values["components"] = component_names(f"components={text}")
    for key, (text,) in typed.items():
        value = None if text in ("null", "None") else text
        values[key] = config.convert(SampleConfig, key, value, field_name=key)
    return SampleConfig(**values)


def write(settings: SampleConfig) -> None:
    """Generate the samples and print each token at once."""
    registry.import_all()
    registry.import_components(settings.components)
    outputs = Path(settings.output_dir).expanduser()
    run = find_run(settings.run, field="run", output_dir=outputs, obstacle=has_no_checkpoint)

    from tinygpt.training.trained import load_trained  # imports torch, so only once a run is found

    trained = load_trained(
        run, checkpoint=settings.checkpoint, device=settings.device, warn=console.warn
    )
    tokenizer = trained.tokenizer
    prompts = [prompt for prompt in settings.prompt for _ in range(settings.num_samples)]
    writer = _Writer(prompts, tokenizer.decode_bytes)
    print(f"{run}, {trained.checkpoint.name}, on {trained.device}", file=sys.stderr)
    generate(
        trained.model,
        [tokenizer.encode(prompt) for prompt in prompts],
        config=settings,
        seq_len=trained.cfg.trainer.seq_len,
        eot_id=tokenizer.eot_id,
        on_token=writer.token,
    )
    writer.close()


class _Writer:
    """Prints samples as they are generated; a character appears once all its bytes are known.

    Control characters are shown as escapes.
    """

    def __init__(self, prompts: Sequence[str], decode_bytes: Any) -> None:
        self.prompts = prompts
        self.decode_bytes = decode_bytes
        self.sample = -1
        self.pending: list[int] = []  # tokens that have not yet decoded to a byte
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # "\r\n" becomes a newline, even if its two characters come from different tokens
        self.decoder = io.IncrementalNewlineDecoder(utf8, translate=True)

    def token(self, sample: int, token: int) -> None:
        """Print one more token of a sample."""
        while self.sample < sample:  # also skips samples that ended without a token
            self.next_sample()
        self.pending.append(token)
        if data := self.decode_bytes(self.pending):
            self.pending = []
            print(visible(self.decoder.decode(data)), end="", flush=True)

    def next_sample(self) -> None:
        """End the current sample and print the prompt of the next one."""
        if self.sample >= 0:
            self._end_sample()
        self.pending = []
        self.sample += 1
        prompt = visible(self.prompts[self.sample])
        print(f"\n--- sample {self.sample + 1}\n{prompt}", end="", flush=True)

    def close(self) -> None:
        """Print the prompts of samples that ended without a token, and end the last sample."""
        while self.sample < len(self.prompts) - 1:
            self.next_sample()
        self._end_sample()

    def _end_sample(self) -> None:
        print(visible(self.decoder.decode(b"", final=True)))
        self.decoder.reset()


def _field_lines() -> list[str]:
    defaults = SampleConfig(prompt=[])
    shown = {f.name: getattr(defaults, f.name) for f in fields(SampleConfig)}
    return [f"  {name}={as_typed(value) if value != [] else ''}" for name, value in shown.items()]


if __name__ == "__main__":
    main()
