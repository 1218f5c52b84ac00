"""Where cells are computed: in this process or in several on this machine; :mod:`.cluster` has the third way, Ray.

An executor is called with the work and the cells, and yields what the work returned for each cell as soon as
it is there. Work never raises (it records its errors itself); only a worker that is killed has to be noticed here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from .config import RunConfig

__all__ = ["in_processes", "in_this_process"]

Outcome = TypeVar("Outcome")
Work = Callable[[RunConfig], Outcome]
Lost = Callable[[RunConfig, str], Outcome]


def in_this_process(work: Work[Outcome], cells: Sequence[RunConfig]) -> Generator[Outcome]:
    """Computes the cells one after the other."""
    yield from map(work, cells)


def in_processes(
    work: Work[Outcome], cells: Sequence[RunConfig], *, jobs: int, lost: Lost[Outcome]
) -> Generator[Outcome]:
    """Computes up to ``jobs`` cells at a time, each in a separate process.

    A process serves one cell after the other. If it is killed, only its cell is lost, and a new process takes
    its place. Leaving the iteration early ends all of them.

    Args:
        work: computes a cell; importable, since the processes are spawned.
        cells: the cells.
        jobs: number of processes.
        lost: makes the outcome of a cell whose process died, from the cell and the reason.
    """
    waiting = deque(cells)
    busy: dict[Connection, tuple[SpawnProcess, RunConfig]] = {}
    leaving: list[SpawnProcess] = []

    def assign(process: SpawnProcess, connection: Connection) -> None:
        if waiting:
            cell = waiting.popleft()
            busy[connection] = (process, cell)
            with contextlib.suppress(BrokenPipeError):  # it died while idle: waiting for its answer will tell
                connection.send(cell)
        else:
            connection.close()  # the process ends when it sees this
            leaving.append(process)

    try:
        for _ in range(min(jobs, len(cells))):
            assign(*_hire(work))
        while busy:
            ready = wait(list(busy))
            for connection in [connection for connection in busy if connection in ready]:
                process, cell = busy.pop(connection)
                try:
                    outcome = connection.recv()
                except EOFError:
                    process.join()
                    outcome = lost(cell, _cause_of_death(process.exitcode))
                    connection.close()
                    if waiting:
                        assign(*_hire(work))
                else:
                    assign(process, connection)
                yield outcome
    finally:
        for process, _ in busy.values():
            process.terminate()
            leaving.append(process)
        for process in leaving:
            process.join()


def _hire(work: Work[Outcome]) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs))
    process.start()
    theirs.close()
    return process, ours


def _serve(work: Work[Outcome], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError):  # no more cells
        while True:
            connection.send(work(connection.recv()))


def _die_with_parent() -> None:
    """Ends this process when its parent is killed, so that it does not keep the lock of a cell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (often: out of memory)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with exit status {exit_code}"
