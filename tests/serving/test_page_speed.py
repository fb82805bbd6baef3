"""300 runs of 2,000 rows in a real browser: drawn progressively, and fluent."""

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.runs_on_disk import make_run
from tests.serving.test_page import SWEEP, Page, until

FRAMES = """(ms) => new Promise((done) => {
    const at = [], begun = performance.now();
    const frame = (now) => {
        at.push(now);
        if (now - begun < ms) requestAnimationFrame(frame); else done(at);
    };
    requestAnimationFrame(frame);
})"""
SCROLL = "() => { setInterval(() => scrollBy(0, 20), 16); }"
POINT = """() => {
    const chart = document.querySelector('.chart');
    chart.scrollIntoView();
    const box = chart.getBoundingClientRect();
    let n = 0;
    setInterval(() => chart.dispatchEvent(new PointerEvent('pointermove', {
        clientX: box.x + 60 + (n++ * 7) % (box.width - 80), clientY: box.y + 150 })), 16);
}"""


def many_runs(sweep: Path, n_runs: int, n_rows: int) -> None:
    """A sweep of finished runs with rows as long as those of training."""
    draw = random.Random(0)
    for number in range(n_runs):
        config = {"optimizer.lr": 10.0 ** -(number % 4 + 1), "model.n_layer": number // 4 % 3}
        made = make_run(sweep / str(number), bpb=1 + number / 300, seed=number // 12, config=config)
        lines = []
        for step in range(1, n_rows + 1):
            row = {
                "step": step,
                "optim/lr": 0.001 * (1 - step / n_rows),
                "tokens": 4096 * step,
                "train/loss": 3 + 5 / (1 + step / 50) + draw.gauss(0, 0.1),
                "optim/grad_norm": 1 + draw.random(),
                "elapsed_s": step * 0.03127,
                "perf/data_wait_ratio": 0.001 * draw.random(),
                "perf/step_ms": 30 + draw.random(),
                "perf/tokens_per_sec": 130_000 + 1000 * draw.random(),
            }
            if step % 100 == 0:
                row |= {"val/loss": 3 + 5 / (1 + step / 50), "val/bpb": 1 + 2 / (1 + step / 50)}
            lines.append(json.dumps(row))
        (made / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (sweep / "sweep.yaml").write_text(SWEEP)


def fps(page: Any, act: str) -> float:
    """Frames per second, by the median frame, while a script acts; the machine may be busy."""
    page.evaluate(act)
    times = page.evaluate(FRAMES, 2500)
    return 1000 / median(b - a for a, b in pairwise(times))


@pytest.mark.slow
def test_three_hundred_runs_are_drawn_progressively_and_stay_fluent(
    browser: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    many_runs(tmp_path / "x_sweep", 300, 2000)
    with serve(tmp_path) as server:
        made = Page(browser, f"http://127.0.0.1:{server.port}")
        page = made.open("runs?q=sweep=x_sweep")
        until(page, "document.querySelectorAll('.row.inside').length === 300", seconds=60)
        measured = {"list": fps(page, SCROLL)}
        page = made.open("compare?id=x_sweep")
        page.wait_for_selector("section[aria-label=results] table", timeout=60_000)
        page.get_by_label("show").select_option("runs")
        page.get_by_label("metric").select_option("train/loss")
        drawn = "+document.querySelector('.chart').dataset.drawn"
        until(page, f"{drawn} > 0", seconds=60)
        until(page, f"{drawn} === 300", seconds=60)
        measured["pointing"] = fps(page, POINT)
        made.close()
        assert not made.wrong
    assert min(measured.values()) > 50, measured


@pytest.mark.slow
def test_every_colour_of_a_line_is_seen_on_light_and_dark_cards(
    browser: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    worst = """async () => {
        const s = await import('/page-report/shared.js');
        const card = getComputedStyle(document.documentElement).getPropertyValue('--card').trim();
        const many = s.styles([...Array(40).keys()]);
        const all = [...s.PALETTE, ...[...Array(40).keys()].map((v) => many(v).colour)];
        const seen = all.map((one) => s.contrast(s.rgbOf(s.readable(one)), s.rgbOf(card)));
        return Math.min(...seen);
    }"""
    with serve(tmp_path) as server:
        for scheme, least in (("light", 3), ("dark", 4.5)):
            made = Page(browser, f"http://127.0.0.1:{server.port}", color_scheme=scheme)
            assert made.open("runs").evaluate(worst) >= least
            made.close()
