"""The signals that ask a process to end: Ctrl-C, SIGTERM, and SIGHUP when a terminal closes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_heard_hangup = False


def exit_code(name: str) -> int:
    """The exit code of a process that a signal, such as "SIGINT", has ended."""
    return 128 + signal.Signals[name]


def interrupt(name: str) -> None:
    """Raise KeyboardInterrupt with the name of the signal; a handler for `handled`."""
    raise KeyboardInterrupt(name)


@contextmanager
def handled(handle: Callable[[str], None]) -> Iterator[None]:
    """Call `handle` with the name of each signal that asks this process to end.

    A signal that was ignored stays ignored, as SIGHUP is under nohup. Only the first SIGHUP counts,
    because a shell repeats the one that the terminal has sent. In a thread other than the main one
    this does nothing, because Python delivers signals to the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: FrameType | None) -> None:
        global _heard_hangup
        name = signal.Signals(number).name
        if name == "SIGHUP":
            if _heard_hangup:
                return
            _heard_hangup = True
        handle(name)

    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    obeyed = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in obeyed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
