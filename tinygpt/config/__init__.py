"""Configs: the typed schema, and conversion from and to command lines and files."""

from tinygpt.config.files import load, read, save, to_dict, to_yaml
from tinygpt.config.resolution import convert, resolve, unknown_key
from tinygpt.config.schema import (
    HORIZONS,
    NOT_IDENTITY,
    DataConfig,
    DeviceConfig,
    PrepareConfig,
    RunConfig,
    SweepConfig,
    TrainerConfig,
)
from tinygpt.config.units import parse_count, parse_duration

__all__ = [
    "HORIZONS",
    "NOT_IDENTITY",
    "DataConfig",
    "DeviceConfig",
    "PrepareConfig",
    "RunConfig",
    "SweepConfig",
    "TrainerConfig",
    "convert",
    "load",
    "parse_count",
    "parse_duration",
    "read",
    "resolve",
    "save",
    "to_dict",
    "to_yaml",
    "unknown_key",
]
