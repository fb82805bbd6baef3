"""A run, typed: RunConfig, its checks, and the way from a composed or saved config to it."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinygpt import registry
from tinygpt.errors import UserError, as_typed, check_choice, check_range, nearest
from tinygpt.interfaces import (
    CallbackConfig,
    DatasetConfig,
    LauncherConfig,
    LoggerConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    SearchConfig,
    StoppingConfig,
    TokenizerConfig,
)

HORIZONS = ("max_tokens", "max_steps", "max_epochs", "max_flops", "max_time")
DEFAULT_MAX_TOKENS = 10_000_000
_COUNT = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

T = TypeVar("T")


def parse_count(field_name: str, value: float | str) -> int:
    """5000000, 5e6, "5_000_000", "5M" or "2.5K" as a number; raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(value).replace("_", "").upper())
    if not match:
        raise UserError(f"{field_name}={value} is not a count; type 5000000, 5_000_000 or 5M")
    count = Fraction(match[1]) * _COUNT[match[2]]  # exact: as a float 2.3 * 1e6 is no whole number
    if count < 1 or count.denominator != 1:
        raise UserError(f"{field_name}={value} must be a whole number, at least 1")
    return int(count)


def parse_duration(field_name: str, value: float | str) -> float:
    """90, "90s", "1.5m" or "1h30m" in seconds; raises UserError."""
    text = str(value).lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise UserError(f"{field_name}={value} is not a duration; type 90s, 15m or 1h30m")
    check_range(field_name, seconds, above=0)
    return seconds


@dataclass
class TrainerConfig:
    """How long, in what portions, and how often to look, log and save."""

    seq_len: int = 256  # tokens the model sees at once, T
    # sequences per forward; changes memory, never the result but for its last bits; auto: measured
    # when the run begins, the fastest that fits
    micro_batch_size: int | str = 16
    tokens_per_step: int = 4096  # tokens per optimizer update; larger is smoother and slower
    # the length of the run: one of the five; none of them means max_tokens=10M
    max_tokens: int | float | str | None = None
    max_steps: int | None = None
    max_epochs: float | None = None
    max_flops: float | None = None  # such as 1e15: equal compute, whatever the model
    max_time: int | float | str | None = (
        None  # wall clock, such as 15m; then the result depends on speed
    )
    grad_clip: float = 1.0  # largest gradient norm; 0 turns clipping off
    # steps; null: as often as costs next to nothing, up to 20 times
    eval_every: int | None = None
    eval_bytes: int | float | str | None = (
        100_000  # of validation text, in whole documents, at least one; null is all of it
    )
    log_every: int | None = None  # steps; null: 500 times
    # steps; null: every minute, large models less often, and with the best evaluation
    save_every: int | None = None
    keep_checkpoints: int = 1  # newest ones to keep, beside the best

    def __post_init__(self) -> None:
        set_horizons = [name for name in HORIZONS if getattr(self, name) is not None]
        if len(set_horizons) > 1:
            values = " and ".join(f"trainer.{name}={getattr(self, name)}" for name in set_horizons)
            raise UserError(
                f"{values} are both set, but a run has one length; "
                f"turn one off with trainer.{set_horizons[0]}=null"
            )
        if self.max_tokens is not None:
            self.max_tokens = parse_count("trainer.max_tokens", self.max_tokens)
        if self.max_time is not None:
            self.max_time = parse_duration("trainer.max_time", self.max_time)
        if self.eval_bytes is not None:
            self.eval_bytes = parse_count("trainer.eval_bytes", self.eval_bytes)
        if self.max_flops is not None:
            check_range("trainer.max_flops", self.max_flops, above=0)
        if self.max_epochs is not None:
            check_range("trainer.max_epochs", self.max_epochs, above=0)
        if isinstance(self.micro_batch_size, str):
            if self.micro_batch_size != "auto":
                raise UserError(
                    f"trainer.micro_batch_size={self.micro_batch_size} must be a whole number, or "
                    "auto"
                )
        else:
            check_range("trainer.micro_batch_size", self.micro_batch_size, low=1)
        whole = ("seq_len", "tokens_per_step", "max_steps", "keep_checkpoints")
        for name in (*whole, "eval_every", "log_every", "save_every"):
            value = getattr(self, name)
            if value is not None:
                check_range(f"trainer.{name}", value, low=1)
        check_range("trainer.grad_clip", self.grad_clip, low=0)
        self.grad_accum()

    def grad_accum(self, *, ranks: int = 1, measured: int | None = None) -> int:
        """Forwards per optimizer update on each rank; raises UserError if they are not whole.

        `measured` is what micro_batch_size=auto came to; before it is known it counts as 1.
        """
        size = self.micro_batch_size
        size = (measured or 1) if isinstance(size, str) else size
        factors = {"micro_batch_size": size, "seq_len": self.seq_len}
        if ranks > 1:
            factors["ranks"] = ranks
        portion = math.prod(factors.values())
        if self.tokens_per_step % portion == 0:
            return self.tokens_per_step // portion
        below = self.tokens_per_step // portion * portion
        choices = [str(n) for n in (below, below + portion) if n]
        smaller = next(
            (
                smaller_size
                for smaller_size in range(size - 1, 0, -1)
                if self.tokens_per_step % (smaller_size * self.seq_len * ranks) == 0
            ),
            None,
        )
        same = f"; trainer.micro_batch_size={smaller} changes nothing else" if smaller else ""
        raise UserError(
            f"trainer.tokens_per_step={self.tokens_per_step} is not a multiple of "
            f"{' * '.join(factors)} = {' * '.join(map(str, factors.values()))} = {portion}; "
            f"nearest {'are' if len(choices) > 1 else 'is'} {' and '.join(choices)}"
            + same
            * (ranks > 1)
        )

    @property
    def planned_steps(self) -> int | None:
        """The length of the run in steps; None where data, model or clock determine it."""
        if self.max_steps is not None:
            return self.max_steps
        if any((self.max_epochs, self.max_flops, self.max_time)):
            return None
        return max(1, round(int(self.max_tokens or DEFAULT_MAX_TOKENS) / self.tokens_per_step))

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimizer update."""
        return self.tokens_per_step // self.seq_len


@dataclass
class DeviceConfig:
    """Which hardware, and in what precision."""

    type: str = "auto"  # auto takes cuda, then mps, then cpu
    precision: str = "auto"  # auto: bf16 where the GPU or CPU multiplies it, else fp32
    compile: str = "auto"  # auto compiles when the run is long enough to gain from it
    kernels: str = "auto"  # fused in C on a CPU where gcc is, else torch; changes the last bits
    parallel: str = "auto"  # ranks: ddp copies the model, fsdp spreads it; auto: ddp if that fits
    threads: int | None = None  # CPU threads; null leaves it to torch; changes the last bits

    def __post_init__(self) -> None:
        check_choice("device.type", self.type, ("auto", "cpu", "cuda", "mps"))
        check_choice("device.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_choice("device.compile", self.compile, ("auto", "always", "never"))
        check_choice("device.kernels", self.kernels, ("auto", "fused", "torch"))
        check_choice("device.parallel", self.parallel, ("auto", "ddp", "fsdp"))
        if self.threads is not None:
            check_range("device.threads", self.threads, low=1)


@dataclass(kw_only=True)
class PrepareConfig:
    """What determines the prepared tokens, and where they are kept."""

    dataset: DatasetConfig
    tokenizer: TokenizerConfig
    cache_dir: str = "~/.cache/tinygpt"  # prepared tokens, shared by all runs
    workers: int | None = None  # processes that encode; null: one per core; 1: only this one

    def __post_init__(self) -> None:
        check_choice("dataset.window", self.dataset.window, ("packed", "document"))
        if self.workers is not None:
            check_range("workers", self.workers, low=1)


@dataclass(kw_only=True)
class DataConfig(PrepareConfig):
    """What `python -m tinygpt.data` looks at."""

    # vocabulary sizes that are compared; none of them: []
    candidates: list[int] = field(default_factory=lambda: [512, 1024, 2048, 4096, 8192])
    out: str | None = None  # the picture, a .png; null puts it beside the prepared tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.candidates:
            check_range("candidates", size, low=258)  # end of text, newline, bytes
        if self.out is not None and Path(self.out).suffix != ".png":
            raise UserError(f"out={self.out} must end in .png; type out={Path(self.out).stem}.png")


@dataclass(kw_only=True)
class RunConfig(PrepareConfig):
    """Everything that determines a run; config.yaml in its folder loads back to an equal one."""

    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    logger: dict[str, LoggerConfig] = field(default_factory=dict)
    callback: dict[str, CallbackConfig] = field(default_factory=dict)
    seed: int = 0  # weights, order of the data and dropout; not the data itself
    output_dir: str = "outputs"  # run folders are made in here

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seed", self.seed, low=0)
        if self.dataset.mask_documents and not self.model.masks_documents:
            raise UserError(
                f"dataset.mask_documents=true needs a model that can keep documents apart, and "
                f"{self.model.name} cannot; type dataset.mask_documents=false"
            )


OBJECTIVES = ("val/bpb", "val/loss", "train/loss")


@dataclass(kw_only=True)
class SweepConfig:
    """How a multirun goes: which configs, how far each, and where. No run depends on it."""

    search: SearchConfig
    stopping: StoppingConfig
    launcher: LauncherConfig
    objective: str = "val/bpb"  # what searches and stopping rules compare; lower is better
    retry_failed: bool = False  # whether runs that failed are tried again when a sweep goes on

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)


def resolve(raw: DictConfig | Mapping[str, Any], cls: type[T]) -> T:
    """Type and check a composed or saved config; raises UserError for what does not fit.

    Every key must be a field, also one that came in through `+`.
    """
    try:
        raw = raw if isinstance(raw, DictConfig) else OmegaConf.create(dict(raw))
        plain = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {error.msg or error}".splitlines()[0]) from None
    assert isinstance(plain, dict)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass
    values: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in names:
            raise unknown_key(str(key), names)
        if key in registry.MANY:
            if not isinstance(value, Mapping):
                raise UserError(f"{key}={as_typed(value)} must hold components by name")
            values[key] = {n: _component(key, v, f"{key}.{n}") for n, v in value.items()}
        elif key in (*registry.KINDS, *registry.SWEEP_KINDS):
            values[key] = _component(key, value, key)
        elif key in ("trainer", "device"):
            values[key] = _typed(TrainerConfig if key == "trainer" else DeviceConfig, value, key)
        else:
            scalars[key] = value
    values |= _check_types(cls, scalars, "")
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is NO_DEFAULT and f.default_factory is NO_DEFAULT:
            raise UserError(f"{f.name} is not chosen; type {f.name}=NAME")
    return cls(**values)


def _component(kind: str, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UserError(f"{path}={as_typed(value)} names no component; type {kind}=NAME")
    return _typed(registry.lookup(kind, value["name"]), value, path)


def _typed(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        example = f"{path}.{fields(cls)[0].name}="
        raise UserError(f"{path}={as_typed(value)} must hold fields, such as {example}")
    return cls(**_check_types(cls, value, f"{path}."))


def _check_types(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values converted to the types of the dataclass's fields."""
    types = {f.name: f.type for f in fields(cls)}
    node = OmegaConf.structured(cls)
    converted = {}
    for key, value in values.items():
        if key not in types:
            raise unknown_key(prefix + str(key), [prefix + name for name in types])
        if value == "???":
            raise UserError(f"{prefix}{key} is missing; type {prefix}{key}=...")
        converted[key] = _convert(node, cls, key, value, field_name=prefix + key)
    return converted


def convert(cls: type, key: str, value: Any, *, field_name: str) -> Any:
    """`value` as the type of the dataclass's field `key`; raises UserError."""
    return _convert(OmegaConf.structured(cls), cls, key, value, field_name=field_name)


def _convert(node: Any, cls: type, key: str, value: Any, *, field_name: str) -> Any:
    try:
        node[key] = _escaped(value)
        converted = node[key]
    except OmegaConfBaseException:
        hint = next(f.type for f in fields(cls) if f.name == key)
        raise UserError(
            f"{field_name}={as_typed(value)} is of the wrong type: "
            f"the field takes {_type_words(hint)}"
        ) from None
    is_list = OmegaConf.is_config(converted)
    return OmegaConf.to_container(converted, resolve=True) if is_list else converted


def _escaped(value: Any) -> Any:
    """The value with its texts written so that OmegaConf sees no ${interpolation} in them."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    return value


def _type_words(hint: Any) -> str:
    """The annotation in a user's words."""
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    words = {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
        "None": "null",
        "list[str]": "a list of texts, such as [a,b]",
        "list[int]": "a list of whole numbers, such as [1,2]",
    }
    return " or ".join(words.get(part.strip(), part.strip()) for part in text.split("|"))


def unknown_key(path: str, choices: Iterable[str]) -> UserError:
    """The error for a field that does not exist, among the full names of those that do."""
    prefix, dot, leaf = path.rpartition(".")
    # beside the field where there are any: a long prefix in common would make all of them look near
    beside = {c.rpartition(".")[2]: c for c in choices if c.rpartition(".")[0] == prefix}
    names = beside or dict.fromkeys(choices)
    match = nearest(leaf if beside else path, names)
    hint = f"; did you mean {prefix + dot + match if beside else match}?" if match else ""
    listed = ", ".join(sorted(beside.values() or names))
    return UserError(f"{path} is not a field{hint}\n  fields: {listed}")


def to_dict(cfg: Any) -> dict[str, Any]:
    """The config as plain dicts, lists and numbers: what config.yaml holds."""
    return asdict(cfg)


def to_yaml(cfg: Any) -> str:
    """The config as YAML that `read` and `config_file=` take."""
    # in ASCII: written as it is, U+0085 would come back as a space
    text: str = yaml.safe_dump(_escaped(to_dict(cfg)), sort_keys=False)
    return text


def save(cfg: RunConfig, path: Path) -> None:
    """Write the config; a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(to_yaml(cfg))
    partial.replace(path)


def load(path: Path) -> RunConfig:
    """The config that `save` wrote; raises UserError."""
    return resolve(read(path), RunConfig)


def read(path: Path) -> dict[str, Any]:
    """A JSON or YAML file as a mapping; raises UserError."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = OmegaConf.to_container(OmegaConf.load(path))
    except (ValueError, yaml.YAMLError, OSError, OmegaConfBaseException) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(
            f"{path} is not {kind} that can be read: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of fields, such as 'seed: 1'")
    return {str(key): value for key, value in content.items()}
