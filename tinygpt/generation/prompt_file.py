"""Prompts from a file."""

import json
from pathlib import Path

from tinygpt.errors import UserError, visible


def read_prompts(path: Path, *, field: str) -> list[str]:
    """The prompts of a file: one for each line; empty lines are skipped.

    In a file that ends in .jsonl a line is a JSON text or an object with a text "prompt", so that
    prompts can hold line breaks.  Raises UserError, with the number of the line.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{field}={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{field}={path} is not UTF-8 text (byte {error.start:,}); convert it, such as with "
            "iconv -t utf-8"
        ) from None
    is_json = path.suffix == ".jsonl"
    prompts = []
    for number, line in enumerate(content.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            prompts.append(_from_json(line, f"{field}={path}, line {number}") if is_json else line)
    if not prompts:
        raise UserError(f"{field}={path} holds no prompt; write one on each line")
    return prompts


def _from_json(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {visible(str(error))}") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise UserError(
            f'{where}: a line must be a text, or an object with a text "prompt", such as '
            '{"prompt": "Once"}'
        )
    return prompt
