"""The command `tinygpt.serve`: its settings and what it refuses before it listens."""

import builtins
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.runs_on_disk import make_run
from tinygpt import serve
from tinygpt.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["port=70000"], "port=70000 must be at most 65535"),
        (["port=http"], "port=http is of the wrong type"),
        (["device=gpu"], "did you mean device=cuda?"),
        (["hots=0.0.0.0"], "did you mean host"),
        (["output_dir=nowhere"], "output_dir=nowhere is not a folder"),
        (["--port", "80"], "settings are typed without dashes: port=80"),
        (["run=nothing"], "run=nothing is not the folder of a run"),
        (["host=no.such.host.invalid"], "host=no.such.host.invalid is no address"),
    ],
)
def test_a_mistake_is_named_before_anything_is_served(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        serve.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_with_another(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            serve.main([f"port={port}"])
    assert f"type another, such as port={port + 1}" in capsys.readouterr().err


def test_without_its_libraries_the_command_names_the_extra(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "uvicorn":
            raise ImportError(name="uvicorn")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit):
        serve.main([])
    assert "pip install 'tinygpt[serve]'" in capsys.readouterr().err


def test_a_run_outside_of_the_served_folder_is_refused(tmp_path):
    run = make_run(tmp_path / "elsewhere" / "RUN")
    (tmp_path / "outputs").mkdir()
    settings = serve.parse([f"run={run}", f"output_dir={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match=f"type output_dir={run.parent}"):
        serve.serve(settings)


def test_the_command_serves_and_ctrl_c_ends_it(tmp_path):
    make_run(tmp_path / "outputs" / "2026_run")
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygpt.serve", "port=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(serve.__file__).parents[1])},
    )
    try:
        link = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{link}api/runs", timeout=10) as answer:
            assert b'"2026_run"' in answer.read()
        with urllib.request.urlopen(f"{link}api/events", timeout=10) as events:
            assert events.readline() == b"event: runs\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
