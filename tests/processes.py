"""Real processes of Python that start in a moment: forked from a server that has imported torch.

`Forked` and `run` take what `subprocess.Popen` and `subprocess.run` take, for a command such as
`[sys.executable, "-m", "tinygpt.train", ...]`. The process has its own id, streams, environment,
folder, signals and exit code. Only the imports, three seconds of them, are done once, by one server
for all workers. A test whose point is the start of the interpreter (imports, OMP_NUM_THREADS, flags
of Python) uses `subprocess`.
"""

import array
import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakSet

from tests import pictures

ROOT = Path(__file__).parents[1]
FORKS = sys.platform == "linux"  # elsewhere libraries forbid it, and each process is a new one
_AT_IMPORT = dict(os.environ)  # of the common setup, before a test changes it
_running: "WeakSet[Forked]" = WeakSet()
_server: tuple[int, socket.socket] | None = None  # the process that has it, and the connection


class Forked(subprocess.Popen[Any]):
    """A process whose command is `[sys.executable, "-m", NAME, ...]`, a script, or `-c CODE`.

    `terminal=True` makes the standard input the terminal of its session.
    """

    def __init__(
        self, command: Sequence[str | Path], *, terminal: bool = False, **options: Any
    ) -> None:
        assert command[0] == sys.executable
        self._terminal = terminal
        if terminal and not FORKS:
            options["preexec_fn"] = _take_terminal
        super().__init__([str(word) for word in command], **options)

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        """Ask the server for the process; the options come in the order of subprocess.Popen."""
        if not FORKS:
            super()._execute_child(args, *rest)  # type: ignore[misc]  # of Popen
            return
        cwd, env = rest[4:6]
        pipes = rest[9:15]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "arguments": args[1:],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": rest[20],
            "terminal": self._terminal,
        }
        streams = [pipe if pipe != -1 else n for n, pipe in enumerate(pipes[i] for i in (0, 3, 5))]
        connection = _connection()
        try:
            _send(connection, request, [theirs.fileno(), *streams, connection.fileno()])
        finally:
            theirs.close()
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # of Popen
        self._news = ours
        self.pid = int(ours.recv(64))
        self._child_created = True
        _running.add(self)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """Wait for the exit status, or only look whether it is there."""
        if not FORKS:
            return super()._try_wait(wait_flags)  # type: ignore[misc]  # of Popen
        if wait_flags & os.WNOHANG and not select.select([self._news], [], [], 0)[0]:
            return 0, 0
        # left there for another thread that waits too
        return self.pid, int(self._news.recv(64, socket.MSG_PEEK))

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if not FORKS:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc]  # of Popen
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]  # of Popen
        return self.returncode


def run(
    command: Sequence[str | Path],
    *,
    capture_output: bool = False,
    timeout: float = 100,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As subprocess.run with check=False; a process that takes longer than `timeout` is killed."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(command, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _fork_command(
    command: Sequence[str | Path], *, preexec_fn: object = None, **options: Any
) -> Forked:
    return Forked(command, **options)


# The module subprocess for code that starts commands of Python: its Popen forks. A `preexec_fn` is
# not called, so the local launcher then neither chooses cores nor ends runs with their parent.
FORKING = types.SimpleNamespace(**vars(subprocess) | {"Popen": _fork_command})


# Code of a process like `python -m tinygpt.train`, whose local launcher forks the runs of a sweep.
FORKING_TRAIN = """
import sys
from tests import processes
from tinygpt import train
from tinygpt.sweeps.launchers import local
local.subprocess = processes.FORKING
train.main(sys.argv[1:])
"""


def kill_all() -> None:
    """Kill every process that was started here and has not been waited for."""
    for process in _running:
        if process.returncode is None:
            process.kill()


def _take_terminal() -> None:
    """Make the standard input the terminal of this session."""
    import fcntl  # not on Windows
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _connection() -> socket.socket:
    """This process's connection to the server, which starts when the first worker needs it."""
    global _server
    if _server is None or _server[0] != os.getpid():
        ours = _connected(Path(os.environ["SHARED_BY_TESTS"]))
        _server = os.getpid(), ours
        atexit.register(ours.send, b"")  # the server ends after the last one; runs first
    return _server[1]


def _connected(folder: Path) -> socket.socket:
    import fcntl  # not on Windows

    place = str(folder / "processes")
    with (folder / "processes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.connect(place)
        except (FileNotFoundError, ConnectionRefusedError):  # none yet, or it has ended
            Path(place).unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
                listening.bind(place)
                listening.listen()
                code = f"from tests.processes import serve; serve({listening.fileno()})"
                process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    cwd=ROOT,
                    env=_AT_IMPORT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[listening.fileno()],
                )
                atexit.register(process.wait)
            ours.connect(place)
    return ours


def _send(connection: socket.socket, request: Mapping[str, Any], files: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
    connection.sendmsg([json.dumps(request).encode()], [rights])


# In the server


def warm() -> None:
    """Import what commands import, and do once what takes long only at the first time."""
    from tinygpt.config import compose
    from tinygpt.records import plots

    commands = ("tinygpt.evaluate", "tinygpt.sample", "tinygpt.training.run")
    libraries = ("aiohttp", "httpx", "pydantic", "requests")  # of those named below
    for name in ("torch.distributed", *commands, *libraries):
        import_module(name)
    # these read the environment when they are imported
    assert not {"wandb", "datasets", "huggingface_hub", "transformers"}.intersection(sys.modules)
    # the choices of the tiny settings: what they compose to is kept
    text = ["dataset=text", "dataset.path=a.txt"]
    compose.compose("train", [*text, "model=nano", "device=cpu", "callback=[]"])
    compose.compose("sweep", [])
    rows = [{"step": step, "train/loss": 1.0, "val/loss": 1.0, "val/bpb": 1.0} for step in (1, 2)]
    plots.loss_curve(rows, Path(os.devnull), title="first")
    pictures.draw_no_curve()
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lack the other threads"


def serve(number: int) -> None:
    """Fork a process for each request to this listening socket; tell its id and exit status."""
    listening = socket.socket(fileno=number)
    connections: list[socket.socket] = []
    warm()
    gc.freeze()
    awake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listening, awake, *connections], [], [])
        if listening in ready:
            connections.append(listening.accept()[0])
        for connection in [c for c in connections if c in ready]:
            message, files, _, _ = socket.recv_fds(connection, 1 << 20, 5)
            if not message:
                connections.remove(connection)
                connection.close()
                if not connections:
                    return
                continue
            if (pid := os.fork()) == 0:
                for file in (listening, *connections, *running.values()):
                    file.close()
                os.close(awake)
                os.close(alarm)
                try:
                    _become(json.loads(message), files)
                except SystemExit as end:
                    if end.code is not None and not isinstance(end.code, int):
                        raise
                    _leave(end.code or 0)
                else:
                    _leave(0)
                return
            for file in files[1:]:
                os.close(file)
            running[pid] = socket.socket(fileno=files[0])
            running[pid].send(str(pid).encode())
        if awake in ready:
            os.read(awake, 1 << 12)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with running.pop(pid) as news, suppress(BrokenPipeError):  # nobody may wait for it
                news.send(str(status).encode())


def _become(request: Mapping[str, Any], files: list[int]) -> None:
    """Turn a fork of the server into the process that was asked for, and run its command."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    news, *streams, connection = files
    for number, file in enumerate(streams):
        os.dup2(file, number)
    for file in (news, *streams):
        os.close(file)
    global _server
    _server = os.getpid(), socket.socket(fileno=connection)  # this process can fork others by it
    if request["session"]:
        os.setsid()
    if request["terminal"]:
        _take_terminal()
    os.chdir(request["cwd"])
    _open_streams()
    ours = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [folder for folder in sys.path[1:] if folder not in ours]
    os.environ.clear()
    os.environ.update(request["environment"])
    kind, *arguments = request["arguments"]
    first = {"-m": str(Path.cwd()), "-c": ""}.get(kind, str(Path(kind).parent))
    theirs = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [first, *theirs, *rest]
    if kind == "-m":
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(arguments[0], vars(main))
    else:
        sys.argv[:] = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


def _leave(code: int) -> None:
    """End this process without the half second in which Python takes all modules apart.

    Returns if a stream cannot be flushed; the interpreter then ends as it does on its own.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _open_streams() -> None:
    """Make new objects for the standard streams, because a terminal is buffered by lines."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        by_lines = name == "stderr" or os.isatty(number)
        stream = open(  # noqa: SIM115  # for as long as the process lives
            number,
            "w" if number else "r",
            buffering=1 if by_lines else -1,
            encoding="utf-8",
            errors="backslashreplace" if name == "stderr" else "strict",
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
