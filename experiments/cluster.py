"""Cells on a Ray cluster, whether or not its machines see the folder of the results.

The run leaves a mark in the folder. A worker that finds it there uses the folder like any process on one machine.
Another one works on copies: an actor on the machine of the results holds the locks for it, gives it the files of its
cell and of the sources, and takes back progress, what an interrupted cell goes on from, and what is finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from filelock import FileLock
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .config import RunConfig
from .store import ResultStore, Stamp

__all__ = ["on_ray", "ray_cluster"]

Outcome = TypeVar("Outcome")
_ATTEMPTS = 4  # at a cell whose worker or node dies
_PATIENCE = 30.0  # seconds for a cluster to answer, and for its workers to end after an interrupt
_SAVE_EVERY = 5.0  # seconds between two looks at the files of a cell
_LOGS = ("console.txt", "log.txt", "metrics.csv", "tb")  # change all the time; sent with what goes on from them
_OWN_OPTIONS = ("num_cpus", "num_gpus", "memory", "accelerator_type")  # all other resources are custom ones


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connects to a cluster inside the ``with`` block; if the process is connected already, that is the one used.

    Args:
        address: address of the cluster; None lets Ray find one, or start one on this machine.

    Raises:
        ConnectionError: if there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    host, colon, port = (address or "").rpartition(":")
    if colon and "://" not in host:  # Ray itself takes minutes to find that nobody is there
        try:
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        except (OSError, ValueError) as error:
            raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def on_ray(
    work: Callable[..., Outcome],
    cells: Sequence[RunConfig],
    *,
    store: ResultStore,
    lost: Callable[[RunConfig, str], Outcome],
    resources: Mapping[str, float | str],
) -> Generator[Outcome]:
    """Computes the cells on the cluster that this process is connected to; yields each outcome once it is there.

    A cell takes as many processors as it has threads and, on ``cuda``, a GPU. One whose worker or node dies is tried
    again, up to three times, from its last checkpoint. Leaving the iteration early ends the cells that are running.

    Args:
        work: computes a cell; called with the cell, ``store`` and ``wait``: whether to wait for its lock, which a dead
            worker may hold for a little longer.
        cells: the cells.
        store: the results, on this machine.
        lost: makes the outcome of a cell that was given up, from the cell and the reason.
        resources: what each cell takes, by name, instead of the above: ``num_cpus``, ``num_gpus`` (fractions share a
            GPU), ``memory`` in bytes, ``accelerator_type``, or a custom resource of the cluster.

    Raises:
        ValueError: if this process runs on no machine of the cluster.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=here).remote(store)
    compute = ray.remote(_compute)
    pending: dict[Any, tuple[RunConfig, int]] = {}

    def start(cell: RunConfig, attempt: int) -> None:
        task = compute.options(**_options(cell, resources))
        pending[task.remote(work, cell, store, mark, keeper, wait=attempt > 1)] = (cell, attempt)

    with store.mark() as mark:
        try:
            if not ray.get(keeper.has_mark.remote(mark)):
                raise ValueError(
                    f"Ray does not see the results in {store.root}; start the run on a machine of the cluster, with "
                    "its address as HOST:PORT or none"
                )
            _warn_if_nowhere([_options(cell, resources) for cell in cells])
            for cell in cells:
                start(cell, 1)
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                cell, attempt = pending.pop(done)
                try:
                    outcome = ray.get(done)
                except RayError as error:
                    ray.get(keeper.dismiss.remote([done.task_id().hex()]))
                    if attempt < _ATTEMPTS and not isinstance(error, RayTaskError):
                        start(cell, attempt + 1)
                        continue
                    outcome = lost(cell, _reason(error))
                yield outcome
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
            if pending:
                ray.wait(list(pending), num_returns=len(pending), timeout=_PATIENCE)
                ray.get(keeper.dismiss.remote([reference.task_id().hex() for reference in pending]))
            ray.kill(keeper)


def _compute(
    work: Callable[..., Outcome], cell: RunConfig, store: ResultStore, mark: str, keeper: Any, *, wait: bool
) -> Outcome:
    if store.has_mark(mark):
        return work(cell, store=store, wait=wait)
    with _temporary_folder() as folder:
        owner = ray.get_runtime_context().get_task_id()
        return work(cell, store=_RemoteStore(folder, keeper, owner), wait=wait)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Makes a folder for the ``with`` block, and removes those that killed workers have left on this machine.

    A folder is there only while its worker holds the lock beside it.
    """
    place = Path(tempfile.gettempdir())
    for left in [path for path in place.glob("clpack-ray-*") if path.suffix != ".lock"]:
        lock = left.with_suffix(".lock")
        with contextlib.suppress(OSError), FileLock(lock, timeout=0):  # an error: it is in use, or another user's
            shutil.rmtree(left, ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder = place / f"clpack-ray-{uuid.uuid4().hex}"
    lock = folder.with_suffix(".lock")
    with FileLock(lock):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


class _RemoteStore(ResultStore):
    """Results that lie on another machine: a folder here, with copies of the cells that are claimed.

    What an interrupted cell goes on from also changes while it is prepared for training, by condensation for example:
    a thread looks at the files of a claimed cell, and sends those that have changed.

    Args:
        root: the folder here, empty.
        keeper: the actor on the other machine.
        owner: name of the task.
    """

    def __init__(self, root: str | os.PathLike[str], keeper: Any, owner: str) -> None:
        super().__init__(root)
        self._keeper = keeper
        self._owner = owner
        self._sent: dict[str, dict[str, Stamp]] = {}  # by cell: the files that the keeper has, as they were then
        self._saving = threading.Lock()

    @contextlib.contextmanager
    def claim(self, key: str, *, wait: bool = False) -> Iterator[bool]:
        while (files := _answer(self._keeper.claim.remote(key, self._owner))) is None:
            if not wait:
                yield False
                return
            time.sleep(1)
        self.unpack(key, files)
        self._sent[key] = self.stamps(key)
        try:
            with self._watched(key):
                yield True
        finally:
            _answer(self._keeper.release.remote(key, self._owner, self.pack(key, self._sent[key])))

    def set_progress(self, config: RunConfig, fraction: float) -> None:
        self._keeper.set_progress.remote(config, self._owner, fraction)
        self._save(config.key())

    @contextlib.contextmanager
    def _watched(self, key: str) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SAVE_EVERY):
                with contextlib.suppress(RayTaskError):  # if the keeper cannot write, giving the cell back tells
                    self._save(key)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _save(self, key: str) -> None:
        """Sends the files that have changed, if any but logs has."""
        with self._saving:
            sent, stamps = self._sent[key], self.stamps(key)
            if not any(name.partition("/")[0] not in _LOGS for name, _ in sent.items() ^ stamps.items()):
                return
            files = self.pack(key, sent)
            _answer(self._keeper.save.remote(key, self._owner, files))
            self._sent[key] = {name: stamp for name, stamp in stamps.items() if name in files}


def _answer(reference: Any) -> Any:
    """Waits for an answer of the keeper; ``ray.get`` would lend the processors of the cell to another one meanwhile.

    Without the keeper this process is as good as dead. It ends, so the cell is tried again instead of failing.
    """
    try:
        return reference.future().result()
    except RayActorError:
        os._exit(1)


class _Keeper:
    """The actor on the machine of the results.

    Each cell in its hands belongs to one task, its owner; what comes late from a task that was dismissed is ignored.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._claims: dict[str, tuple[str, contextlib.ExitStack]] = {}
        self._dismissed: set[str] = set()

    def has_mark(self, mark: str) -> bool:
        return self._store.has_mark(mark)

    def claim(self, key: str, owner: str) -> dict[str, bytes | None] | None:
        """Takes a cell; returns its files, or None if it is in other hands.

        Raises:
            RuntimeError: if the task was dismissed.
        """
        if owner in self._dismissed:
            raise RuntimeError("this attempt was given up")
        if key in self._claims:
            return None
        claim = contextlib.ExitStack()
        if not claim.enter_context(self._store.claim(key)):
            return None
        self._claims[key] = (owner, claim)
        return self._store.pack(key)

    def set_progress(self, config: RunConfig, owner: str, fraction: float) -> None:
        if self._owner(config.key()) == owner:
            self._store.set_progress(config, fraction)

    def save(self, key: str, owner: str, files: dict[str, bytes | None]) -> None:
        if self._owner(key) == owner:
            self._store.unpack(key, files)

    def release(self, key: str, owner: str, files: dict[str, bytes | None]) -> None:
        """Gives a cell back, with its files."""
        if self._owner(key) == owner:
            with self._claims.pop(key)[1]:
                self._store.unpack(key, files)

    def dismiss(self, owners: Sequence[str]) -> None:
        """Gives back the cells of tasks that are no more, and takes nothing from these from now on."""
        self._dismissed.update(owners)
        for key in [key for key in self._claims if self._owner(key) in owners]:
            self._claims.pop(key)[1].close()

    def _owner(self, key: str) -> str | None:
        return self._claims[key][0] if key in self._claims else None


def _options(cell: RunConfig, resources: Mapping[str, float | str]) -> dict[str, Any]:
    """Returns what Ray is to be asked for."""
    own = {name: value for name, value in resources.items() if name in _OWN_OPTIONS}
    custom = {name: value for name, value in resources.items() if name not in _OWN_OPTIONS}
    return {
        "num_cpus": cell.num_threads,
        "num_gpus": 1 if cell.device.startswith("cuda") else 0,
        **own,
        "resources": custom,
        "max_retries": 0,  # Ray's own tell nobody that they are repeats, and do not end when memory runs out
    }


def _warn_if_nowhere(wanted: Sequence[Mapping[str, Any]]) -> None:
    """Warns of cells that no machine can take as the cluster is now: they wait, for ever if it does not grow."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for options in {repr(options): options for options in wanted}.values():
        needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options.get("memory", 0)}
        needs |= options["resources"]
        if "accelerator_type" in options:
            needs[f"accelerator_type:{options['accelerator_type']}"] = 0
        needs = {name: amount for name, amount in needs.items() if amount or ":" in name}
        if not any(all(name in has and has[name] >= needs[name] for name in needs) for has in machines):
            text = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
            warnings.warn(f"no machine of the Ray cluster has {text}; cells wait until one joins", stacklevel=2)


def _reason(error: RayError) -> str:
    """Returns one line; what a worker raised stands in the last one of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"Ray gave it up: {lines[-1 if isinstance(error, RayTaskError) else 0]}"
