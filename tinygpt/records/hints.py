"""Commands to suggest to the user, built from a run's record."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sample_command(path: Path, record: Mapping[str, Any]) -> str:
    """The command that generates text with a run; `record` is its run.json.

    The prompt is the first prompt of the run's sample callback, else one from its dataset.
    """
    callbacks = (record.get("config") or {}).get("callback") or {}
    prompts = [prompt for fields in callbacks.values() for prompt in fields.get("prompts") or []]
    prompts += (record.get("data") or {}).get("prompts") or [""]
    modules = (record.get("config") or {}).get("components") or []
    words = [f"components=[{','.join(modules)}]"] if modules else []
    return "python -m tinygpt.sample " + shlex.join([f"run={path}", *words, f"prompt={prompts[0]}"])
