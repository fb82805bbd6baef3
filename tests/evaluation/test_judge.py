"""Grades by a server: asked once for each story, kept, and never with a key in a file."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import tinygpt
from tinygpt import evaluate


class Judge(BaseHTTPRequestHandler):
    """Answers each question with the next of `answers`, or with the last one."""

    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[list[str | None]] = []
    answers: ClassVar[list[tuple[int, str]]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.keys.append(self.headers.get("Authorization"))
        code, text = self.answers[min(len(self.asked), len(self.answers)) - 1]
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


GOOD = (200, 'Sure: {"grammar": 7, "creativity": 5, "consistency": 6}')


@pytest.fixture
def url() -> Iterator[str]:
    Judge.asked, Judge.keys, Judge.answers = [], [], [GOOD]
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinygpt.Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("judge"))
        yield tinygpt.run(
            [
                *("dataset=storyworld", "dataset.train_stories=40", "tokenizer=byte"),
                *("dataset.validation_stories=4", "callback=[]", "cache_dir=cache"),
                *("model=nano", "model.n_layer=1", "model.d_model=16", "model.n_head=2"),
                *("trainer.seq_len=32", "trainer.micro_batch_size=4", "device=cpu"),
                *("trainer.tokens_per_step=128", "trainer.max_steps=1"),
            ]
        )


def judged(run: tinygpt.Run, url: str, *more: str) -> int:
    typed = ["judge.model=big", "judge.samples=3", "judge.max_new_tokens=8", "device=cpu"]
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"run={run.path}", "suite=judge", f"judge.url={url}", *typed, *more])
    return int(ended.value.code or 0)


def test_each_story_is_graded_once_and_the_key_is_in_no_file(
    run: tinygpt.Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYGPT_JUDGE_KEY", "sesame-1234")
    assert judged(run, url, "judge.seed=1") == 0
    assert len(Judge.asked) == 3
    assert {asked["model"] for asked in Judge.asked} == {"big"}
    assert Judge.keys == ["Bearer sesame-1234"] * 3
    numbers = tinygpt.load(run.path).record.evaluations["judge"].numbers
    assert numbers["grammar"].value == 7
    assert judged(run, url, "judge.seed=1", "again=true") == 0
    assert len(Judge.asked) == 3  # the answers are kept
    for file in run.path.rglob("*"):
        assert not file.is_file() or b"sesame-1234" not in file.read_bytes()


def test_an_interrupted_suite_goes_on_where_it_was(
    run: tinygpt.Run, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Judge.answers = [GOOD, (200, "I like it"), GOOD]
    assert judged(run, url, "judge.seed=2") == 2
    assert "the judge answers 'I like it', and not grades" in capsys.readouterr().err
    assert judged(run, url, "judge.seed=2") == 0
    assert len(Judge.asked) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("judge.url=file:///etc/passwd", "is not the address of a server"),
        ("judge.url=null", "type judge.url=URL and judge.model=NAME"),
    ],
)
def test_a_mistake_is_one_line(
    run: tinygpt.Run, typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([f"run={run.path}", "suite=judge", typed, "judge.model=big"])
    assert said in capsys.readouterr().err


def test_a_server_that_refuses_is_told_with_the_reason(
    run: tinygpt.Run, url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Judge.answers = [(401, "no")]
    assert judged(run, url, "judge.seed=3") == 2
    assert "answers 401" in (error := capsys.readouterr().err)
    assert "TINYGPT_JUDGE_KEY" in error
