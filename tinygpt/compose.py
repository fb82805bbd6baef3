"""From what a user typed to checked configs: Hydra composes, each mistake gets one clear error."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from tinygpt import config, registry
from tinygpt.config import HORIZONS, PrepareConfig, RunConfig
from tinygpt.errors import UserError, nearest, not_a_choice

_PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
CONFIG_CLASSES = {"train": RunConfig, "prepare": PrepareConfig}
# Hydra 1.4 deprecates version_base; 1.3 changes the working directory without it
VERSION_BASE = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
# what a user of another trainer types first
PEERS_NAMES = {
    "encoding_type": "tokenizer",
    "data_percentage": "dataset.fraction",
    "block_size": "trainer.seq_len",
    "context_length": "trainer.seq_len",
    "batch_size": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.tokens_per_step",
    "max_iters": "trainer.max_steps",
    "epochs": "trainer.max_epochs",
    "learning_rate": "optimizer.lr",
    "n_embd": "model.d_model",
    "out_dir": "output_dir",
    "init_from": "resume",
}


def publish() -> None:
    """Register every component, and the root schemas, with Hydra."""
    registry.import_all()
    for name, cls in CONFIG_CLASSES.items():
        ConfigStore.instance().store(
            group="schema", name="run" if name == "train" else name, node=cls, package="_global_"
        )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of each `key=value`; raises UserError.

    A value that is outside of its grammar, such as a path with an umlaut, is a text as it stands.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, _, value = text.partition("=")
        if text.startswith("~"):
            raise UserError(f"{text} is not understood; a field stays, type {text[1:]}=VALUE")
        if not re.fullmatch(r"[\w-]+([./@][\w-]+)*", key) or key == text:
            raise UserError(f"{text!r} is not understood; settings are typed as key=value")
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            literal = f"{key}={quoted(value)}"
            if re.search(r"[][{},]", value):
                raise UserError(
                    f"{text!r} cannot be read; for a text with brackets or commas in it type\n"
                    f"  {_in_a_shell(literal)}"
                ) from None
            parsed += parser.parse_overrides([literal])
    return parsed


def _in_a_shell(text: str) -> str:
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def jobs(settings: Sequence[str], *, multirun: bool, entry: str = "train") -> list[list[str]]:
    """The overrides of each run that was asked for; raises UserError.

    `config_file=` is read into overrides below what was typed; `prepare` leaves out what is not
    about data.
    """
    # Hydra's + adds a field, but here all are there; its documentation has +experiment=
    typed = [text.lstrip("+") for text in settings]
    files = [text.partition("=")[2] for text in typed if text.startswith("config_file=")]
    typed = [text for text in typed if not text.startswith("config_file=")]
    if len(files) > 1:
        raise UserError("config_file= is typed twice; a run takes one file")
    _check_typed(parse(typed))
    lower = file_overrides(files[0]) if files else []
    if entry == "prepare":
        lower = [text for text in lower if re.split("[.=]", text)[0] in field_names(PrepareConfig)]
    overrides = parse(layered(lower, typed))
    swept = next((o for o in overrides if o.is_sweep_override()), None)
    if swept and not multirun:
        key, _, value = str(swept.input_line).partition("=")
        wish = (
            f"for several at once type {key}=[{value}]"
            if key in registry.MANY
            else f"for a text with a comma in it type {_in_a_shell(f'{key}={quoted(value)}')}"
        )
        raise UserError(
            f"{swept.input_line} lists several values; for a run of each type -m before it, {wish}"
        )
    return expand(overrides)


def _check_typed(overrides: Sequence[Override]) -> None:
    """Raise UserError for what Hydra would take, but nobody here would look at."""
    for override in overrides:
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra" or override.package is not None:
            raise UserError(
                f"{override.input_line} would be ignored: runs are not launched by Hydra; "
                "output_dir= says where they go, --config-dir where to look for choices"
            )


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a multirun: all combinations of the comma-separated values."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(
                f"{override.input_line} is a rule for values, and -m tries listed ones; "
                f"type {key}=A,B,C"
            )
    return [list(job) for job in product(*choices)]


@contextmanager
def hydra_conf() -> Iterator[None]:
    """Hydra's compose API over our conf folder and the registered components."""
    publish()
    with initialize_config_dir(str(CONF), job_name="tinygpt", **VERSION_BASE):
        yield


def compose(entry: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> Any:
    """The checked config of one job: a RunConfig for "train", a PrepareConfig for "prepare"."""
    return compose_all(entry, [list(overrides)], config_dir=config_dir)[0]


def compose_all(
    entry: str, jobs: Sequence[Sequence[str]], *, config_dir: Path | None = None
) -> list[Any]:
    """The checked config of each job; raises UserError for the first mistake in any of them."""
    where = quoted(f"file://{config_dir}") if config_dir else ""
    with hydra_conf():
        choices = groups(entry, config_dir)
        return [_compose(entry, job, choices, [f"hydra.searchpath=[{where}]"]) for job in jobs]


def groups(entry: str, config_dir: Path | None = None) -> dict[str, list[str]]:
    """The groups that an entry point takes, and the choices of each."""
    names = [*registry.KINDS, "trainer", "device", "experiment"]
    if entry == "prepare":
        names = [name for name in names if name in field_names(PrepareConfig)]
    folders = [CONF, config_dir] if config_dir else [CONF]
    return {
        name: sorted(
            {path.stem for folder in folders for path in (folder / name).glob("*.yaml")}
            | set(registry.without_yaml(name))
        )
        for name in names
    }


def default_choices(entry: str) -> dict[str, list[str]]:
    """What each group is when nothing is typed."""
    chosen: dict[str, list[str]] = {}
    for item in config.read(CONF / f"{entry}.yaml")["defaults"]:
        if isinstance(item, dict):
            for group, choice in item.items():
                chosen[group] = choice if isinstance(choice, list) else [choice]
    return chosen


def field_names(cls: type) -> list[str]:
    """The fields of a config class."""
    return [f.name for f in fields(cls)]


def _compose(
    entry: str, overrides: Sequence[str], choices: Mapping[str, list[str]], search: list[str]
) -> Any:
    parsed = parse(overrides)
    chosen = [override for override in parsed if override.key_or_group in choices]
    for override in chosen:
        _check_choice(override, choices[override.key_or_group])
    try:
        raw = hydra.compose(entry, overrides=[*overrides, *search])
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        try:
            base = hydra.compose(entry, overrides=[*(str(o.input_line) for o in chosen), *search])
        except (HydraException, OmegaConfBaseException, YAMLError) as broken:
            raise UserError(_in_a_line(broken)) from None
        # from the last on: what was typed comes after what a file says
        mistakes = (_mistake(entry, base, o, choices) for o in reversed(parsed) if o not in chosen)
        raise next(filter(None, mistakes), UserError(_in_a_line(error))) from None
    return config.resolve(raw, CONFIG_CLASSES[entry])


def _check_choice(override: Override, options: Sequence[str]) -> None:
    """Raise UserError unless the override names one of the options, or some where many may be."""
    group, value = override.key_or_group, override.value()
    many = group in registry.MANY
    for name in value if many and isinstance(value, list) else [value]:
        if not isinstance(name, str) or name not in options:
            typed = name if isinstance(name, str) else str(override.input_line).partition("=")[2]
            hint = f"\n  several are typed as {group}=[A,B], none as {group}=[]" if many else ""
            raise UserError(f"{not_a_choice(group, typed, options)}{hint}")


def _mistake(
    entry: str, base: DictConfig, override: Override, choices: Mapping[str, list[str]]
) -> UserError | None:
    """What is wrong with one value override, given the composed rest."""
    path = override.key_or_group
    node: Any = base
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            return _unknown(entry, base, node, ".".join(parts[:depth]), path, choices)
        parent, node = node, node[part] if not OmegaConf.is_missing(node, part) else None
    cls = OmegaConf.get_type(parent)
    if is_dataclass(cls) and "${" not in str(override.input_line):
        try:
            config.convert(cls, parts[-1], override.value(), field_name=path)
        except UserError as mistake:
            return mistake
    return None


def _unknown(
    entry: str,
    base: DictConfig,
    node: Any,
    prefix: str,
    path: str,
    choices: Mapping[str, list[str]],
) -> UserError:
    """The error for a path that leads nowhere: `prefix` is the part of it that leads to `node`."""
    part, leaf = path.removeprefix(f"{prefix}.").partition(".")[0], path.rpartition(".")[2]
    if not prefix:
        return _unknown_at_the_top(entry, base, path, choices)
    if not isinstance(node, DictConfig):
        return UserError(f"{path} is not a field: {prefix} is a single value, type {prefix}=VALUE")
    if prefix in registry.MANY:
        if part not in choices[prefix]:
            return not_a_choice(prefix, part, choices[prefix])
        together = ",".join([*(str(key) for key in node), part])
        typed = f"{prefix}=[{together}]" if node else f"{prefix}={part}"
        return UserError(f"{path}: {prefix} {part} is not chosen; type {typed} too")
    error = config.unknown_key(path, [f"{prefix}.{name!s}" for name in node])
    others = [
        f"{prefix}={choice_of(prefix, name)}"
        for name, cls in (registry.classes(prefix) if prefix in registry.KINDS else {}).items()
        if leaf in field_names(cls)
    ]
    return UserError(f"{error}\n  it belongs to {', '.join(others)}") if others else error


def _unknown_at_the_top(
    entry: str, base: DictConfig, path: str, choices: Mapping[str, list[str]]
) -> UserError:
    if path in PEERS_NAMES:
        return UserError(f"{path} is not a field of tinygpt; here it is {PEERS_NAMES[path]}=")
    top = path.partition(".")[0]
    if entry == "prepare" and top in (*field_names(RunConfig), "experiment"):
        return UserError(
            f"{path} does not change the prepared data, so prepare does not take it; "
            "use it with python -m tinygpt.train"
        )
    everything = sorted({*(str(key) for key in base), *choices})
    leaves = {leaf.rpartition(".")[2]: leaf for leaf in dotted_keys(base)}
    match = leaves.get(path) or nearest(top, everything) or leaves.get(nearest(path, leaves) or "")
    hint = f"; did you mean {match}?" if match else ""
    return UserError(f"{path} is not a field{hint}\n  top level: {', '.join(everything)}")


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    """The full names of all leaves, such as trainer.max_steps."""
    if not isinstance(node, DictConfig):
        return [prefix]
    keys: list[str] = []
    for key in node:
        path = f"{prefix}.{key!s}" if prefix else str(key)
        missing = OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, str(key))
        keys += [path] if missing else dotted_keys(node[key], path)
    return keys


def _in_a_line(error: Exception) -> str:
    """An error of Hydra's without its chain of causes, naming the YAML that it is about."""
    if isinstance(error, YAMLError):
        return " ".join(str(error).split())
    in_file = re.match(r"In '((\w+).*?)': .*\n(.*)", str(error))
    if in_file:
        file, group, reason = in_file.groups()
        untyped = f"not in '{group.title()}Config'" in reason
        hint = f"; begin with\n  defaults: [/schema/{group}/NAME@_here_, _self_]" if untyped else ""
        return f"{file}.yaml: {reason}{hint}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, GrammarParseError):
        return "a text has a ${ in it that begins no interpolation; type \\${ for the characters"
    return str(cause).strip().splitlines()[0]


# Files of settings, and settings that replace each other


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar (Hydra docs, "Extended override syntax")."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    # only backslashes before a quote or the end need doubling
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(value))
    return f"'{text}'"


def file_overrides(typed: str) -> list[str]:
    """The JSON or YAML file of `config_file=`, nested or dotted, as overrides.

    A run's own config.yaml is such a file too: a component's `name` chooses it.
    """
    path = Path(typed).expanduser()
    if not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*") if other.is_file()]
        match = nearest(str(path), siblings)
        hint = f"; did you mean config_file={match}?" if match else ""
        raise UserError(f"config_file={typed} is not a file{hint}")
    overrides: list[str] = []
    for key, value in config.read(path).items():
        if key in registry.MANY and isinstance(value, Mapping):
            overrides.append(f"{key}=[{','.join(map(str, value))}]")
        elif key in registry.KINDS and isinstance(value, Mapping) and "name" in value:
            overrides.append(f"{key}={choice_of(key, value['name'])}")
        overrides += _flat(key, value)
    return overrides


def choice_of(kind: str, name: str) -> str:
    """A choice of the group that is of the class registered as `name`; if in doubt, the name."""
    yamls = {path.stem: path.read_text() for path in sorted((CONF / kind).glob("*.yaml"))}
    preferred = [name, *default_choices("train").get(kind, []), *yamls]
    schema = f"/schema/{kind}/{name}@"
    return next((stem for stem in preferred if schema in yamls.get(stem, "")), name)


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in _flat(f"{prefix}.{key}", item)]
    is_choice = prefix in (*registry.KINDS, "trainer", "device", "experiment")
    if is_choice and isinstance(value, list):
        return [f"{prefix}=[{','.join(map(str, value))}]"]
    return [f"{prefix}={value if is_choice else quoted(value)}"]


def layered(file: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Overrides of a file below those that the user typed.

    A typed choice replaces all that the file says of its group.  A run has one length, so a horizon
    that is typed turns off the file's, and that of either turns off an experiment's.
    """
    typed_keys = {_key(text) for text in typed}
    lower = [
        text
        for text in file
        if _key(text) not in typed_keys and _key(text).partition(".")[0] not in typed_keys
    ]
    horizons = [f"trainer.{name}" for name in HORIZONS]
    for layer in (typed, lower):
        wanted = [_key(text) for text in layer if _key(text) in horizons and text[-5:] != "=null"]
        if wanted:
            lower = [text for text in lower if _key(text) not in horizons or _key(text) in wanted]
            lower += [f"{name}=null" for name in horizons if name not in (*wanted, *typed_keys)]
            break
    return [*lower, *typed]


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]
