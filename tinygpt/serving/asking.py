"""What a request asks a model for, checked and bounded."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tinygpt import config
from tinygpt.errors import UserError, did_you_mean
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.serving.errors import ApiError
from tinygpt.serving.models import Model

MOST_NEW_TOKENS = 4096
MOST_CHARACTERS = 200_000  # of a prompt
MOST_IDS = 100_000
MOST_TOP = 20  # likeliest tokens of each place
MOST_STOPS = 16
SAMPLING = tuple(f.name for f in fields(SamplingConfig))


def sampling(content: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> SamplingConfig:
    """The settings of sampling in a request; null is the default.  Raises ApiError.

    Without a seed it is random.
    """
    values: dict[str, Any] = {"seed": secrets.randbelow(2**32), **defaults}
    for name in SAMPLING:
        if name not in content or (content[name] is None and not _may_be_null(name)):
            continue
        value = content[name]
        if name == "logit_bias":
            values[name] = _biases(value)
        elif name == "stop":
            values[name] = _stops(value)
        else:
            values[name] = field(SamplingConfig, name, value)
    try:
        made = SamplingConfig(**values)
    except UserError as error:
        raise ApiError(400, str(error), param=_named(str(error))) from None
    if made.max_new_tokens > MOST_NEW_TOKENS:
        raise ApiError(
            400,
            f"max_new_tokens={made.max_new_tokens} must be at most {MOST_NEW_TOKENS:,}",
            param="max_new_tokens",
        )
    return made


def _may_be_null(name: str) -> bool:
    return name in ("top_k", "top_p", "min_p", "typical_p", "no_repeat_ngram")


def _named(message: str) -> str | None:
    return next((name for name in SAMPLING if message.startswith(name)), None)


def field(cls: type, name: str, value: Any) -> Any:
    """The value for a field of a dataclass; raises ApiError if it is of another type."""
    try:
        if isinstance(value, bool) and name != "ignore_eot":
            raise UserError(f"{name}={str(value).lower()} is of the wrong type")
        return config.convert(cls, name, value, field_name=name)
    except UserError as error:
        raise ApiError(400, str(error), param=name) from None


def _biases(value: Any) -> dict[int, float]:
    if not isinstance(value, dict) or len(value) > 300:
        raise ApiError(400, 'logit_bias must be such as {"13": -100}', param="logit_bias")
    try:
        return {int(token): float(bias) for token, bias in value.items()}
    except (TypeError, ValueError):
        raise ApiError(400, 'logit_bias must be such as {"13": -100}', param="logit_bias") from None


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ApiError(400, "stop must be a text or a list of texts", param="stop")
    if len(stops) > MOST_STOPS:
        raise ApiError(400, f"stop has at most {MOST_STOPS} texts", param="stop")
    return stops


def whole(content: Mapping[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    """A whole number of a request; raises ApiError."""
    value = content.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ApiError(
            400, f"{name}={str(value)[:40]} must be a whole number from {low} to {high}", param=name
        )
    return value


def is_ids(value: Any) -> bool:
    """Whether the value is a list of token ids."""
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in value
    )


def prompt(model: Model, value: str | Sequence[int], *, param: str = "prompt") -> list[int]:
    """The token ids of a text or of ids, without an end of text at the beginning.

    Raises ApiError for a prompt that is too long, and for an id that is not in the vocabulary.
    """
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            raise ApiError(
                400,
                f"{param} has {len(value):,} characters, at most {MOST_CHARACTERS:,}",
                param=param,
            )
        return model.ids(value)
    if len(value) > MOST_IDS:
        raise ApiError(400, f"{param} has {len(value):,} ids, at most {MOST_IDS:,}", param=param)
    size = model.tokenizer.vocab_size
    for token in value:
        if not 0 <= token < size:
            raise ApiError(
                400, f"{param} holds id {token}, and ids are from 0 to {size - 1}", param=param
            )
    ids = list(value)
    return ids[1:] if ids[:1] == [model.tokenizer.eot_id] else ids


def check_known(content: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ApiError for a field that would be ignored."""
    for name in content:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ApiError(400, f"{name[:60]} is no field of this request{hint}", param=name[:60])
