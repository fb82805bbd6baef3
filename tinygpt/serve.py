"""Serve: runs, comparisons, a playground and OpenAI's API, in a browser on this machine."""

import secrets
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from tinygpt import console, registry
from tinygpt.cli.arguments import field_values, output_folder, parse_settings
from tinygpt.errors import UserError, check_choice, check_path, check_range
from tinygpt.records.find import find_run, has_no_checkpoint

_HELP = """\
python -m tinygpt.serve [run=outputs/RUN] [FIELD=VALUE ...]

Shows all runs of outputs/ in a browser while they train, compares them, lets you try their models,
and answers OpenAI's API (/v1/completions). Needs the extra: pip install 'tinygpt[serve]'

  python -m tinygpt.serve
  python -m tinygpt.serve run=latest open=true
  python -m tinygpt.serve host=0.0.0.0 port=9000   # others may come in, with the printed link
  python -m tinygpt.serve ui=false                 # OpenAI's API alone

Fields
"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class ServeConfig:
    """What to serve, and where."""

    run: str | None = None  # loaded at once, and shown first; latest is the newest
    open: bool = False  # open the page in a browser
    host: str = "127.0.0.1"  # this machine only; 0.0.0.0 lets others in, with a token
    port: int = 8321
    device: str = "auto"  # auto, cpu, cuda or mps, for models
    ui: bool = True  # false serves OpenAI's API without the page
    output_dir: str = "outputs"
    cache_dir: str = "~/.cache/tinygpt"  # prepared tokens to show
    # your own modules that define the runs' components, such as [my_sgd]
    components: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_range("port", self.port, low=0, high=65535)
        check_choice("device", self.device, ("auto", "cpu", "cuda", "mps"))
        for name in ("output_dir", "cache_dir", "run"):
            check_path(name, getattr(self, name))


@console.command
def main(arguments: Sequence[str]) -> None:
    """The entry point; it ends with Ctrl-C."""
    if {"-h", "--help"}.intersection(arguments):
        from tinygpt.cli.help import field_lines

        print(_HELP + "\n".join(field_lines("  ", "", ServeConfig)))
        return
    console.log_to_console()
    settings = parse(arguments)
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise UserError(
            f"tinygpt.serve needs {error.name}; type\n  pip install 'tinygpt[serve]'"
        ) from None
    del starlette, uvicorn
    serve(settings)


def parse(arguments: Sequence[str]) -> ServeConfig:
    """Parse the settings; raises UserError."""
    names = [f.name for f in fields_of(ServeConfig)]
    typed, _ = parse_settings("serve", arguments, names=names)
    values: dict[str, Any] = {}
    if "output_dir" in typed:
        values["output_dir"] = str(output_folder(typed.pop("output_dir")))
    values |= field_values(ServeConfig, {key: text for key, (text,) in typed.items()})
    return ServeConfig(**values)


def serve(settings: ServeConfig) -> None:
    """Serve until a signal ends it."""
    from tinygpt.serving.app import create_app
    from tinygpt.serving.counters import Counters
    from tinygpt.serving.folders import Outputs
    from tinygpt.serving.models import Models
    from tinygpt.serving.server import Server, listen, run_server
    from tinygpt.serving.services import Services
    from tinygpt.serving.watching import Watcher

    registry.import_all()
    registry.import_components(settings.components)
    outputs = Outputs(Path(settings.output_dir).expanduser())
    shown = _shown(settings, outputs)
    token = None if settings.host in _LOOPBACK else secrets.token_urlsafe(24)
    socket = listen(settings.host, settings.port)
    port = socket.getsockname()[1]
    counters = Counters()
    services = Services(
        outputs=outputs,
        watcher=Watcher(outputs),
        counters=counters,
        models=Models(counters, device=settings.device),
        cache_dir=settings.cache_dir,
        components=settings.components,
        run=shown,
    )
    app = create_app(services, ui=settings.ui, host=settings.host, port=port, token=token)
    link = _link(settings.host, port, token)

    def on_start() -> None:
        console.say(f"serving {outputs.path}/ at {link}\nCtrl-C ends it")
        if settings.open and settings.ui:
            webbrowser.open(link)

    run_server(Server(app, on_start=on_start, on_end=services.close), socket)


def _shown(settings: ServeConfig, outputs: Any) -> str | None:
    if settings.run is None:
        return None
    path = find_run(settings.run, field="run", output_dir=outputs.path, obstacle=has_no_checkpoint)
    found: str | None = outputs.id_of(path)
    if found is None:
        raise UserError(
            f"run={settings.run} is not in output_dir={settings.output_dir}, the folder that is "
            f"served; type output_dir={path.parent} with it"
        )
    return found


def _link(host: str, port: int, token: str | None) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


if __name__ == "__main__":
    main()
