"""The page of all findings, which experiments/page.py writes."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_page_of_findings_holds_all_studies_and_needs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(ROOT / "experiments" / "page.py"))
    monkeypatch.setitem(script["main"].__globals__, "PAGE", tmp_path / "out" / "findings.html")
    script["main"]()
    page = (tmp_path / "out" / "findings.html").read_text(encoding="utf-8")
    studies = {readme.parent.name for readme in ROOT.glob("experiments/*/README.md")}
    assert set(re.findall(r'<section id="(\w+)">', page)) == studies
    assert set(re.findall(r'href="#(\w+)"', page)) == studies
    sources = re.findall(r'src="([^"]{,40})', page)
    assert len(sources) > 10
    assert {source.partition(",")[0] for source in sources} == {"data:image/png;base64"}
    assert not re.findall(r'href="(?!#|https://)', page)
