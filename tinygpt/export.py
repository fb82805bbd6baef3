"""Export: the model of a run folder in the format of another tool."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from tinygpt import api, console, registry
from tinygpt.cli.arguments import field_values, parse_settings
from tinygpt.errors import UserError, as_typed, check_choice, check_path, visible
from tinygpt.interchange.export.settings import FORMATS, ExportConfig

_HELP = """\
python -m tinygpt.export run=outputs/RUN to=FORMAT [FIELD=VALUE ...]

Writes a trained model for another tool, and checks that the tool computes the same.

  python -m tinygpt.export run=latest to=hf         a folder for transformers, tokenizer included
  python -m tinygpt.export run=latest to=gguf       a file for llama.cpp, tokenizer included
  python -m tinygpt.export run=latest to=llama2c    files for run.c of llama2.c
  python -m tinygpt.export run=latest to=onnx       a file for onnxruntime, of any model

Fields
"""


@dataclass
class _Settings(ExportConfig):
    """What to export, and how."""

    run: str = "latest"  # a run folder; latest is the newest in output_dir
    checkpoint: str = "best"  # best has the lowest val/bpb; latest is the newest
    output_dir: str = "outputs"
    # your own modules that define the run's components, such as [my_sgd]
    components: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_path("run", self.run)
        check_path("output_dir", self.output_dir)
        check_choice("checkpoint", self.checkpoint, ("best", "latest"))


@console.command
def main(arguments: Sequence[str]) -> None:
    """The entry point."""
    if not arguments or {"-h", "--help"}.intersection(arguments):
        defaults = {f.name: f.default for f in fields(_Settings) if isinstance(f.default, str)}
        lines = [f"  {name}={as_typed(value)}" for name, value in defaults.items()]
        print("\n".join([_HELP + f"  to={'|'.join(FORMATS)}", *lines, "  out=", "  components="]))
        return
    console.log_to_console()
    console.printing_the_result()
    settings = parse(arguments)
    registry.import_components(settings.components)
    run = api.load(settings.run, checkpoint=settings.checkpoint, output_dir=settings.output_dir)
    done = run.export(settings.to, out=settings.out, dtype=settings.dtype, license=settings.license)
    print(visible(str(done)))


def parse(arguments: Sequence[str]) -> _Settings:
    """Parse the settings; raises UserError."""
    typed, _ = parse_settings("export", arguments, names=[f.name for f in fields(_Settings)])
    if "to" not in typed:
        raise UserError(f"type the format: {', '.join(f'to={name}' for name in FORMATS)}")
    return _Settings(**field_values(_Settings, {key: text for key, (text,) in typed.items()}))


if __name__ == "__main__":
    main()
