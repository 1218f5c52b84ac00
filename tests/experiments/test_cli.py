from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clpack.experiments
from clpack.benchmarks import files
from clpack.benchmarks.files import DataFile, DataSet
from clpack.experiments import tables
from clpack.experiments.cli import main
from clpack.experiments.metrics import METRICS
from clpack.experiments.store import ResultStore

SLURM = Path(__file__).resolve().parents[2] / "experiments" / "slurm.sbatch"
SMALL = """
from clpack.experiments.config import Column, Component, Experiment, Row

EXPERIMENT = Experiment(
    name="testing/small",
    title="A small table",
    paper="",
    rows=(Row("SGD", Component("Naive", {"lr": 0.1, "maximize": False})),),
    columns=(Column("Digits", Component("SplitDigits", {"n_experiences": 5}), Component("MLP")),),
    seeds=(1, 2),
    presets={"smoke": {"seeds": (9,)}},
)

if __name__ == "__main__":
    from clpack.experiments.cli import main_of_table

    main_of_table(EXPERIMENT)
"""


@pytest.fixture(autouse=True)
def small_table(tmp_path, monkeypatch):
    folder = tmp_path / "tables" / "testing"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "small.py").write_text(SMALL)
    (folder / "helper.py").write_text("")
    monkeypatch.setattr(clpack.experiments, "__path__", [*clpack.experiments.__path__, str(folder.parent)])
    yield
    for name in ("", ".small", ".helper"):
        sys.modules.pop(f"clpack.experiments.testing{name}", None)


@pytest.fixture
def cells(monkeypatch):
    """The configurations that reached the training, which is not done here."""
    cells = []

    def run_cell(config, store, *, checkpoint_every):
        cells.append(config)
        metrics = dict.fromkeys(METRICS, 0.5)
        result = {"config": config.settings(), "data": {"sha256": "0" * 64}, "metrics": metrics}
        phase = {"phase": "train", "seconds": 1.0, "peak_memory_bytes": 1, "state_bytes": {"model": 1}}
        environment = {"phases": [phase], "versions": {}, "platform": "", "device": "", "num_threads": 1}
        store.finish(
            config,
            {**result, "accuracy_matrix": [[0.5]], "learning_curve": [0.5]},
            {**environment, "seconds": 1.0, "finished_at": "2024-01-01T00:00:00+00:00"},
        )

    monkeypatch.setitem(sys.modules, "clpack.experiments.cell", SimpleNamespace(run_cell=run_cell))
    return cells


def failure(arguments, capsys):
    """Returns exit status and error text of a command that is refused."""
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    return status, capsys.readouterr().err


def test_registry():
    assert "testing/small" in tables.names()
    assert tables.get("testing/small").title == "A small table"
    with pytest.raises(ValueError, match="unknown table 'testing/smal': did you mean 'testing/small'"):
        tables.get("testing/smal")


def test_list(capsys):
    assert main(["list", "tables"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tables:"
    assert ["testing/small", "A small table"] in [line.split(maxsplit=1) for line in lines]
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.index("tables:") < out.index("streams:") < out.index("strategies:")
    assert "PermutedDigits" in out


def test_run(cells, tmp_path, capsys):
    assert main(["run", "testing/small", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "| SGD | 50.00 ± 0.00 |" in out
    assert "2 cells: 2 computed" in out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert [cell.seed for cell in cells] == [1, 2]
    (tmp_path / "out" / "report.html").unlink()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_command_line_beats_file_beats_table(cells, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(
        textwrap.dedent(f"""
        seeds: [4, 5]
        out: {tmp_path / "out"}
        set:
          train_epochs: 2
          strategy.lr: 1e-3
        """)
    )
    main(["run", "testing/small", "--config", str(file)])
    assert [(cell.seed, cell.train_epochs, cell.strategy.options["lr"]) for cell in cells] == [
        (4, 2, 1e-3),
        (5, 2, 1e-3),
    ]
    cells.clear()
    main(["run", "testing/small", "--config", str(file), "--seeds", "6", "--set", "train_epochs=3", "num_threads=2"])
    (cell,) = cells
    assert (cell.seed, cell.train_epochs, cell.strategy.options["lr"], cell.num_threads) == (6, 3, 1e-3, 2)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("place", range(4))
def test_command_line_beats_file_wherever_it_stands(cells, tmp_path, place, joined):
    file = tmp_path / "options.yaml"
    file.write_text(f"seeds: [4, 5]\nout: {tmp_path / 'out'}\nset: {{train_epochs: 2, num_threads: 2}}\n")
    options = [["testing/small"], ["--seeds", "6"], ["--set", "train_epochs=3"]]
    options.insert(place, [f"--config={file}"] if joined else ["--config", str(file)])
    assert main(["run", *itertools.chain(*options)]) == 0
    (cell,) = cells
    assert (cell.seed, cell.train_epochs, cell.num_threads) == (6, 3, 2)


@pytest.mark.parametrize("settings", ["[train_epochs=2, strategy.lr=0.5]", "{train_epochs: 2, strategy.lr: 0.5}"])
def test_settings_in_a_file(settings, cells, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(f"out: {tmp_path / 'out'}\nset: {settings}\n")
    assert main(["run", "testing/small", "--config", str(file), "--seeds", "1"]) == 0
    assert main(["run", "testing/small", "--config", str(file), "--seeds", "1", "--set", "strategy.lr=1"]) == 0
    assert [(cell.train_epochs, cell.strategy.options["lr"]) for cell in cells] == [(2, 0.5), (2, 1)]
    file.write_text(f"out: {tmp_path / 'out'}\nset:\n")
    assert main(["run", "testing/small", "--config", str(file), "--seeds", "1"]) == 0
    assert (cells[-1].train_epochs, cells[-1].strategy.options["lr"]) == (1, 0.1)


def test_smoke_shard_and_values(cells, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    main(["run", "testing/small", "--smoke", "--set", "strategy.maximize=true", *out])
    assert [(cell.seed, cell.strategy.options["maximize"]) for cell in cells] == [(9, True)]
    main(["run", "testing/small", "--shard", "0/2", *out])
    main(["run", "testing/small", "--shard", "1/2", *out])
    assert sorted(cell.seed for cell in cells) == [1, 2, 9]


def test_chosen_rows_and_columns(cells, tmp_path, capsys):
    run = ["run", "testing/small", "--out", str(tmp_path / "out")]
    assert main([*run, "--rows", "SGD", "--columns", "Digits", "--seeds", "3"]) == 0
    assert [(cell.row, cell.column, cell.seed) for cell in cells] == [("SGD", "Digits", 3)]
    capsys.readouterr()
    status, error = failure([*run, "--columns", "Digits", "digits"], capsys)
    assert (status, len(error.splitlines())) == (2, 1)
    assert "unknown column 'digits': did you mean 'Digits'" in error


def test_resources_of_a_cell(cells, tmp_path, monkeypatch):
    from clpack.experiments import cluster

    found = []

    def on_ray(work, cells, *, resources, **options):
        found.append(resources)
        yield from map(work, cells)

    monkeypatch.setattr(cluster, "on_ray", on_ray)
    monkeypatch.setattr(cluster, "ray_cluster", contextlib.nullcontext)
    command = ["run", "testing/small", "--executor", "ray", "--out", str(tmp_path / "out")]
    assert main([*command, "--resources", "num_gpus=0.25", "memory=4e9", "accelerator_type=A100", "big=1"]) == 0
    assert found == [{"num_gpus": 0.25, "memory": 4e9, "accelerator_type": "A100", "big": 1}]


def slurm_array(index, first, last, count):
    """The environment of a job of an array."""
    values = {"ID": index, "MIN": first, "MAX": last, "COUNT": count}
    return os.environ | {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_the_example_for_slurm(cells, tmp_path):
    """What it calls is caught, once for each job of an array that begins at 3, and then done here."""
    program = tmp_path / ".venv" / "bin" / "clpack"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    for index in ("3", "4"):
        command = ["bash", str(SLURM), "testing/small", "--set", "train_epochs=2", "--out", "a b"]
        process = subprocess.run(
            command, cwd=tmp_path, env=slurm_array(index, 3, 4, 2), capture_output=True, text=True, check=True
        )
        arguments = process.stdout.splitlines()
        assert arguments == ["run", *command[2:], "--shard", f"{int(index) - 3}/2"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert sorted((cell.seed, cell.train_epochs) for cell in cells) == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("first", "last", "count"), [(3, 5, 2), (0, 30, 16)])
def test_the_example_for_slurm_refuses_an_array_with_gaps(tmp_path, first, last, count):
    """``--array=3,5`` and ``--array=0-31:2``: the first job, too, which could find its part."""
    environment = slurm_array(first, first, last, count)
    process = subprocess.run(["bash", str(SLURM)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        f"slurm.sbatch: --array must have no gaps, got {count} jobs from {first} to {last}; give a range such as 0-7\n"
    )


def test_exit_status_of_a_failed_cell(monkeypatch, tmp_path, capsys):
    def run_cell(config, store, *, checkpoint_every):
        raise RuntimeError("no memory")

    monkeypatch.setitem(sys.modules, "clpack.experiments.cell", SimpleNamespace(run_cell=run_cell))
    assert main(["run", "testing/small", "--seeds", "1", "--out", str(tmp_path / "out")]) == 1
    assert "failed: SGD on Digits, seed 1: RuntimeError: no memory" in capsys.readouterr().out


def test_an_interrupt(monkeypatch, tmp_path, capsys):
    def run_cell(config, store, *, checkpoint_every):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "clpack.experiments.cell", SimpleNamespace(run_cell=run_cell))
    assert main(["run", "testing/small", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from here\n")
    assert ResultStore(tmp_path / "out").progress() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "testing/smal"], "clpack run: unknown table 'testing/smal': did you mean 'testing/small'?"),
        (
            ["run", "testing/small", "--set", "strategy.ls=1"],
            "unknown setting 'strategy.ls': did you mean 'strategy.lr'",
        ),
        (["run", "testing/small", "--set", "train_epochs"], "--set takes KEY=VALUE, got 'train_epochs'"),
        (["run", "testing/small", "--set", "strategy.lr=big"], "strategy.lr must be a number"),
        (["run", "testing/small", "--set", "strategy.lr=0"], "lr must be positive, got 0"),
        (["run", "testing/small", "--set", "strategy.memory=3"], "unknown setting 'strategy.memory'"),
        (["run", "testing/small", "--set", "model=Foo"], "unknown model 'Foo': expected one of MLP, "),
        (
            ["run", "testing/small", "--set", "device=banana"],
            "device must be one of torch, such as cpu, cuda or cuda:1",
        ),
        (["run", "testing/small", "--set", "stream.n_experiences=3"], "got 3, expected one of [1, 2, 5, 10]"),
        (["run", "testing/small", "--address", "head:6379"], "add --executor ray"),
        (
            ["run", "testing/small", "--executor", "ray", "--resources", "gpus"],
            "--resources takes KEY=VALUE",
        ),
        (["run", "testing/small", "--executor", "ray", "--resources", "num_gpus=many"], "num_gpus must be a number"),
        (["run", "testing/small", "--seeds", "1,x"], "1,x"),
        (["run", "testing/small", "--shard", "3"], "I/N"),
        (["run", "testing/small", "--shard", "2/2"], "shard must be I/N with 0 <= I < N, got 2/2"),
        (["run", "testing/small", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["run", "testing/small", "--jobs", "many"], "many"),
        (["run", "testing/small", "--preset", "shrt"], "unknown preset 'shrt': expected one of paper, smoke"),
        (["run", "testing/small", "--preset", "short", "--smoke"], "drop one"),
        (["run", "testing/small", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "testing/small", "--config"], "argument --config: expected one argument"),
        (["run", "testing/small", "--job", "2", "--frobnicate"], "unrecognized arguments"),
        (["data", "prepare", "mnist"], "clpack data: unknown data set 'mnist': did you mean 'MNIST'?"),
        (["data", "prepare", "MNIST", "--from", "nowhere"], "there is no file or folder nowhere"),
        (["data", "prepare", "genimage"], "genimage needs the folder of the unpacked archives: RAW, got none"),
        (["data", "prepare", "genimage", "a", "out", "--from", "b"], "RAW, got ['b', 'a']"),
        (["data", "prepare", "genimage", "nowhere", "out"], "there is no folder nowhere"),
        (["data", "prepare", "genimage", ".", "out"], ". holds no GenImage download: expected one or more of"),
        (["data", "prepare", "MNIST", ".", "a", "--dataset-root", "b"], "OUT a and --dataset-root b are the same; dr"),
        (["data", "prepare", "MNIST", "--jobs", "2"], "--jobs is for genimage only, got 2 for MNIST; drop it"),
        (["data", "verify", "mnist"], "clpack data: unknown data set 'mnist': did you mean 'MNIST'?"),
        (["data"], "{list,verify,prepare}"),
        (["report", "nowhere"], "clpack report: no results in"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "it was not provided"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, error = failure(arguments, capsys)
    assert status == 2
    assert message in error
    assert error.startswith("clpack")
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("settings", ["5", "[train_epochs: 2]", "[[1]]", "text", "{5: 1}", "{strategy: {lr: 1}}"])
@pytest.mark.parametrize("more", [[], ["--set", "train_epochs=3"]])
def test_bad_settings_in_a_file(settings, more, tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text(f"out: {tmp_path / 'out'}\nset: {settings}\n")
    status, error = failure(["run", "testing/small", "--config", str(file), *more], capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert re.search("--set takes KEY=VALUE, got|unknown setting '5'|strategy must be text such as 'Naive'", error)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, error = failure(["run", "testing/small", "--out", str(tmp_path / "file")], capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert f"Not a directory: '{tmp_path}/file" in error


def test_output_that_nobody_reads():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "clpack.experiments.cli", "list", "streams"]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


def test_unknown_key_in_a_file(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text("seedz: [1]\n")
    status, error = failure(["run", "testing/small", "--config", str(file)], capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert "seedz" in error


def test_data(tmp_path, capsys):
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "MNIST: 4 files" in out
    assert "clpack data prepare genimage RAW OUT" in out
    assert main(["data", "verify", "--dataset-root", str(tmp_path)]) == 1
    assert f"problem  {tmp_path}/MNIST/raw/train-images-idx3-ubyte: missing" in capsys.readouterr().out


def test_prepare_data(tmp_path, capsys, monkeypatch):
    letters = DataFile("letters/a", hashlib.md5(b"abc").hexdigest(), "letters/a.gz")
    monkeypatch.setitem(files._DATA_SETS, "Letters", DataSet("Letters", "https://example.org", (letters,)))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc"))
    command = ["data", "prepare", "Letters", "--dataset-root", str(tmp_path / "store")]
    assert failure(command, capsys) == (
        2,
        f"clpack data: Letters cannot be unpacked without {tmp_path}/store/letters/a.gz: get what is missing from "
        "https://example.org and put it there, or name it, or its folder, with --from\n",
    )
    assert main([*command, "--from", str(tmp_path / "a.gz")]) == 0
    assert capsys.readouterr().out == f"unpacked {tmp_path}/store/letters/a\n"
    assert (tmp_path / "store/letters/a").read_bytes() == b"abc"
    assert main(command) == 0
    assert capsys.readouterr().out == "Letters is there already\n"


def test_prepare_genimage(tmp_path, capsys):
    archive = tmp_path / "raw" / "imagenet_ai_0508_adm"
    for part in ("train/nature", "train/ai", "val/nature", "val/ai"):
        (archive / part).mkdir(parents=True)
    Image.new("RGB", (80, 70)).save(archive / "train/ai/948_adm_1.PNG")  # a class of task 0
    (archive / "val/ai/948_adm_2.PNG").write_bytes(b"no image")
    command = ["data", "prepare", "genimage", str(tmp_path / "raw"), str(tmp_path / "out"), "--jobs", "1"]
    for _ in range(2):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "ADM train/ai: 1 images\n" in out
        assert "skipped imagenet_ai_0508_adm/val/ai/948_adm_2.PNG: cannot identify image file" in out
    images = tmp_path / "out/genimage/ADM/0/train/ai/images.npy"
    assert np.load(images).shape == (1, 3, 64, 64)
    verify = ["data", "verify", "genimage", "--dataset-root", str(tmp_path / "out")]
    assert main(verify) == 0
    assert f"ok       {images}\n" in capsys.readouterr().out
    os.truncate(images, 1000)
    assert main(verify) == 1
    assert f"problem  {images}: 1000 bytes where 12416 are expected; remove its folder" in capsys.readouterr().out
    assert main([*verify[:-1], str(tmp_path / "raw")]) == 1
    assert f"problem  {tmp_path / 'raw' / 'genimage'}: nothing is prepared; unpack" in capsys.readouterr().out
    main(["data", "verify", "MNIST", "CUB200", "--dataset-root", str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 4 + 4


def test_answers_without_torch():
    code = textwrap.dedent("""
        import contextlib, io, sys
        from clpack.experiments.cli import main
        for arguments in (["--help"], ["--version"], ["run", "--help"], ["list", "tables"], ["list", "streams"]):
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                main(arguments)
        print(sorted({"torch", "avalanche", "matplotlib", "numpy"} & set(sys.modules)))
        """)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
