"""The page in a real browser: a run that trains meanwhile, hostile texts, and what axe finds."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tinygpt
from tests import processes
from tests.runs_on_disk import evaluated, make_run
from tinygpt.comparison import report
from tinygpt.serving import resuming
from tinygpt.serving.app import PAGE

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"> \x1b[31mred\x1b[0m &amp;"
SWEEP = """\
settings: []
swept: [optimizer.lr, model.n_layer, seed]
sweep: {search: {name: grid}, stopping: {name: none}, launcher: {name: local}, objective: val/bpb}
"""
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of twelve runs and a failed one, with hostile texts wherever a run can hold text."""
    folder = tmp_path_factory.mktemp("page") / "outputs"
    for number in range(12):
        lr, layers, seed = 10.0 ** -(number % 3 + 1), number // 3 % 2 + 1, number // 6
        made = make_run(
            folder / "x_sweep" / str(number),
            bpb=1 + lr + layers / 10 + seed / 100,
            seed=seed,
            rows=20,
            config={"optimizer.lr": lr, "model.n_layer": layers, "dataset.path": HOSTILE},
            command=f"python -m tinygpt.train name={HOSTILE}",
        )
        evaluated(made, 0.5 + number / 40, name=HOSTILE)
        (made / "samples").mkdir()
        (made / "samples" / "step-00000005.txt").write_text(f"sample {number} {HOSTILE}")
        (made / "train.log").write_text(f"{HOSTILE}\nthe last line\n")
    make_run(folder / "x_sweep" / "12", bpb=None, status="failed", error=HOSTILE)
    make_run(folder / HOSTILE.replace("/", ""), config={"name": HOSTILE, "tags": [HOSTILE]})
    (folder / "x_sweep" / "sweep.yaml").write_text(SWEEP)
    return folder


@pytest.fixture(scope="module")
def writer(outputs: Path, tiny_in: Callable[[Path], list[str]]) -> str:
    """The id of a run in the same folder that has learned ten steps."""
    run = tinygpt.run([*tiny_in(outputs.parent), "tokenizer=char"], quiet=True)
    return run.path.name


@pytest.fixture(scope="module")
def base(outputs: Path, writer: str, serve: Callable[..., Any]) -> Iterator[str]:
    with serve(outputs, cache_dir=outputs.parent / "cache") as server:
        yield f"http://127.0.0.1:{server.port}"


class Page:
    """A page of a browser, and what went wrong in it."""

    def __init__(self, browser: Any, base: str, **context: Any) -> None:
        self.wrong: list[str] = []
        self.base = base
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", self._asked)

    def _heard(self, line: Any) -> None:
        if line.type == "error" and "status of 400" not in line.text:  # a filter that is no filter
            self.wrong.append(line.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.wrong.append(request.url)

    def open(self, view: str) -> Any:
        """Go to a view, and wait until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/#/{view}")
        self.page.wait_for_selector("body[data-ready]")
        return self.page

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def opened(browser: Any, base: str) -> Iterator[Callable[..., Page]]:
    """Opens pages; at the end nothing may have gone wrong in them."""
    pages: list[Page] = []

    def make(**context: Any) -> Page:
        pages.append(Page(browser, base, **context))
        return pages[-1]

    yield make
    wrong = [text for page in pages for text in page.wrong]
    images = [page.page.locator("img").count() for page in pages]
    hacked = [page.page.title() for page in pages if "hacked" in page.page.title()]
    for page in pages:
        page.close()
    assert not wrong
    assert not any(images)
    assert not hacked


def until(page: Any, condition: str, *, seconds: float = 20) -> None:
    """Wait for a JavaScript condition. Playwright's own wait needs eval, which the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({condition})"):
        assert time.monotonic() < deadline, f"never: {condition}"
        time.sleep(0.03)


def test_no_file_of_the_page_parses_html_or_needs_a_weaker_policy() -> None:
    scripts = [*PAGE.glob("*.js"), report.PARTS / "shared.js"]
    assert len(scripts) > 8
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|DOMParser"
    )
    for script in scripts:
        assert not re.search(forbidden, script.read_text(encoding="utf-8")), script.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|https?://", html)


# Runs and comparison


def test_runs_are_found_filtered_selected_and_compared(opened: Callable[..., Page]) -> None:
    page = opened().open("runs")
    page.wait_for_selector(".row.sweep")
    rows = page.locator(".row[data-id]:not(.sweep)")
    assert page.locator(".row.sweep .shares").get_attribute("aria-label") in (
        "12 finished, 1 failed",
        "1 failed, 12 finished",
    )
    page.click(".row.sweep .toggle")
    until(page, "document.querySelectorAll('.row.inside').length === 13")
    page.fill("input[type=search]", "nosuch<1")
    page.wait_for_selector("#filter-problem:not(:empty)")
    assert "nosuch is no field" in page.inner_text("#filter-problem")
    page.fill("input[type=search]", "optimizer.lr=0.01 model.n_layer=2")
    until(page, "document.querySelectorAll('.row.inside').length === 2")
    assert page.inner_text("#filter-problem") == ""
    assert "lr=0.01  n_layer=2" in rows.first.locator(".config").text_content()
    for box in page.locator(".row.inside input").all():
        box.check()
    page.get_by_role("button", name="Compare 2").click()
    page.wait_for_selector(".view-compare[data-drawn='2']")
    assert page.locator("section[aria-label=runs] tbody tr").count() == 2
    page.wait_for_selector(".chart[data-drawn='2']")
    assert page.locator("section[aria-label=samples] pre").first.inner_text().startswith("sample")


def test_a_comparison_shows_what_the_file_shows(opened: Callable[..., Page]) -> None:
    page = opened().open("compare?id=x_sweep")
    page.wait_for_selector(".view-compare[data-drawn='13']")
    results = page.locator("section[aria-label=results]")
    assert results.locator("tbody tr").first.locator("td").first.inner_text() == "1"
    curves = page.locator("section[aria-label=curves]")
    curves.get_by_label("show").select_option("runs")
    curves.get_by_label("metric").select_option("train/loss")
    curves.get_by_label("only").fill("finished n_layer=1")
    until(page, "document.querySelector('.chart').dataset.drawn === '6'")
    assert "6 of 13 runs" in curves.inner_text()
    assert page.locator("svg.parallel path").count() == 12
    assert "optimizer.lr" in page.locator(".bars").inner_text()
    chart = page.locator(".chart").first
    chart.focus()
    page.keyboard.press("ArrowLeft")  # as a reader without a mouse looks at the points
    until(page, "document.querySelector('.chart .tip').textContent.includes(' at ')")
    page.locator("section[aria-label='configs side by side'] tr.differs").first.wait_for()


def test_a_run_and_its_sweep_say_why_one_failed(opened: Callable[..., Page]) -> None:
    page = opened().open("sweep?id=x_sweep")
    page.wait_for_selector(".view-sweep[data-drawn='13']")
    assert "<img src=x" in page.locator("section[aria-label=failures] .why").inner_text()
    assert "\x1b" not in page.locator("section[aria-label=failures]").inner_text()
    page.click("table.runs tbody a >> nth=3")
    page.wait_for_selector(".view-run[data-rows='20']")
    assert page.locator("pre.log").inner_text().endswith("the last line")
    assert "</script><img" in page.locator("pre.text").inner_text()
    page.get_by_label("filter the config").fill("optimizer.lr")
    assert page.locator(".config tr").count() == 1


# What axe finds


VIEWS = ("runs", "run?id=x_sweep/3", "sweep?id=x_sweep", "compare?id=x_sweep", "playground", "data")


@pytest.mark.parametrize(
    ("width", "scheme", "views"),
    [
        (390, "dark", ("run?id=x_sweep/3", "playground")),
        pytest.param(390, "dark", VIEWS, marks=pytest.mark.slow),
        pytest.param(1440, "light", VIEWS, marks=pytest.mark.slow),
    ],
    ids=["dark, two of them", "dark", "light"],
)
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    opened: Callable[..., Page], writer: str, width: int, scheme: str, views: tuple[str, ...]
) -> None:
    screen = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    made = opened(bypass_csp=True, **screen)  # axe is written into the page
    for view in views:
        page = made.open(view)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        page.evaluate(AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            (v["id"], v["nodes"][0]["html"])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert not serious, view


# The playground


def tokens_of(page: Any) -> list[str]:
    return list(page.locator(".back span").all_inner_texts())


def wait_written(page: Any) -> str:
    """The words below a pad when it has been written to its end."""
    until(page, "document.querySelector('.pad-words').textContent.includes('seed')")
    page.wait_for_selector(".view-playground[data-writing=false]")
    return str(page.inner_text(".pad-words"))


def test_a_text_is_written_looked_at_branched_and_edited(
    opened: Callable[..., Page], writer: str
) -> None:
    made = opened()
    page = made.open(f"playground?model={writer}&max_new_tokens=24&seed=5&ignore_eot=true")
    area = page.locator("textarea")
    area.fill("Ann has a ")
    until(page, "document.querySelectorAll('.back span').length === 10")  # scored
    page.keyboard.press("Control+Enter")
    assert "24 tokens" in wait_written(page)
    written = area.input_value()
    assert written.startswith("Ann has a ")
    assert "".join(tokens_of(page)) == written  # the copy below has the same text
    first = written

    # the same seed writes the same text again
    page.get_by_role("button", name="Undo").click()
    assert area.input_value() == "Ann has a "
    page.click("button.go")
    wait_written(page)
    assert area.input_value() == first

    # a token shows its probability and ten likely ones; the rows add to at most 1
    token = page.locator(".back span").nth(12)
    box = token.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator(".inspector .choice").count() == 10
    assert page.locator(".inspector .taken").count() <= 1
    assert " bits" in page.inner_text(".inspector .token")

    # a branch keeps what is before the token and goes on after the chosen one
    other = page.locator(".inspector .choice:not(.taken)").first
    chosen = other.locator("code").inner_text().replace("␣", " ").replace("↵", "\n")
    page.evaluate("document.querySelector('.pad-words').textContent = ''")
    other.click()
    assert "24 tokens" in wait_written(page)
    assert area.input_value()[:13] == first[:12] + chosen
    assert "".join(tokens_of(page)) == area.input_value()

    # an edit keeps the colours before it only, until the model has been asked again
    area.fill(first[:6] + "h" + first[7:])
    assert "".join(tokens_of(page))[:6] == first[:6]
    history = page.evaluate("JSON.parse(localStorage['tinygpt.history'])")
    assert [entry["texts"][0]["text"] for entry in history][-1] == first

    # the link holds the settings and the text
    page.get_by_label("temperature").fill("0.5")
    page.get_by_label("temperature").press("Tab")
    assert "temperature=0.5" in page.evaluate("location.hash")
    assert "seed=5" in page.evaluate("location.hash")


@pytest.mark.slow  # test_playground.py stops writing without a browser
def test_writing_stops_at_once_and_nothing_scrolls_by_itself(
    opened: Callable[..., Page], writer: str
) -> None:
    page = opened(viewport={"width": 800, "height": 500}).open(
        f"playground?model={writer}&model={writer}&max_new_tokens=3000&ignore_eot=true"
    )
    area = page.locator("textarea").first
    area.fill("Ben")
    assert page.locator("textarea").nth(1).input_value() == "Ben"  # one text until they differ
    page.click("button.go")
    at = page.evaluate("scrollY")
    until(page, "document.querySelector('textarea').value.length > 600")
    assert page.evaluate("scrollY") == at
    page.keyboard.press("Escape")
    page.wait_for_selector(".view-playground[data-writing=false]")
    texts = [page.locator("textarea").nth(i).input_value() for i in (0, 1)]
    page.wait_for_timeout(200)
    assert [page.locator("textarea").nth(i).input_value() for i in (0, 1)] == texts
    assert texts[0][:100] == texts[1][:100]  # the same model, text and seed
    assert "stopped" in page.inner_text(".pad-words >> nth=0")


def test_documents_show_their_tokens(opened: Callable[..., Page]) -> None:
    page = opened().open("data")
    page.wait_for_selector(".documents article")
    assert page.locator(".tokens span").count() > 50
    assert "documents" in page.inner_text("section[aria-label=splits]")
    page.wait_for_selector("section[aria-label=lengths]")
    page.get_by_role("button", name="Later").click()
    page.wait_for_selector(".documents h3 >> text=document 6 ")


# A run that trains


@pytest.mark.slow  # tests/serving/test_runs.py stops and resumes runs without a browser
def test_a_run_is_watched_stopped_and_resumed(
    browser: Any,
    serve: Callable[..., Any],
    tiny_in: Callable[[Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resuming, "subprocess", processes.FORKING)
    own = {
        "trainer.max_steps": "1_000_000",
        "trainer.log_every": "20",
        "trainer.eval_every": "100",
        "callback": "[sample]",
    }
    settings = dict(text.split("=", 1) for text in tiny_in(tmp_path)) | own
    typed = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "tinygpt.train", *typed]
    (tmp_path / "outputs").mkdir()
    with serve(tmp_path / "outputs") as server:
        made = Page(browser, f"http://127.0.0.1:{server.port}")
        page = made.open("run?id=latest")
        assert "There is no run yet" in page.inner_text("main")
        training = processes.Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = "document.querySelector('.heading .status')?.textContent"
            rows = "+(document.querySelector('.view-run')?.dataset.rows ?? 0)"
            until(page, f"{rows} > 5", seconds=60)  # shown without a click
            before = page.evaluate(rows)
            until(page, f"{rows} > {before + 5}")
            assert page.evaluate(status) == "running"
            until(page, "document.querySelector('.view-run select[aria-label] option')")

            button = partial(page.get_by_role, "button", exact=True)
            button(name="Stop").click()
            button(name="Cancel").click()
            assert training.poll() is None
            button(name="Stop").click()
            button(name="Stop the run").click()
            training.wait(60)
            button(name="Resume").wait_for()
            assert page.inner_text(".heading .status") == "interrupted"
            (folder,) = (path.parent for path in (tmp_path / "outputs").glob("*/run.json"))
            assert list((folder / "checkpoints").glob("step-*"))  # it has saved

            stopped_at = page.evaluate(rows)
            button(name="Resume").click()
            button(name="Resume the run").click()
            until(page, f"{rows} > {stopped_at}", seconds=60)
            until(page, f"{status} === 'running'")
            button(name="Stop").click()
            button(name="Stop the run").click()
            until(page, f"{status} === 'interrupted'", seconds=60)
        finally:
            training.kill()
            for path in (tmp_path / "outputs").glob("*"):
                server.post("/api/stop", {"id": path.name, "confirm": True})
        made.close()
        assert not made.wrong
