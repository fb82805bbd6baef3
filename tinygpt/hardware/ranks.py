"""The ranks that train one model together, and what they exchange.

A rank is a process; torchrun starts and numbers them.  Without torchrun there is one rank, the main
one, and everything here does nothing.  Only this file and parallel.py use torch.distributed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from tinygpt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

# limit for one exchange between all ranks, since one may be compiling or sharing its cores; work of
# the main rank alone, such as preparing data, has no limit
TIMEOUT = timedelta(minutes=10)
POLL_S = 0.02
CLUES_S = 3.0  # after a broken exchange, search so long for the rank that broke it
LAST_WORD_S = 25.0  # after a signal; torchrun kills 30 seconds after it
_LINKS = ("gloo", "nccl", "connection", "socket", "broken pipe")  # in messages of broken exchanges

T = TypeVar("T")


class RankLost(UserError):
    """Another rank has ended, so this one cannot continue; `rank` is its number, if known."""

    def __init__(self, message: str, *, rank: int | None) -> None:
        super().__init__(message)
        self.rank = rank


class Ranks:
    """This process and its place among the ranks, as torchrun numbers them."""

    def __init__(self, *, alone: bool = False) -> None:
        set_by_torchrun = {} if alone else os.environ
        self.rank = int(set_by_torchrun.get("RANK", "0"))
        self.size = int(set_by_torchrun.get("WORLD_SIZE", "1"))
        self.local_rank = int(set_by_torchrun.get("LOCAL_RANK", "0"))  # on its machine
        self.restarts = int(set_by_torchrun.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self._answers = 0
        self._store: Store | None = None
        self._processes: dict[int, tuple[str, int]] = {}  # host and process id of each other rank

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that prints, writes and decides."""
        return self.rank == 0

    def meet(self) -> None:
        """Connect to the rendezvous store; raises UserError if there is none."""
        if self.size == 1:
            return
        from torch.distributed import DistError
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        try:
            store, _, _ = next(iter(rendezvous("env://")))
        except ValueError as error:
            raise UserError(
                f"WORLD_SIZE={self.size} is set, but {error}; start the ranks with torchrun, "
                "or unset it for one process"
            ) from None
        except DistError as error:
            reason = str(error).partition("\n")[0].rpartition("message: ")[2]
            raise UserError(
                f"the {self.size} ranks cannot meet at MASTER_ADDR={os.environ['MASTER_ADDR']} "
                f"MASTER_PORT={os.environ['MASTER_PORT']}: {reason}; start them with torchrun "
                "--standalone, which finds a free port, or set another MASTER_PORT"
            ) from None
        self._store = PrefixStore("tinygpt", store)

    def connect(self, device_type: str) -> None:
        """Join the process groups: one on the device for tensors, one on the CPU for decisions."""
        if self.size == 1:
            return
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore

        store = self._meeting_place()
        store.set(f"process/{self.rank}", json.dumps([socket.gethostname(), os.getpid()]))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )
        for rank in range(self.size):
            if rank != self.rank:
                host, process_id = json.loads(store.get(f"process/{rank}"))
                self._processes[rank] = host, process_id

    def leave(self, code: int) -> None:
        """Leave the process group before exiting with this code."""
        if not self._processes:
            return
        if code == 1:  # threads of a broken group may wait for ever
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        from torch import distributed

        distributed.destroy_process_group()

    # JSON values; a rank waits for them without a limit

    def from_main(self, work: Callable[[], T]) -> T:
        """Run `work` on the main rank; return its JSON value on every rank. Waits without limit."""
        if self.size == 1:
            return work()
        store = self._meeting_place()
        self._answers += 1
        key = f"answer/{self._answers}"
        if self.is_main:
            answer = work()
            store.set(key, json.dumps(answer))
            return answer
        try:
            while not store.check([key]):
                time.sleep(POLL_S)
            heard: T = json.loads(store.get(key))
        except RuntimeError:  # the store ends with the process that hosts it
            raise RankLost(f"the main one of {self.size} ranks has ended", rank=0) from None
        return heard

    def main_first(self, work: Callable[[], T]) -> T:
        """Run `work` on the main rank first, then on the others; returns this rank's result."""
        if not self.is_main:
            self.from_main(lambda: None)
            return work()
        result = work()
        self.from_main(lambda: None)
        return result

    # Numbers; every rank must make the same calls in the same order

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all ranks, in place; does not synchronize the device."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def total(self, value: float) -> float:
        """The sum over all ranks, in float64."""
        return self._reduced([value], "SUM")[0]

    def most(self, *values: float) -> list[float]:
        """The maximum of each value over all ranks."""
        return self._reduced(values, "MAX")

    def _reduced(self, values: Iterable[float], operation: str) -> list[float]:
        if self.size == 1:
            return [*values]
        import torch
        from torch import distributed

        numbers = torch.tensor([*values], dtype=torch.float64)
        distributed.all_reduce(numbers, op=getattr(distributed.ReduceOp, operation))
        answer: list[float] = numbers.tolist()
        return answer

    def share(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """Yield this rank's items, every size-th one, each with whether it counts.

        When the items run out, a rank gets the last one again, not to be counted: all ranks need
        the same number of items, since each forward may be an exchange.
        """
        rest = iter(items)
        while turn := list(islice(rest, self.size)):
            counts = self.rank < len(turn)
            yield turn[self.rank if counts else -1], counts

    # Ends

    @contextmanager
    def watched(self, last_word: Callable[[], None] | None = None) -> Iterator[None]:
        """Raise RankLost for an error that another rank caused; other errors pass unchanged.

        torchrun ends the remaining ranks with SIGTERM: it raises KeyboardInterrupt in here, and is
        ignored after an error. If this has not ended LAST_WORD_S after a signal, as when a GPU
        waits for a lost rank, another thread calls `last_word`, shortly before torchrun kills.
        """
        if self.size == 1:
            yield
            return
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with _last_word(last_word) if last_word else nullcontext():
                yield
        except BaseException as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the remaining work takes seconds
            lost = None if isinstance(error, UserError) else self._lost(error)
            if lost:
                raise lost from error
            if not isinstance(error, KeyboardInterrupt | RankLost):  # other ranks caused these
                self._leave_word(str(error) or type(error).__name__)
            raise
        signal.signal(signal.SIGTERM, before)

    def main_fails_too(self) -> bool:
        """Whether the main rank fails for a reason of its own; waits until it has printed it."""
        if self._word_of(0, wait_s=CLUES_S) is None:
            return False
        deadline = time.monotonic() + LAST_WORD_S
        while time.monotonic() < deadline and not self._has_died(0):
            time.sleep(POLL_S)
        return True

    def _has_died(self, rank: int) -> bool:
        """Whether the process of that rank is dead; False if it runs on another machine."""
        host, process_id = self._processes[rank]
        if host != socket.gethostname():
            return False
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        try:  # a zombie: dead, its exit code not yet read; only Linux shows this
            stat = Path(f"/proc/{process_id}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "Z"

    def _leave_word(self, message: str) -> None:
        with suppress(Exception):  # the store may be gone
            self._meeting_place().set(f"end/{self.rank}", message.partition("\n")[0])

    def _word_of(self, rank: int, *, wait_s: float = 0.0) -> str | None:
        deadline = time.monotonic() + wait_s
        with suppress(Exception):  # the store may be gone with its host
            store = self._meeting_place()
            while not store.check([f"end/{rank}"]):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(POLL_S)
            return store.get(f"end/{rank}").decode(errors="replace")
        return None

    def _lost(self, error: BaseException) -> RankLost | None:
        """The RankLost for the rank that caused this error; None if no other rank did."""
        broken = isinstance(error, RuntimeError) and any(
            word in str(error).lower() for word in _LINKS
        )
        if not broken and not isinstance(error, KeyboardInterrupt):
            return None
        deadline = time.monotonic() + (CLUES_S if broken else 0.0)
        while True:
            for rank, (_, process_id) in self._processes.items():
                name = f"rank {rank} of {self.size}"
                if word := self._word_of(rank):
                    return RankLost(f"{name} failed: {word}", rank=rank)
                if self._has_died(rank):
                    return RankLost(f"{name} (process {process_id}) has died", rank=rank)
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        first_line = str(error).partition("\n")[0]
        words = f"a rank on another machine, or the way to it, is lost: {first_line}"
        return RankLost(words, rank=None) if broken else None

    def _meeting_place(self) -> Store:
        assert self._store is not None, "meet first"
        return self._store


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _last_word(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` from a thread if this has not ended LAST_WORD_S after a signal."""
    over = threading.Event()
    here, there = socket.socketpair()
    there.setblocking(False)

    def listen() -> None:
        if here.recv(1) and not over.wait(LAST_WORD_S):
            with suppress(Exception):
                say()
        here.close()

    # Python handles a signal only between bytecodes; the wakeup descriptor is written at once
    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=listen, name="last word", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        there.close()
