"""Finds the preset of conf/model/ that a model's config is, for tables."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from tinygpt import registry
from tinygpt.config import files
from tinygpt.config.choices import CONF, class_of
from tinygpt.errors import as_typed

_SIZES = ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff")
_SHOWN = 2  # differences from a family that are told


def preset_of(model: Mapping[str, Any]) -> str | None:
    """The preset with exactly these fields, such as llama_tiny; None if there is none."""
    own = model.get("name")
    return next(
        (p.name for p in _presets() if p.fields["name"] == own and not p.differing(model)), None
    )


def short_name(model: Mapping[str, Any]) -> str:
    """The preset, or the family with what differs from it, then layers and width.

    Such as "llama_tiny", "llama 2-128" or "llama qk_norm=true 4-64".
    """
    if preset := preset_of(model):
        return preset
    own = str(model.get("name", "?"))
    families = [
        ([key for key in preset.differing(model) if key not in _SIZES], preset.name)
        for preset in _presets()
        if preset.fields["name"] == own
    ]
    words = [own]
    if families:
        differing, name = min(families, key=lambda family: len(family[0]))
        family, underscore, _ = name.partition("_")
        words = [family if underscore else own]  # model=tiny is gpt
        words += [f"{key}={as_typed(model[key])}" for key in differing[:_SHOWN]]
        words += ["..."] * (len(differing) > _SHOWN)
    sizes = [str(model[key]) for key in ("n_layer", "d_model") if key in model]
    return " ".join([*words, "-".join(sizes)]).rstrip()


@dataclass(frozen=True)
class _Preset:
    name: str
    fields: Mapping[str, Any]  # all of its class
    defaults: Mapping[str, Any]  # of the class: what a run of an earlier version lacks

    def differing(self, model: Mapping[str, Any]) -> list[str]:
        """The fields with other values in a model."""
        whole = {**self.defaults, "name": None, **model}
        return [k for k, v in whole.items() if k not in self.fields or v != self.fields[k]]


@cache
def _presets() -> tuple[_Preset, ...]:
    registry.import_kind("model")
    found = []
    for path in sorted((CONF / "model").glob("*.yaml")):
        cls = registry.classes("model").get(class_of("model", path.stem) or "")
        if cls is not None:
            own = {key: value for key, value in files.read(path).items() if key != "defaults"}
            defaults = {f.name: f.default for f in fields(cls)}
            found.append(_Preset(path.stem, defaults | own, defaults))
    return tuple(found)
