"""The command line: ``clpack list | run | report | demo | data``.

Only what a command needs is imported, so that ``clpack --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import restricted_string_type

from clpack import __version__

from .config import Experiment

__all__ = ["main", "main_of_table"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: the arguments; None takes those of the process.

    Returns:
        Exit status: 0; 1 if a cell failed or a data set is not as it should be; 2 for bad input; 130 after Ctrl-C;
        141 if nobody reads the output any more.
    """
    options = _parser().parse_args(_config_first(sys.argv[1:] if arguments is None else arguments))
    command = options.command
    try:
        status = _COMMANDS[command](options[command])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        return 141
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"clpack {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def main_of_table(experiment: Experiment) -> NoReturn:
    """Does what ``clpack run TABLE`` does, for the module of a table that is run as a script."""
    sys.exit(main(["run", experiment.name, *sys.argv[1:]]))


def _config_first(arguments: list[str]) -> list[str]:
    """Moves ``--config FILE`` right behind the command, so that all other options win, wherever it stands."""
    files: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--config" and (file := next(words, None)) is not None:
            word = f"--config={file}"
        (files if word.startswith("--config=") else others).append(word)
    return [*others[:1], *files, *others[1:]]


_Seeds = restricted_string_type("1,2,3", r"^\d+(,\d+)*$")
_Shard = restricted_string_type("I/N", r"^\d+/\d+$")


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"{self.prog.replace(' [options]', '')}: {' '.join(message.split())} (see --help)", file=sys.stderr)
        sys.exit(2)


def _parser() -> ArgumentParser:
    parser = _Parser(prog="clpack", description="Continual-learning tables, from data to report.", version=__version__)
    commands = parser.add_subcommands(required=True, dest="command")

    listing = _Parser(description="List what there is.")
    listing.add_argument("what", nargs="?", choices=list(_LISTS), help="only one kind (default: all)")
    commands.add_subcommand("list", listing, help="list tables, streams and strategies")

    demo = _Parser(description="Compare strategies on digits streams: 3 seeds, about 3 minutes on 2 cores.")
    demo.add_argument("--out", default="results/demo", metavar="DIR", help="folder of the results")
    demo.add_argument("--smoke", action="store_true", help="the smallest run that goes through everything")
    commands.add_subcommand("demo", demo, help="a comparison on real data, in minutes")

    run = _Parser(description="Compute the unfinished cells of a table, then write its report.")
    run.add_argument("table", metavar="TABLE", help="name of the table, see clpack list tables")
    run.add_argument("--config", action="config", metavar="FILE", help="YAML or JSON file with these options")
    run.add_argument(
        "--set",
        action=_Pairs,
        nargs="+",
        default={},
        metavar="KEY=VALUE",
        help="change a setting of every cell, e.g. train_epochs=2 strategy.lr=0.1 (values are JSON, else text)",
    )
    run.add_argument("--preset", default="paper", metavar="NAME", help="a variant of the table, e.g. short")
    run.add_argument("--smoke", action="store_true", help="the same as --preset smoke")
    run.add_argument("--rows", nargs="+", metavar="LABEL", help="only these rows, e.g. SGD 'Joint training'")
    run.add_argument("--columns", nargs="+", metavar="LABEL", help="only these columns, e.g. 5-dataset")
    run.add_argument("--seeds", type=list[int] | _Seeds, metavar="1,2,3", help="seeds instead of those of the table")
    run.add_argument("--out", default="results", metavar="DIR", help="folder of the results, may be shared")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time on this machine")
    run.add_argument("--shard", type=_Shard, metavar="I/N", help="compute only part I of N, I from 0 to N-1")
    run.add_argument("--executor", choices=["local", "ray"], default="local", help="where cells are computed")
    run.add_argument("--address", metavar="HOST:PORT", help="Ray cluster (default: the one Ray finds, or a new one)")
    run.add_argument(
        "--resources",
        action=_Pairs,
        nargs="+",
        default={},
        metavar="KEY=VALUE",
        help="what a cell takes of the Ray cluster, e.g. num_gpus=0.25 memory=4e9 accelerator_type=A100",
    )
    run.add_argument("--checkpoint-every", type=int, default=1000, metavar="N", help="iterations between checkpoints")
    commands.add_subcommand("run", run, help="compute a table")

    report = _Parser(description="Write the report of a result folder again.")
    report.add_argument("directory", metavar="DIR", help="folder given to run as --out")
    report.add_argument("--into", metavar="FILE", help="also write the tables into the marked places of a document")
    report.add_argument("--ledger", metavar="FILE", help="also write every number with what it takes to get it again")
    commands.add_subcommand("report", report, help="write the report of a result folder")

    data = _Parser(description="Look after the data sets on this machine. Nothing is ever downloaded.")
    commands.add_subcommand("data", data, help="list, check or unpack data sets")
    actions = data.add_subcommands(required=True, dest="action")
    actions.add_subcommand("list", _Parser(description="List what is needed."), help="list what is needed")
    root: dict[str, Any] = {"metavar": "DIR", "help": "folder of the data (default: CLPACK_DATA or ~/.clpack)"}
    verify = _Parser(description="Check the files.")
    verify.add_argument("names", metavar="NAME", nargs="*", help="only these data sets (default: all)")
    verify.add_argument("--dataset-root", **root)
    actions.add_subcommand("verify", verify, help="check the files")
    prepare = _Parser(description="Unpack the official archives of a data set, or convert the images of GenImage.")
    prepare.add_argument("name", metavar="NAME", help="name of the data set, see clpack data list")
    prepare.add_argument("raw", metavar="RAW", nargs="?", help="folder of the download, the same as --from RAW")
    prepare.add_argument("out", metavar="OUT", nargs="?", help="folder of the data, the same as --dataset-root OUT")
    prepare.add_argument(
        "--from",
        nargs="+",
        default=[],
        metavar="FILE",
        help="the archives, or folders that hold them; without it, their places under the dataset root",
    )
    prepare.add_argument("--dataset-root", **root)
    prepare.add_argument(
        "--jobs", type=int, metavar="N", help="processes that convert GenImage (default: one per core)"
    )
    actions.add_subcommand("prepare", prepare, help="unpack or convert a data set")
    return parser


class _Pairs(argparse.Action):
    """Collects ``key=value`` pairs; on the command line they are added to those of the file."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            pairs = {**_pairs(self.dest, getattr(namespace, self.dest)), **_pairs(self.dest, values)}
        except ValueError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, pairs)


def _pairs(option: str, given: Any) -> dict[str, Any]:
    """Returns the values of an option that were given as a mapping, as ``KEY=VALUE`` or as a list of these.

    None, an empty entry of a file, is none.

    Raises:
        ValueError: if it is none of them.
    """
    if given is None or isinstance(given, Mapping):
        return {str(key): value for key, value in (given or {}).items()}
    pairs = {}
    for pair in given if isinstance(given, list) else [given]:
        key, equals, text = str(pair).partition("=")
        if not equals:
            raise ValueError(f"--{option} takes KEY=VALUE, got {pair!r}")
        pairs[key] = _value(text)
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _integers(text: str, separator: str) -> list[int]:
    return [int(part) for part in text.split(separator)]


def _list(options: Namespace) -> int:
    for what in [options.what] if options.what else _LISTS:
        print(f"{what}:")
        entries = _LISTS[what]()
        width = max(map(len, entries), default=0)
        for name, description in entries.items():
            print(f"  {name:<{width}}  {description}")
    return 0


def _tables() -> Mapping[str, str]:
    from . import tables

    return {name: tables.get(name).title for name in tables.names()}


def _streams() -> Mapping[str, str]:
    import clpack.benchmarks

    return {name: ", ".join(clpack.benchmarks.describe(name).scenarios) for name in clpack.benchmarks.names()}


def _strategies() -> Mapping[str, str]:
    import clpack.strategies

    return {name: clpack.strategies.describe(name).summary for name in clpack.strategies.names()}


def _run(options: Namespace) -> int:
    from . import tables
    from .report import print_tables, report
    from .run import run_experiment

    if options.smoke and options.preset not in ("paper", "smoke"):
        raise ValueError(f"--smoke is --preset smoke, but --preset {options.preset} is given as well; drop one")
    shard = None
    if options.shard is not None:
        index, n_shards = _integers(options.shard, "/")
        shard = (index, n_shards)
    summary = run_experiment(
        tables.get(options.table),
        preset="smoke" if options.smoke else options.preset,
        seeds=_integers(options.seeds, ",") if isinstance(options.seeds, str) else options.seeds,
        rows=options.rows,
        columns=options.columns,
        overrides=_pairs("set", options.set),
        out=options.out,
        jobs=options.jobs,
        shard=shard,
        executor=options.executor,
        address=options.address,
        resources=_pairs("resources", options.resources),
        checkpoint_every=options.checkpoint_every,
    )
    print_tables(summary.out, [summary.table])
    print(summary)
    print(f"report: {report(summary.out).html}")
    return 1 if summary.with_status("failed") else 0


def _report(options: Namespace) -> int:
    from .report import report, write_into

    if options.into:
        write_into(options.directory, options.into)
    if options.ledger:
        from .ledger import write_ledger

        write_ledger(options.directory, options.ledger)
    print(report(options.directory).html)
    return 0


def _demo(options: Namespace) -> int:
    from .demo import run_demo

    return run_demo(out=options.out, smoke=options.smoke)


def _data(options: Namespace) -> int:
    from clpack.benchmarks.files import describe_data_sets, verify_data_sets

    chosen = options[options.action]
    if options.action == "list":
        for data_set in describe_data_sets():
            name = f"{data_set.name}: {len(data_set.files)} files" if data_set.files else data_set.name
            lines = name, data_set.url, ", ".join(data_set.archives), data_set.note
            print("\n  ".join(line for line in lines if line))
        return 0
    if options.action == "prepare":
        return _prepare_data(chosen)
    statuses = verify_data_sets(chosen.dataset_root, chosen.names or None)
    for status in statuses:
        print(f"{'ok     ' if status.ok else 'problem'}  {status.path}{'' if status.ok else f': {status.problem}'}")
    return 0 if all(status.ok for status in statuses) else 1


def _prepare_data(options: Namespace) -> int:
    from clpack.benchmarks.files import prepare_data_set, resolve_dataset_root

    sources = [*options["from"], *([options.raw] if options.raw else [])]
    if options.out and options.dataset_root:
        raise ValueError(f"OUT {options.out} and --dataset-root {options.dataset_root} are the same; drop one")
    root = options.out or options.dataset_root
    if options.name != "genimage":
        if options.jobs is not None:
            raise ValueError(f"--jobs is for genimage only, got {options.jobs} for {options.name}; drop it")
        unpacked = prepare_data_set(options.name, sources, root)
        print("\n".join(f"unpacked {path}" for path in unpacked) or f"{options.name} is there already")
        return 0
    from clpack.benchmarks import prepare_genimage

    if len(sources) != 1:
        raise ValueError(f"genimage needs the folder of the unpacked archives: RAW, got {sources or 'none'}")
    jobs = options.jobs if options.jobs is not None else _cores()
    with _progress_bar() as progress:
        report = prepare_genimage(sources[0], resolve_dataset_root(root), jobs=jobs, progress=progress)
    print(report)
    return 0


def _cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on the standard error, if that is a terminal; yields what sets it to so many out of so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


_LISTS = {"tables": _tables, "streams": _streams, "strategies": _strategies}
_COMMANDS = {"list": _list, "demo": _demo, "run": _run, "report": _report, "data": _data}

if __name__ == "__main__":
    sys.exit(main())
