"""Samples as JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tinygpt.generation.engine import Sample

# halves of surrogate pairs, which UTF-8 lacks, and characters that some readers take for line ends
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def record_line(
    sample: Sample,
    *,
    prompt: str,
    repeat: int,
    has_logprobs: bool,
    provenance: Mapping[str, Any],
) -> str:
    """A sample as one line of JSON; `provenance` comes last.

    With `has_logprobs` it also holds logprobs, a number for each token, and top_logprobs, a list of
    [token, logprob] for each.
    """
    record: dict[str, Any] = {
        "prompt": prompt,
        "sample": repeat,
        "text": sample.text,
        "tokens": sample.tokens,
        "finish_reason": sample.reason,
    }
    if has_logprobs:
        record |= {"logprobs": sample.logprobs, "top_logprobs": sample.top}
    text = json.dumps(record | dict(provenance), ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"
