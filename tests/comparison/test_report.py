"""The comparison page: in a real browser, with hostile texts, and with many runs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runs_on_disk import evaluated, make_run
from tinygpt import compare as compare_command
from tinygpt.comparison import report
from tinygpt.comparison.statistics import compare
from tinygpt.records.read import read_runs

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"> \u2028 &amp; ${1}"


def test_no_text_can_leave_its_script_element() -> None:
    text = report.as_script({"a": HOSTILE})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": HOSTILE}


def sweep(folder: Path, *, runs: int, rows: int = 20) -> Path:
    """A sweep over learning rates and layers, with one failed run and a hostile sample."""
    path = folder / "x_sweep"
    for number in range(runs):
        lr, layers, seed = 10.0 ** -(number % 3 + 1), number // 3 % 2 + 1, number // 6
        made = make_run(
            path / str(number),
            bpb=1 + lr + layers / 10 + seed / 100,
            seed=seed,
            rows=rows,
            config={"optimizer.lr": lr, "model.n_layer": layers, "dataset.path": HOSTILE},
        )
        if number < 2:
            evaluated(made, 0.5 + number / 4, name=HOSTILE)
        (made / "samples").mkdir()
        (made / "samples" / "step-00000005.txt").write_text(f"sample {number} {HOSTILE}")
    make_run(path / str(runs), bpb=None, status="failed", error=HOSTILE)
    (path / "sweep.yaml").write_text("")
    return path


@pytest.fixture(scope="module")
def page_of_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sweep(tmp_path_factory.mktemp("report"), runs=12)
    with pytest.raises(SystemExit) as exit_info:
        compare_command.main([str(folder)])
    assert exit_info.value.code == 0
    assert {p.suffix for p in folder.glob("comparison.*")} == {".html", ".md", ".csv", ".json"}
    return folder / "comparison.html"


def opened(browser: Any, path: Path, **context: Any) -> tuple[Any, list[str]]:
    """The page when all is drawn, and what went wrong in it."""
    page = browser.new_context(**context).new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url)
    )
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=20_000)
    return page, wrong


def test_a_reader_finds_everything_and_nothing_runs_that_should_not(
    browser: Any, page_of_a_sweep: Path
) -> None:
    page, wrong = opened(browser, page_of_a_sweep, viewport={"width": 1440, "height": 900})
    assert page.title() == "x_sweep"
    first = page.locator("#tables tbody tr").first
    assert first.locator("td").nth(0).inner_text() == "1"
    page.select_option("#unit", "runs")
    assert page.locator("#plot .scatterlayer .trace").count() == 12 + 1
    page.select_option("#unit", "means")
    assert page.locator("#plot .scatterlayer .trace").count() >= 6
    page.select_option("#axis", "flops")
    assert page.locator("#plot .xtitle").text_content() == "FLOPs"
    page.select_option("#unit", "runs")
    page.fill("#filter", "finished n_layer=1")
    assert "6 of 13 runs" in page.locator("#thinned").inner_text()
    page.select_option("#cost", "n_params")
    assert page.locator("#front .xtitle").text_content() == "parameters"
    assert page.locator("svg.parallel path").count() == 12
    assert "optimizer.lr" in page.locator(".bars").inner_text()
    suite = page.locator("#suites tbody tr td").all_inner_texts()
    assert suite == [HOSTILE, "0.5", "0.75"]
    page.select_option("#left", "0")
    page.select_option("#right", "1")
    assert page.locator("#fields tr.differs").count() >= 1
    page.select_option("#sample-left", "3")
    assert page.locator("#text-left").inner_text().startswith("sample 3 </script><img")
    page.click("#run-table th:has-text('val/bpb') button")
    numbers = page.locator("#run-table tbody td:nth-child(6)").all_inner_texts()
    assert [n for n in numbers if n] == sorted(n for n in numbers if n)
    assert page.locator("#run-table .status-failed").count() == 1
    assert not wrong
    assert page.locator("img").count() == 0


# the test above opens such a page in a browser too
@pytest.mark.slow
def test_a_value_has_one_colour_in_all_plots_and_the_page_opens_on_what_decides(
    browser: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "y_sweep"
    for number in range(24):  # twelve configurations: more than there are colours
        lr = (0.001, 0.01, 0.1, 0.002)[number % 4]
        config = {"optimizer.lr": lr, "model.n_layer": number // 4 % 3}
        make_run(folder / str(number), bpb=1 + lr, seed=number // 12, rows=20, config=config)
    make_run(folder / "24", bpb=None, status="failed", config={"optimizer.lr": 0.0001})
    (folder / "sweep.yaml").write_text("")
    with pytest.raises(SystemExit):
        compare_command.main([str(folder)])
    page, wrong = opened(
        browser, folder / "comparison.html", viewport={"width": 1440, "height": 900}
    )
    assert page.locator("#metric").input_value() == "val/bpb"
    assert page.locator("#unit").input_value() == "means"
    traces = """
        document.getElementById("plot").data.filter((t) => t.group !== undefined)
            .map((t) => [t.group, t.line.color, t.line.dash])"""
    drawn = page.evaluate(traces)
    assert len({group for group, *_ in drawn}) == len({(c, d) for _, c, d in drawn}) == 12 + 1
    page.select_option("#colour", "optimizer.lr")
    page.select_option("#unit", "runs")
    of_curves = {group: colour for group, colour, _ in page.evaluate(traces)}
    assert len(set(of_curves.values())) == 5
    front = page.evaluate("""
        (({ text, marker }) => [text, marker.color])(document.getElementById("front").data[1])""")
    by_rate = {text.rpartition("lr=")[2]: colour for text, colour in zip(*front, strict=True)}
    assert len(by_rate) == 4
    assert by_rate.items() <= of_curves.items()
    page.fill("#filter", "lr=0.01")
    assert {c for _, c, _ in page.evaluate(traces)} <= set(of_curves.values())
    assert dict(t[:2] for t in page.evaluate(traces))["0.01"] == of_curves["0.01"]
    assert not wrong


@pytest.mark.slow  # the reader above opens the same page
def test_on_a_phone_in_the_dark_nothing_is_wider_than_the_screen(
    browser: Any, page_of_a_sweep: Path
) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    page, wrong = opened(browser, page_of_a_sweep, **phone)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not wrong


@pytest.mark.slow
def test_three_hundred_runs_open_quickly(browser: Any, tmp_path: Path) -> None:
    folder = sweep(tmp_path, runs=299, rows=2000)
    began = time.monotonic()
    paths = sorted(folder.glob("[0-9]*"))
    text = report.page(compare(read_runs(paths)), x="tokens", title="many")
    made_s = time.monotonic() - began
    (tmp_path / "many.html").write_text(text)
    began = time.monotonic()
    _, wrong = opened(browser, tmp_path / "many.html", viewport={"width": 1440, "height": 900})
    opened_s = time.monotonic() - began
    print(f"made in {made_s:.1f} s, opened in {opened_s:.1f} s, {len(text) / 1e6:.1f} MB")
    assert not wrong
