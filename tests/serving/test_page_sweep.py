"""A whole sweep in a real browser: stopped, and resumed, from its page."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.serving.test_page import Page, until


@pytest.mark.slow
def test_a_sweep_is_stopped_and_resumed(
    browser: Any,
    serve: Callable[..., Any],
    tiny_in: Callable[[Path], list[str]],
    tmp_path: Path,
) -> None:
    typed = dict(text.split("=", 1) for text in tiny_in(tmp_path))
    typed |= {"trainer.max_steps": "1_000_000", "trainer.log_every": "20", "seed": "0,1,2"}
    command = [sys.executable, "-m", "tinygpt.train", "-m", "launcher.jobs=2"]
    command += [f"{key}={value}" for key, value in typed.items()]
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    sweeping = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with serve(outputs) as server:
        made = Page(browser, f"http://127.0.0.1:{server.port}")
        try:
            end = time.monotonic() + 60
            while not (found := list(outputs.glob("*_sweep/[01]/metrics.jsonl"))[1:]):
                assert time.monotonic() < end
                time.sleep(0.2)
            sweep = found[0].parents[1].name
            page = made.open(f"sweep?id={sweep}")
            button = partial(page.get_by_role, "button", exact=True)
            status = "document.querySelector('.heading .status')?.textContent"
            words = "document.querySelector('.under').textContent"
            until(page, f"{words}.includes('2 running')", seconds=60)

            button(name="Stop").click()
            button(name="Cancel").click()
            assert sweeping.poll() is None
            button(name="Stop").click()
            button(name="Stop the sweep").click()
            assert sweeping.wait(60) == 143
            until(page, f"{status} === 'unfinished'")
            until(page, f"{words}.includes('2 interrupted') && {words}.includes('1 queued')")
            assert len(list((outputs / sweep).glob("[01]/checkpoints/step-*"))) >= 2

            button(name="Resume").click()
            button(name="Resume the sweep").click()
            until(page, f"{words}.includes('2 running')", seconds=60)
            until(page, f"{status} === 'running'")
            button(name="Stop").click()
            button(name="Stop the sweep").click()
            until(page, f"{status} === 'unfinished'", seconds=60)
        finally:
            if sweeping.poll() is None:
                sweeping.terminate()
                sweeping.wait(60)
            for path in outputs.glob("*_sweep"):
                server.post("/api/stop", {"id": path.name, "confirm": True})
        made.close()
        assert not made.wrong
