"""Stories graded by a larger model over OpenAI's chat API.

The rubric is that of TinyStories (Eldan and Li, arXiv 2305.07759, section 3): the judge sees the
beginning and the completion and grades grammar, creativity and consistency.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tinygpt.errors import UserError, shortened
from tinygpt.evaluation import intervals
from tinygpt.evaluation.writing import beginning
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interfaces import Findings
from tinygpt.records.evaluations import FOLDER

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject
    from tinygpt.evaluation.suites.judge import JudgeConfig

GRADES = ("grammar", "creativity", "consistency")
KEY = "TINYGPT_JUDGE_KEY"
_ATTEMPTS = 3
_LARGEST = 1 << 20  # bytes of an answer that are read
_RUBRIC = """\
A student was given the beginning of a story and completed it. The symbol *** separates the two.

{beginning} *** {completion}

Grade the completion from 0 to 10 for grammar, for creativity, and for consistency with the
beginning. Answer with JSON alone, such as {{"grammar": 7, "creativity": 5, "consistency": 6}}."""


def measure(config: JudgeConfig, subject: Subject) -> Findings:
    """The numbers of `suite=judge`; answers are kept, so an interrupted suite goes on."""
    held_out = subject.documents(limit=config.samples)
    prompts = [beginning(text, config.prompt_words) for text in held_out]
    sampling = SamplingConfig(
        temperature=config.temperature,
        top_k=None,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    texts = [subject.tokenizer.decode(ids) for ids in subject.generate(prompts, sampling)]
    kept = _Answers(subject.run / FOLDER / "judge.answers.jsonl")
    graded: list[dict[str, float]] = []
    for prompt, text in zip(prompts, texts, strict=True):
        question = _RUBRIC.format(beginning=prompt, completion=text)
        key = hashlib.sha256(f"{config.url} {config.model} {question}".encode()).hexdigest()
        if key not in kept.found:
            kept.add(key, _grades(_ask(config, question)))
        graded.append(kept.found[key])
    numbers = {}
    for name in GRADES:
        grade = intervals.mean([one[name] for one in graded], better="higher")
        numbers[name] = replace(grade, of_tokens=True)  # max_new_tokens ends stories
    stories = [
        {"beginning": p, "completion": t, **g}
        for p, t, g in zip(prompts, texts, graded, strict=True)
    ]
    return Findings(numbers, {"stories": stories}, [f"graded by {config.model}"])


class _Answers:
    """Grades by a hash of server, judge and question, in a file that grows by a line for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, float]] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                content = json.loads(line)
                self.found[content["key"]] = {n: float(content[n]) for n in GRADES}
            except (ValueError, KeyError, TypeError):
                continue  # the line during which an earlier process ended

    def add(self, key: str, grades: dict[str, float]) -> None:
        """Keep the grades of one question."""
        self.found[key] = grades
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._is_cut() + json.dumps({"key": key, **grades}) + "\n")

    def _is_cut(self) -> bool:
        data = self.path.read_bytes() if self.path.exists() else b""
        return bool(data) and not data.endswith(b"\n")


def _ask(config: JudgeConfig, question: str) -> str:
    """The judge's answer; raises UserError if the server gives none."""
    body = {
        "model": config.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 100,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{str(config.url).rstrip('/')}/chat/completions"
    request = Request(url, json.dumps(body).encode(), headers)  # http or https only
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            with urlopen(request, timeout=config.timeout_s) as response:
                content = json.loads(response.read(_LARGEST))
            return str(content["choices"][0]["message"]["content"])
        except HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code < 500 and error.code != 429:
                hint = f"; put its key into the environment as {KEY}" * (error.code in (401, 403))
                raise UserError(f"judge.url={config.url} answers {reason}{hint}") from None
        except (URLError, OSError) as error:
            reason = str(getattr(error, "reason", error))
        except (ValueError, KeyError, IndexError, TypeError):
            reason = "its answer is not that of a chat API"
    raise UserError(f"judge.url={config.url} cannot be asked: {reason}; what it graded is kept")


def _grades(answer: str) -> dict[str, float]:
    """The grades in an answer; raises UserError if one is missing or not of 10."""
    found = re.search(r"\{[^{}]*\}", answer)
    try:
        content: Any = json.loads(found[0]) if found else {}
        grades = {name: float(content[name]) for name in GRADES}
    except (ValueError, KeyError, TypeError):
        grades = {}
    if not _are_of_ten(list(grades.values())):
        raise UserError(
            f"the judge answers {shortened(answer)!r}, and not grades from 0 to 10 as JSON; "
            "use another judge.model; what it graded is kept"
        )
    return grades


def _are_of_ten(values: Sequence[float]) -> bool:
    return len(values) == len(GRADES) and all(0 <= value <= 10 for value in values)
