"""Numbers about the server itself, as text for Prometheus (exposition format 0.0.4)."""

import threading
import time
from collections import Counter
from collections.abc import Mapping


class Counters:
    """What the server has done since it started; from any thread."""

    def __init__(self) -> None:
        self.started = time.time()
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()
        self._tokens: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()

    def answered(self, status: int) -> None:
        """An answer began."""
        with self._lock:
            self._answers[status] += 1

    def read(self, n_tokens: int) -> None:
        """So many tokens of prompts were accepted."""
        with self._lock:
            self._tokens["prompt"] += n_tokens

    def wrote(self, n_tokens: int, reason: str) -> None:
        """A text ended."""
        with self._lock:
            self._tokens["generated"] += n_tokens
            self._texts[reason] += 1

    def text(self, now: Mapping[str, tuple[str, Mapping[str, float]]]) -> str:
        """The page for Prometheus; `now` are gauges: name -> (what it is, values by label)."""
        with self._lock:
            answers = {f'{{code="{code}"}}': n for code, n in sorted(self._answers.items())}
            tokens = {f'{{kind="{kind}"}}': n for kind, n in sorted(self._tokens.items())}
            texts = {f'{{reason="{reason}"}}': n for reason, n in sorted(self._texts.items())}
        lines = [
            *_metric("http_responses_total", "counter", "Answers by status.", answers),
            *_metric("tokens_total", "counter", "Tokens read and written.", tokens),
            *_metric("texts_total", "counter", "Texts by how they ended.", texts),
            *_metric("start_time_seconds", "gauge", "When the server started.", {"": self.started}),
        ]
        for name, (words, values) in now.items():
            lines += _metric(name, "gauge", words, values)
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, words: str, values: Mapping[str, float]) -> list[str]:
    whole = f"tinygpt_{name}"
    samples = [f"{whole}{label} {value!r}" for label, value in values.items()]
    return [f"# HELP {whole} {words}", f"# TYPE {whole} {kind}", *samples]
