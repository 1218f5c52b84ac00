"""The results on disk: one folder per cell, shared by any number of processes and machines.

Layout below the root::

    cells/<key>/config.json   the settings of the cell
    cells/<key>/log.txt ...   logs of the run, its checkpoint while it is unfinished
    cells/<key>/error.json    why the last attempt failed
    cells/<key>/result.json   written last, atomically: a cell with a valid one is finished
    locks/<key>.lock          held by the process that computes the cell
    running/<key>.json        how far that process is
    running/<id>.mark         there while a run on a cluster goes on: who finds it sees the same folder
    tables/<name>.json        the plan of a table: which cells stand in which row and column

Locks are advisory file locks (``filelock``): they vanish with the process that holds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clpack.files import write_bytes, write_text

from .config import RunConfig

__all__ = ["ResultStore", "Stamp"]

Stamp = tuple[int, int]  # size in bytes and time of the last change in nanoseconds
_SCHEMA = 1


class ResultStore:
    """The results below one folder.

    Args:
        root: the folder; created when something is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().resolve()

    def folder(self, key: str) -> Path:
        """Returns the folder of a cell."""
        return self.root / "cells" / key

    @contextlib.contextmanager
    def claim(self, key: str, *, wait: bool = False) -> Iterator[bool]:
        """Holds the lock of a cell inside the ``with`` block; yields False if another process holds it.

        Args:
            key: the cell.
            wait: whether to wait for the other process instead. Default: False.
        """
        path = self.root / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            (self.root / "running" / f"{key}.json").unlink(missing_ok=True)
            lock.release()

    def start(self, config: RunConfig) -> Path:
        """Writes ``config.json``, removes the error of the last attempt, and returns the folder of the cell."""
        folder = self.folder(config.key())
        _write_json(folder / "config.json", config.settings())
        (folder / "error.json").unlink(missing_ok=True)
        return folder

    def finish(self, config: RunConfig, result: dict[str, Any], environment: dict[str, Any]) -> None:
        """Writes the result of a cell and removes what is no longer needed: checkpoint and old error.

        Args:
            config: the cell.
            result: what depends on the configuration alone; the same bytes whenever the cell is computed.
            environment: all the rest: seconds, memory, versions, time stamps.
        """
        folder = self.folder(config.key())
        content = {"schema": _SCHEMA, "key": config.key(), "result": result, "environment": environment}
        _write_json(folder / "result.json", content)
        (folder / "error.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)

    def result(self, key: str) -> dict[str, Any] | None:
        """Returns the content of ``result.json``; None if it is missing, damaged or of another schema."""
        content = _read_json(self.folder(key) / "result.json")
        if content is None or content.get("schema") != _SCHEMA or content.get("key") != key:
            return None
        return content

    def fail(self, config: RunConfig, message: str, details: str = "") -> None:
        """Records why a cell failed: one line and, where there is one, the traceback."""
        content = {"key": config.key(), "message": message, "details": details}
        _write_json(self.folder(config.key()) / "error.json", content)

    def error(self, key: str) -> str | None:
        """Returns the line that says why the last attempt failed; None if it did not."""
        content = _read_json(self.folder(key) / "error.json")
        return None if content is None else str(content["message"])

    def set_progress(self, config: RunConfig, fraction: float) -> None:
        """Tells everyone who looks how much of a running cell is done, as a fraction."""
        content = {"label": config.label(), "fraction": fraction}
        _write_json(self.root / "running" / f"{config.key()}.json", content)

    def progress(self) -> dict[str, dict[str, Any]]:
        """Returns ``label`` and ``fraction`` of the running cells by key, also those of other processes."""
        entries = {path.stem: _read_json(path) for path in (self.root / "running").glob("*.json")}
        return {key: entry for key, entry in entries.items() if entry is not None}

    @contextlib.contextmanager
    def mark(self) -> Iterator[str]:
        """Leaves a mark in the folder inside the ``with`` block; yields its name, which is new each time.

        A mark is a lock, too: those that nobody holds any more, of runs that were killed, are removed.
        """
        mark = uuid.uuid4().hex
        path = self._mark(mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob("*.mark"):
            with contextlib.suppress(OSError), FileLock(left, timeout=0):
                left.unlink(missing_ok=True)
        with FileLock(path):
            try:
                yield mark
            finally:
                path.unlink(missing_ok=True)

    def has_mark(self, mark: str) -> bool:
        """Returns whether a mark is there: whether this is the folder it was left in, and not another of its name."""
        return os.path.exists(self._mark(mark))  # False also where the folder may not be looked into

    def _mark(self, mark: str) -> Path:
        return self.root / "running" / f"{mark}.mark"

    def stamps(self, key: str) -> dict[str, Stamp]:
        """Returns the files of a cell, by their paths below its folder, each with what changes when it does.

        The cell may be running: files that vanish meanwhile are left out, as are those not written to the end.
        """
        folder, stamps = self.folder(key), dict[str, Stamp]()
        for parent, _, names in os.walk(folder):
            for path in (Path(parent, name) for name in sorted(names) if not name.endswith(".partial")):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    stamps[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        return stamps

    def pack(self, key: str, known: Mapping[str, Stamp] | None = None) -> dict[str, bytes | None]:
        """Returns the content of the files of a cell, by their paths below its folder.

        The cell may be running. The checkpoint is read first, so the logs reach at least as far as it goes on from.

        Args:
            key: the cell.
            known: stamps of files; one that still has the same stamp is given as None. Default: None, there are none.
        """
        known, files = known or {}, dict[str, bytes | None]()
        for of_checkpoint in (True, False):
            for name, stamp in self.stamps(key).items():
                if name.startswith("checkpoint/") == of_checkpoint:
                    with contextlib.suppress(FileNotFoundError):
                        files[name] = None if known.get(name) == stamp else (self.folder(key) / name).read_bytes()
        return files

    def unpack(self, key: str, files: Mapping[str, bytes | None]) -> None:
        """Gives a cell these files, and no others; None leaves one as it is.

        Each is written atomically: the checkpoint after the logs that it goes on from, the result last.
        """
        folder = self.folder(key)
        for name in sorted(files, key=lambda name: (name == "result.json", name.startswith("checkpoint/"), name)):
            content = files[name]
            if content is not None:
                write_bytes(folder / name, content)
        for name in self.stamps(key).keys() - files.keys():
            (folder / name).unlink()
            with contextlib.suppress(OSError):  # other files are in it
                (folder / name).parent.rmdir()

    def save_plan(self, name: str, plan: dict[str, Any]) -> None:
        """Writes the plan of a table."""
        _write_json(self.root / "tables" / f"{name}.json", plan)

    def plans(self) -> list[dict[str, Any]]:
        """Returns the plans of all tables run into this folder, sorted by name."""
        plans = [_read_json(path) for path in sorted((self.root / "tables").rglob("*.json"))]
        return [plan for plan in plans if plan is not None]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: not JSON, or not text
        return None
    return content if isinstance(content, dict) else None
