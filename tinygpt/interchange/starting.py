"""Compose the configs of runs: `init_from=` adds the model and tokenizer of trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt import config, registry
from tinygpt.config import RunConfig, TrainerConfig, compose, overrides
from tinygpt.errors import UserError, as_typed

if TYPE_CHECKING:
    from tinygpt.interchange.reading.source import Source


def compose_run(job: Sequence[str], *, config_dir: Path | None = None) -> RunConfig:
    """The checked config of one run; raises UserError."""
    return compose_runs([job], config_dir=config_dir)[0]


def compose_runs(
    jobs: Sequence[Sequence[str]], *, config_dir: Path | None = None
) -> list[RunConfig]:
    """The checked config of each run; raises UserError for the first mistake in any of them."""
    sources: dict[tuple[str, str], Source] = {}
    typed = [_typed_source(job, sources) for job in jobs]
    expanded = [
        list(job) if source is None else _with(source, job, config_dir)
        for job, source in zip(jobs, typed, strict=True)
    ]
    configs: list[RunConfig] = compose.compose_all("train", expanded, config_dir=config_dir)
    for i, (cfg, source) in enumerate(zip(configs, typed, strict=True)):
        if source is not None:
            _check(cfg, source)
        elif cfg.init_from is not None:  # set by an experiment
            setting = f"init_from={overrides.quoted(cfg.init_from)}"
            configs[i] = compose_run([*jobs[i], setting], config_dir=config_dir)
    return configs


def _typed_source(job: Sequence[str], known: dict[tuple[str, str], Source]) -> Source | None:
    """The source that the job's `init_from=` names, if it has one."""
    if not any(text.startswith("init_from=") for text in job):
        return None
    values = {o.key_or_group: o.value() for o in overrides.parse(job)}
    if values["init_from"] is None:
        return None
    from tinygpt.interchange.reading.find import find_source  # with torch

    registry.import_all()
    key = str(values["init_from"]), str(values.get("output_dir", "outputs"))
    if key not in known:
        known[key] = find_source(key[0], output_dir=Path(key[1]).expanduser())
    return known[key]


def _with(source: Source, job: Sequence[str], config_dir: Path | None) -> list[str]:
    """The job's overrides over those of the source."""
    _, others = overrides.split_off("init_from", job)
    keys = {text.partition("=")[0] for text in others}
    if source.tokenizer is None and not keys & {"tokenizer", "tokenizer.path"}:
        raise UserError(f"init_from={source.path} needs a tokenizer: {source.no_tokenizer}")
    own = list(_settings(source, others, config_dir))
    return overrides.layered(own, [*others, f"init_from={overrides.quoted(str(source.path))}"])


def _settings(source: Source, job: Sequence[str], config_dir: Path | None) -> Iterator[str]:
    """What a run takes from the source where nothing else is typed."""
    model = config.to_dict(source.model)
    content = {"model": {k: v for k, v in model.items() if k not in source.model.changeable}}
    if source.tokenizer is not None:
        content["tokenizer"] = config.to_dict(source.tokenizer)
    yield from overrides.of_config(content, config_dir)
    typed = {text.partition("=")[0]: text.partition("=")[2] for text in job}
    yield f"trainer.seq_len={source.seq_len}"
    seq_len = typed.get("trainer.seq_len", str(source.seq_len))
    sizes = {"trainer.micro_batch_size", "trainer.tokens_per_step"}
    if seq_len.isdecimal() and not sizes & typed.keys():
        # as many tokens as by default, or nearly, in whole sequences
        default = TrainerConfig()
        sequences = max(1, default.tokens_per_step // int(seq_len))
        size = min(int(default.micro_batch_size), sequences)
        yield f"trainer.micro_batch_size={size}"
        yield f"trainer.tokens_per_step={sequences // size * size * int(seq_len)}"


def _check(cfg: RunConfig, source: Source) -> None:
    """Raise UserError for a model, context or tokenizer that is not that of the weights."""
    where = f"init_from={source.path}"
    changeable = source.model.changeable
    for f in fields(source.model):
        wanted, found = getattr(source.model, f.name), getattr(cfg.model, f.name, ...)
        if f.name in changeable or found == wanted:
            continue
        shown = f"model.{f.name}={as_typed(found)}" if found is not ... else "model="
        may = " and ".join(f"model.{name}" for name in changeable)
        raise UserError(
            f"{shown} does not fit {where}, whose weights have {f.name}={as_typed(wanted)}; leave "
            f"model= out: the model comes from init_from, and only {may} may be typed with it"
        )
    learned = getattr(cfg.model, "positions", None) == "learned"
    if learned and cfg.trainer.seq_len > source.seq_len:
        raise UserError(
            f"trainer.seq_len={cfg.trainer.seq_len} is more than the {source.seq_len} learned "
            f"positions of {where}; type at most trainer.seq_len={source.seq_len}"
        )
    _check_tokenizer(cfg, source)


def _check_tokenizer(cfg: RunConfig, source: Source) -> None:
    """Check what is known of the tokenizer before any text is read."""
    from tinygpt.interchange.reading.vocabulary import rows

    own = source.tokenizer
    came_along = own is not None and cfg.tokenizer.identity == own.identity
    if source.is_run and not came_along:
        raise UserError(
            f"tokenizer={cfg.tokenizer.name} is not the tokenizer of init_from={source.path}; "
            "leave tokenizer= out: it comes from init_from"
        )
    if getattr(cfg.tokenizer, "path", None) is not None or cfg.tokenizer.name == "byte":
        rows(source, cfg.tokenizer.train(iter(())), came_along=came_along)
