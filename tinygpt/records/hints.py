"""Commands that a user may type next, made from what a run recorded."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sample_command(path: Path, record: Mapping[str, Any]) -> str:
    """How to write text with the run, which `record` (its run.json) describes.

    The prompt is the first one of the run's own samples, else one that its data offers.
    """
    callbacks = (record.get("config") or {}).get("callback") or {}
    prompts = [prompt for fields in callbacks.values() for prompt in fields.get("prompts") or []]
    prompts += (record.get("data") or {}).get("prompts") or [""]
    modules = (record.get("config") or {}).get("components") or []
    words = [f"components=[{','.join(modules)}]"] if modules else []
    return "python -m tinygpt.sample " + shlex.join([f"run={path}", *words, f"prompt={prompts[0]}"])
