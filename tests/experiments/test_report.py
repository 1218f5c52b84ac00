from __future__ import annotations

import csv
import dataclasses
import re
import shlex
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from clpack.experiments import figures, tables
from clpack.experiments.cli import main
from clpack.experiments.config import Column, Component, Experiment, Reference, Row, Sources
from clpack.experiments.ledger import ledger
from clpack.experiments.report import load_tables, print_tables, report, write_into
from clpack.experiments.run import _plan
from clpack.experiments.store import ResultStore

TABLE = Experiment(
    name="tag/digits",
    title="Digits <permuted>",
    paper="Malviya et al. (2022)",
    rows=(Row("SGD", Component("Naive")), Row("TAG|RMSProp", Component("TAG"))),
    columns=(Column("Permuted", Component("PermutedDigits"), Component("MLP")),),
    seeds=(1, 2),
    references=(
        Reference("SGD", "Permuted", "average_accuracy", 60.0, 2.0, "Table 1"),
        Reference("TAG|RMSProp", "Permuted", "average_accuracy", 79.7),
    ),
    metrics=("average_accuracy", "forgetting"),
)
VERSIONS = {"clpack": "0.1", "torch": "2", "avalanche": "0.6.0", "numpy": "2", "python": "3.11"}


def finish(store, cell, accuracy, forgetting):
    matrix = [[0.9, 0.9 - 2 * forgetting], [None, accuracy]]
    phases = [
        {"phase": "train", "seconds": 2.0, "peak_memory_bytes": 3 * 2**20, "state_bytes": {"model": 2**20}},
        {"phase": "eval", "seconds": 0.25, "peak_memory_bytes": 5 * 2**20},
        {
            "phase": "train",
            "seconds": 1.0,
            "peak_memory_bytes": 4 * 2**20,
            "state_bytes": {"model": 1, "plugins": 2**19},
        },
        {"phase": "eval", "seconds": 0.25, "peak_memory_bytes": 2 * 2**20},
    ]
    result = {
        "config": cell.settings(),
        "data": {"sha256": "ab" * 32, "n_train": [10, 10], "n_test": [5, 5]},
        "metrics": {
            "average_accuracy": accuracy,
            "forgetting": forgetting,
            "learning_accuracy": 0.9,
            "backward_transfer": -forgetting,
        },
        "accuracy_matrix": matrix,
        "learning_curve": [0.9, accuracy],
    }
    environment = {
        "phases": phases,
        "seconds": 2.5,
        "versions": VERSIONS,
        "platform": "Linux",
        "device": "x86_64",
        "num_threads": 1,
        "finished_at": "2024-05-06T07:08:09+00:00",
    }
    store.finish(cell, result, environment)


@pytest.fixture
def store(tmp_path):
    store = ResultStore(tmp_path)
    plan = _plan(TABLE, TABLE.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    return store


@pytest.fixture
def full(store):
    sgd_1, sgd_2, tag_1, tag_2 = TABLE.cells()
    finish(store, sgd_1, 0.60, 0.2)
    finish(store, sgd_2, 0.70, 0.3)
    finish(store, tag_1, 0.80, 0.1)
    finish(store, tag_2, 0.80, 0.1)
    return store


def test_markdown(full):
    # SGD: mean of 60 and 70 is 65, population deviation 5; (65 - 60) / 2 = 2.5 deviations of the reference above.
    expected = """\
    # Digits <permuted>

    Malviya et al. (2022)

    ## Average accuracy (%, higher is better)

    | Method | Permuted | reference | difference |
    | --- | ---: | ---: | ---: |
    | SGD | 65.00 ± 5.00 | 60.00 ± 2.00 | +2.5 |
    | TAG\\|RMSProp | **80.00 ± 0.00** | 79.70 |  |

    ## Forgetting (fraction, lower is better)

    | Method | Permuted |
    | --- | ---: |
    | SGD | 0.250 ± 0.050 |
    | TAG\\|RMSProp | **0.100 ± 0.000** |

    - Mean ± population standard deviation over seeds 1, 2. Best of each column in bold.
    - Reference values (Table 1); difference in standard deviations of the reference.
    """
    assert report(full.root).markdown.read_text() == textwrap.dedent(expected)


def test_missing_and_failed_cells_show(store):
    sgd_1, sgd_2, tag_1, _ = TABLE.cells()
    finish(store, sgd_1, 0.60, 0.2)
    store.fail(sgd_2, "ValueError: the loss is NaN")
    store.fail(tag_1, "killed")
    text = report(store.root).markdown.read_text()
    assert "| SGD | 60.00 ± 0.00 (1 of 2 seeds) | 60.00 ± 2.00 | +0.0 |" in text
    assert "| TAG\\|RMSProp | failed | 79.70 |  |" in text
    assert "- Incomplete: 1 of 4 cells are finished." in text
    assert "- SGD on Permuted, seed 2: ValueError: the loss is NaN" in text
    assert "**" not in text  # nothing to compare, nothing in bold


def test_a_row_that_is_for_one_column_only(store):
    second = dataclasses.replace(TABLE.columns[0], label="Split")
    rows = (TABLE.rows[0], dataclasses.replace(TABLE.rows[1], columns=("Permuted",)))
    table = dataclasses.replace(TABLE, rows=rows, columns=(*TABLE.columns, second), metrics=("forgetting",))
    plan = _plan(table, table.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell in table.cells():
        finish(store, cell, 0.6, 0.2)
    paths = report(store.root)
    assert "| TAG\\|RMSProp | **0.200 ± 0.000** |  |" in paths.markdown.read_text()
    assert paths.html.read_text().count("<td>TAG|RMSProp</td><td>Permuted</td>") == 2  # costs and configuration
    assert "<td>TAG|RMSProp</td><td>Split</td>" not in paths.html.read_text()
    assert len(paths.entries.read_text().splitlines()) == 1 + 3


def test_nothing_finished(store):
    paths = report(store.root)
    assert "| SGD | missing | 60.00 ± 2.00 |  |" in paths.markdown.read_text()
    assert "<svg" not in paths.html.read_text()


def test_csv(full):
    paths = report(full.root)
    with paths.entries.open() as file:
        entries = list(csv.DictReader(file))
    assert len(entries) == 4  # two rows, one column, two metrics
    assert {name: entries[0][name] for name in ("row", "metric", "unit", "n_finished", "n_seeds", "source")} == {
        "row": "SGD",
        "metric": "average_accuracy",
        "unit": "%",
        "n_finished": "2",
        "n_seeds": "2",
        "source": "Table 1",
    }
    numbers = [float(entries[0][name]) for name in ("mean", "std", "reference_mean", "reference_std", "difference")]
    assert numbers == pytest.approx([65.0, 5.0, 60.0, 2.0, 2.5])
    with paths.cells.open() as file:
        cells = list(csv.DictReader(file))
    assert [(cell["row"], cell["seed"], cell["average_accuracy"]) for cell in cells] == [
        ("SGD", "1", "0.6"),
        ("SGD", "2", "0.7"),
        ("TAG|RMSProp", "1", "0.8"),
        ("TAG|RMSProp", "2", "0.8"),
    ]
    assert cells[0]["key"] == TABLE.cells()[0].key()


def test_page_needs_nothing_beside_itself(full):
    page = report(full.root).html.read_text()
    assert re.findall(r"""(?:src|href)=["'](?!#)(?!data:)[^"']*""", page) == []
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)
    assert page.count("<svg ") == 2  # learning curves and accuracy matrices of one column
    assert "<h1>Digits &lt;permuted&gt;</h1>" in page
    assert "<strong>80.00 ± 0.00</strong>" in page
    assert "<td>3.0</td><td>0.5</td><td>5</td><td>0.50</td>" in page  # seconds, seconds, MiB, MiB
    assert "prefers-color-scheme: dark" in page
    assert "torch 2" in page


def test_scoring_runs_and_galleries(tmp_path):
    sources = Sources(Component("Trace"), (8, 9))
    scored = dataclasses.replace(
        TABLE, rows=(TABLE.rows[0], Row("MLI", Component("Pruning"), sources=sources)), references=()
    )
    store = ResultStore(tmp_path)
    plan = _plan(scored, scored.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell in scored.cells():
        finish(store, cell, 0.5, 0.1)
    (table,) = load_tables(tmp_path)
    assert [cell.source_seconds for cell in table.cells] == [None] * 4  # not finished
    assert "Scoring runs" not in report(tmp_path).html.read_text()

    for source in scored.cells()[-1].sources:
        finish(store, source, 0.5, 0.1)
    picture = store.folder(scored.cells()[-1].key()) / "pruning" / "experience_000.png"
    picture.parent.mkdir()
    picture.touch()
    (table,) = load_tables(tmp_path)
    assert [cell.source_seconds for cell in table.cells] == [None, None, 5.0, 5.0]  # two runs of 2.5 s
    paths = report(tmp_path)
    page = paths.html.read_text()
    assert "<th>Scoring runs (s)</th>" in page
    assert "<td>0.50</td><td>0.0</td></tr>" in page
    assert "<td>0.50</td><td>5.0</td></tr>" in page
    (link,) = re.findall(r'<a href="([^"]*)"', page)
    assert tmp_path / link == picture
    assert [row["source_seconds"] for row in csv.DictReader(paths.cells.open())] == ["", "", "5.0", "5.0"]


def test_best_ties_and_direction(full):
    (table,) = load_tables(full.root)
    assert table.best("Permuted", "average_accuracy") == "80.00"
    assert table.best("Permuted", "forgetting") == "0.100"


def test_presets_and_overrides_are_stated(tmp_path, capsys):
    store = ResultStore(tmp_path)
    plan = _plan(TABLE, TABLE.cells(seeds=[3]), "smoke", {"train_epochs": 2})
    store.save_plan(plan["name"], plan)
    print_tables(tmp_path, ["tag/digits.smoke"])
    text = capsys.readouterr().out
    assert "- One run each, seed 3. Best of each column in bold." in text
    assert "- Preset 'smoke', not the full protocol." in text
    assert "- Settings changed for this run: train_epochs=2." in text


def test_report_twice_is_the_same(full):
    first = report(full.root).markdown.read_text(), report(full.root).html.read_text()
    assert (report(full.root).markdown.read_text(), report(full.root).html.read_text()) == first


def test_no_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results in .*: it has no tables/\*\.json"):
        report(tmp_path)


def test_an_upper_bound_is_never_the_best(store):
    bounded = dataclasses.replace(TABLE, rows=(TABLE.rows[0], dataclasses.replace(TABLE.rows[1], upper_bound=True)))
    plan = _plan(bounded, bounded.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell, accuracy in zip(bounded.cells(), (0.6, 0.6, 0.9, 0.9), strict=True):
        finish(store, cell, accuracy, 0.2)
    (table,) = load_tables(store.root)
    assert [table.is_best(entry) for entry in table.entries()] == [False] * 4  # one method is nothing to compare
    assert "in bold (TAG|RMSProp aside)." in report(store.root).markdown.read_text()


def test_tables_are_written_into_documents(full, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("# Title\n\n<!-- table: tag/digits -->\nstale\n<!-- end of table -->\n\nThe end.\n")
    write_into(full.root, document)
    text = document.read_text()
    assert text.startswith("# Title\n\n<!-- table: tag/digits -->\n")
    assert text.endswith("<!-- end of table -->\n\nThe end.\n")
    assert "| SGD | 65.00 ± 5.00 | 60.00 ± 2.00 | +2.5 |" in text
    assert "stale" not in text
    write_into(full.root, document)
    assert document.read_text() == text


def test_documents_that_cannot_be_filled(full, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- table: other/name -->\n<!-- end of table -->\n")
    with pytest.raises(ValueError, match="unknown table 'other/name'.*expected one of tag/digits"):
        write_into(full.root, document)
    document.write_text("no table\n")
    with pytest.raises(ValueError, match="has no place for a table"):
        write_into(full.root, document)


def test_metrics_are_drawn_against_x(tmp_path):
    columns = tuple(
        dataclasses.replace(TABLE.columns[0], label=label, settings={"strategy.remove_count": x}, x=x)
        for label, x in (("many", 30), ("few", 10), ("some", 20))
    )
    rows = (Row("none", Component("Naive")), Row("random", Component("Pruning", {"score": "random"})))
    experiment = dataclasses.replace(
        TABLE, rows=rows, columns=(*columns, TABLE.columns[0]), references=(), x_label="removed samples"
    )
    store = ResultStore(tmp_path)
    plan = _plan(experiment, experiment.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell in experiment.cells():
        if cell.column != "few":
            finish(store, cell, 0.5, 0.1)

    (table,) = load_tables(tmp_path)
    assert table.curves == {"PermutedDigits": ["few", "some", "many"]}
    assert table.is_constant("none", table.curves["PermutedDigits"])
    assert not table.is_constant("random", table.curves["PermutedDigits"])
    paths = report(tmp_path)
    assert [path.name for path in paths.pictures][:2] == [
        "tag-digits-PermutedDigits-average_accuracy.svg",
        "tag-digits-PermutedDigits-forgetting.svg",
    ]
    svg = paths.pictures[0].read_text()
    assert all(text in svg for text in ("removed samples", "average accuracy (%)", "random", "prefers-color-scheme"))
    page = paths.html.read_text()
    assert page.count("<svg ") == len(paths.pictures)
    assert len(paths.pictures) == 2 + 2 * 4  # a curve per metric; a learning curve and matrices per column
    assert "<h2>Curves</h2>" in page


def test_a_single_experience_has_no_learning_curve(store):
    for cell in TABLE.cells():
        finish(store, cell, 0.5, 0.1)
        content = store.result(cell.key())
        content["result"].update(accuracy_matrix=[[0.5]], learning_curve=[0.5])
        store.finish(cell, content["result"], content["environment"])
    page = report(store.root).html.read_text()
    assert "<svg" not in page
    assert "Accuracy matrices" not in page


def test_task_weights_are_drawn(store):
    for cell in TABLE.cells():
        finish(store, cell, 0.5, 0.1)
        if cell.row != "SGD":
            content = store.result(cell.key())
            content["result"]["task_weights"] = [[None, None], [1.25 if cell.seed == 1 else 1.75, None]]
            store.finish(cell, content["result"], content["environment"])
    page = report(store.root).html.read_text()
    assert "<h2>Task weights of TAG</h2>" in page
    picture = page[page.index("Task weights of TAG on") :].split("</svg>")[0]
    assert ">1.5</text>" in picture  # the mean over the seeds
    assert ">TAG|RMSProp</text>" in picture
    assert ">SGD</text>" not in picture


def test_metrics_that_only_some_cells_have(store):
    noisy = dataclasses.replace(TABLE, metrics=("noise_found",), references=())
    plan = _plan(noisy, noisy.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell in noisy.cells():
        finish(store, cell, 0.5, 0.1)
    content = store.result(noisy.cells()[0].key())
    content["result"]["metrics"]["noise_found"] = 0.25
    store.finish(noisy.cells()[0], content["result"], content["environment"])
    text = report(store.root).markdown.read_text()
    assert "| SGD | 25.00 ± 0.00 |" in text
    assert "| TAG\\|RMSProp |" not in text  # it has nothing to show


@pytest.fixture
def drawn(monkeypatch):
    """Lets the functions that draw return the picture as Matplotlib has it, not as SVG text."""

    def keep(figure, label):
        figure.canvas.draw()
        return figure

    monkeypatch.setattr(figures, "_svg", keep)


def record(store, table, **fields):
    """Finishes the cells of a table with fields of their results, for each seed from 1 on."""
    plan = _plan(table, table.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell in table.cells():
        finish(store, cell, 0.5, 0.1)
        content = store.result(cell.key())
        content["result"].update({name: values[cell.seed - 1] for name, values in fields.items()})
        store.finish(cell, content["result"], content["environment"])
    return load_tables(store.root)[0]


def shown(axes):
    """The numbers written into a picture of a matrix, row by row from the top, each where the image has its color."""
    (image,) = axes.images
    rows = {}
    for text in axes.texts:
        x, y = axes.transData.transform(text.get_position())
        value = image.get_cursor_data(SimpleNamespace(x=x, y=y))
        assert float(text.get_text()) == pytest.approx(float(value), abs=0.05)
        rows.setdefault(round(-y), {})[x] = float(text.get_text())
    return [[row[x] for x in sorted(row)] for _, row in sorted(rows.items())]


ONE_ROW = dataclasses.replace(TABLE, rows=TABLE.rows[:1], references=())


def test_accuracy_matrices_in_the_picture(store, drawn):
    first = [[0.9, 0.6, 0.3], [None, 0.8, 0.5], [None, None, 0.7]]
    second = [[0.7, 0.6, 0.1], [None, 0.8, 0.1], [None, None, 0.5]]
    figure = figures.accuracy_matrices(record(store, ONE_ROW, accuracy_matrix=(first, second)), "Permuted")
    axes = figure.axes[0]
    assert shown(axes) == [[80, 60, 20], [80, 30], [60]]  # means over the seeds; experience 1 at the top
    assert axes.images[0].get_extent() == [0.5, 3.5, 3.5, 0.5]
    assert axes.images[0].get_clim() == (0, 100)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("after training experience", "accuracy on experience")


def test_confusion_matrices_in_the_picture(store, drawn):
    first, second = [[6, 2, 2], [0, 5, 0], [1, 0, 19]], [[8, 2, 0], [0, 4, 1], [0, 0, 20]]
    figure = figures.confusion_matrices(record(store, ONE_ROW, confusion_matrix=(first, second)), "Permuted")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[70, 20, 10], [0, 90, 10], [2.5, 0, 97.5]])
    assert axes.images[0].get_extent() == [-0.5, 2.5, 2.5, -0.5]  # classes count from 0
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("taken for class", "class")


def test_task_weights_in_the_picture(store, drawn):
    first = [[None, None, None], [0.5, None, None], [0.8, 2.6, None]]  # by task, then earlier task
    second = [[None, None, None], [0.3, None, None], [0.8, 3.4, None]]
    figure = figures.task_weights(record(store, ONE_ROW, task_weights=(first, second)), "Permuted")
    axes = figure.axes[0]
    assert shown(axes) == [[0.4, 0.8], [3.0]]  # earlier tasks down, the tasks trained across
    norm = axes.images[0].norm
    assert (norm(0), norm(1), norm(3)) == (0, 0.5, 1)  # one is neutral
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("while training task", "earlier task")


@pytest.mark.filterwarnings("error")
def test_no_task_weights_to_draw(store, drawn):
    undefined = [[None, None], [None, None]]
    assert figures.task_weights(record(store, ONE_ROW, task_weights=(undefined, undefined)), "Permuted") is None


def lines(axes):
    """The lines of a picture by label: points of the line, and the lower and the upper edge of its band."""
    found = {}
    for line, band in zip(axes.lines, axes.collections, strict=True):
        points = line.get_xydata()[~np.isnan(line.get_ydata())]
        vertices = band.get_paths()[0].vertices
        edges = [[pick(vertices[vertices[:, 0] == x, 1]) for x in points[:, 0]] for pick in (min, max)]
        found[line.get_label()] = (points.tolist(), *edges)
    return found


def test_learning_curves_in_the_picture(store, drawn):
    table = record(store, ONE_ROW, learning_curve=([0.9, 0.5, 0.4], [0.9, 0.7, 0.6]))
    axes = figures.learning_curves(table, "Permuted").axes[0]
    points, lower, upper = lines(axes)["SGD"]
    np.testing.assert_allclose(points, [[1, 90], [2, 60], [3, 50]])
    np.testing.assert_allclose([lower, upper], [[90, 50, 40], [90, 70, 60]])  # one population deviation to each side


def test_training_curves_in_the_picture(store, drawn):
    first = [[0.9, None], [0.8, None], [0.5, 0.7], [0.4, 0.9]]  # two epochs for each of two experiences
    second = [[0.7, None], [0.8, None], [0.5, 0.9], [0.2, 0.9]]
    table = record(store, ONE_ROW, train_accuracy_curve=(first, second))
    axes = figures.training_curves(table, "Permuted").axes[0]
    vertical = axes.lines[-1]
    assert vertical.get_xdata() == [2.5, 2.5]
    vertical.remove()
    found = lines(axes)
    np.testing.assert_allclose(found["experience 1"][0], [[1, 80], [2, 80], [3, 50], [4, 30]])
    np.testing.assert_allclose(found["experience 1"][1:], [[70, 80, 50, 20], [90, 80, 50, 40]])
    np.testing.assert_allclose(found["experience 2"][0], [[3, 80], [4, 90]])


def test_metric_curves_in_the_picture(store, drawn):
    columns = tuple(
        dataclasses.replace(TABLE.columns[0], label=str(x), settings={"train_epochs": x}, x=x) for x in (20, 10)
    )
    table = dataclasses.replace(ONE_ROW, columns=columns, x_label="epochs")
    plan = _plan(table, table.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell, forgetting in zip(table.cells(), (0.1, 0.3, 0.4, 0.4), strict=True):
        finish(store, cell, 0.5, forgetting)
    axes = figures.metric_curves(load_tables(store.root)[0], "forgetting", "PermutedDigits").axes[0]
    points, lower, upper = lines(axes)["SGD"]
    np.testing.assert_allclose(points, [[10, 0.4], [20, 0.2]])
    np.testing.assert_allclose([lower, upper], [[0.4, 0.1], [0.4, 0.3]])


@pytest.mark.parametrize("n_rows", [30, 31])
def test_lines_and_their_names_can_be_told_apart(n_rows, store, drawn):
    rows = tuple(Row(f"TAG-RMSProp (b=5.0, lr={n})", Component("TAG", {"lr": n})) for n in range(1, n_rows + 1))
    table = record(store, dataclasses.replace(TABLE, rows=rows, references=(), seeds=(1,)))
    figure = figures.learning_curves(table, "Permuted")
    if n_rows > 30:
        assert figure is None
        return
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 30
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 30
    box = legend.get_window_extent()
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_references_of_single_experiences(store):
    tasks = ((88.0, 1.5), (61.0, None))
    table = dataclasses.replace(
        TABLE,
        references=(Reference("SGD", "Permuted", "learning_accuracy", 74.5, 1.0, "a plot", by_experience=tasks),),
        metrics=("learning_accuracy",),
    )
    plan = _plan(table, table.cells(), "paper", {})
    store.save_plan(plan["name"], plan)
    for cell, accuracy in zip(table.cells(), (0.6, 0.7, 0.8, 0.8), strict=True):
        finish(store, cell, accuracy, 0.1)
    paths = report(store.root)
    expected = """\
    | Permuted, by experience |  | 0 | 1 |
    | --- | --- | ---: | ---: |
    | SGD | ours | 90.00 ± 0.00 | 65.00 ± 5.00 |
    |  | reference | 88.00 ± 1.50 | 61.00 |

    - Mean"""
    assert textwrap.dedent(expected) in paths.markdown.read_text()
    page = paths.html.read_text()
    assert "<tr><td></td><td>reference</td><td>88.00 ± 1.50</td><td>61.00</td></tr>" in page
    with pytest.raises(ValueError, match="by_experience is for learning accuracies, got it for forgetting"):
        Reference("SGD", "Permuted", "forgetting", 0.5, by_experience=tasks)


def test_the_ledger(full):
    (table,) = load_tables(full.root)
    text = ledger([table])
    assert "- Hardware: x86_64, 1 thread.\n- Versions: clpack 0.1, torch 2, avalanche 0.6.0, python 3.11.\n" in text
    assert "- Data: PermutedDigits, 20 training and 10 test samples.\n- Reference: Table 1.\n\n" in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    # Without a reference, numbers are there of the first metric alone.
    assert [line[:8] for line in lines[2:]] == [
        ["| SGD", "Permuted", "Average accuracy (%)", "65.00 ± 5.00", "2", "60.00 ± 2.00", "+2.5", "2"],
        ["| TAG\\|RMSProp", "Permuted", "Average accuracy (%)", "80.00 ± 0.00", "2", "79.70", "", "2"],
    ]
    assert "not the full protocol" not in text


def test_the_ledger_has_no_table_without_numbers(store):
    assert "##" not in ledger(load_tables(store.root))
    finish(store, TABLE.cells()[0], 0.6, 0.2)
    text = ledger(load_tables(store.root))
    assert "- Incomplete: 1 of 4 cells are finished." in text
    assert "| 60.00 ± 0.00 (1 of 2 seeds) | 1 |" in text
    assert "TAG\\|RMSProp" not in text


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ({}, ""),
        ({"preset": "short"}, " --preset short"),
        ({"preset": "short", "seeds": [7, 3]}, " --preset short --seeds 3,7"),
        ({"rows": ["TAG|RMSProp", "it's"]}, """ --rows 'TAG|RMSProp' 'it'"'"'s'"""),
        ({"columns": ["Two digits"]}, " --columns 'Two digits'"),
        ({"columns": ["Permuted"]}, " --columns Permuted"),  # for which one of the rows is not
        (
            {"overrides": {"model.hidden_sizes": [8, 8], "strategy.optimizer": "RMSprop", "train_epochs": 2}},
            """ --set 'model.hidden_sizes=[8, 8]' --set 'strategy.optimizer="RMSprop"' --set train_epochs=2""",
        ),
    ],
)
def test_commands_of_the_ledger_give_its_numbers(chosen, options, tmp_path, monkeypatch):
    rows = (
        Row("SGD", Component("Naive", {"optimizer": "SGD"})),
        Row("TAG|RMSProp", Component("TAG")),
        Row("it's", Component("Naive"), columns=("Two digits",)),
    )
    model = Component("MLP", {"hidden_sizes": [16]})
    columns = tuple(Column(label, Component("PermutedDigits"), model) for label in ("Permuted", "Two digits"))
    table = dataclasses.replace(
        TABLE, rows=rows, columns=columns, references=(), presets={"short": {"seeds": (3,), "rows": ("SGD", "it's")}}
    )
    monkeypatch.setattr(tables, "get", {"tag/digits": table}.__getitem__)
    cells, store = table.cells(**chosen), ResultStore(tmp_path)
    plan = _plan(table, cells, chosen.get("preset", "paper"), chosen.get("overrides", {}))
    store.save_plan(plan["name"], plan)
    for cell in cells:
        finish(store, cell, 0.5, 0.1)
    text = ledger(load_tables(tmp_path))
    (command,) = re.findall(r"^`(.*)`; Malviya", text, re.MULTILINE)
    assert command == f"clpack run tag/digits{options}"
    assert ("- Preset 'short', not the full protocol." in text) == (chosen.get("preset") == "short")

    given = {}
    monkeypatch.setattr("clpack.experiments.run.run_experiment", lambda _, **arguments: given.update(arguments))
    with pytest.raises(AttributeError):  # there is no summary to print
        main(shlex.split(command)[1:])
    parts = {name: given[name] for name in ("preset", "seeds", "rows", "columns", "overrides")}
    assert {cell.key() for cell in table.cells(**parts)} == {cell.key() for cell in cells}


def test_the_ledger_knows_no_table_of_others(tmp_path):
    store = ResultStore(tmp_path)
    for name, preset in (("mine/table", "paper"), ("demo", "smoke")):
        table = dataclasses.replace(TABLE, name=name)
        plan = _plan(table, table.cells(), preset, {})
        store.save_plan(plan["name"], plan)
    for cell in table.cells():
        finish(store, cell, 0.5, 0.1)
    text = ledger(load_tables(tmp_path))
    assert "`clpack run mine/table`" in text
    assert "`clpack demo --smoke`" in text
