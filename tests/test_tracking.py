"""TensorBoard is asked over its own HTTP endpoints, as its pages ask them, about a log folder with two sweeps."""

import io
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sweep.patient_metrics import fold_aucs
from sweep.predictions import arrays
from sweep.tracking import Tracker

FOLDS = 3
SETTINGS: dict[str, list[dict[str, object]]] = {
    "first": [
        {"model.learning_rate": 1e-4, "input.context": 1.0},
        {"model.learning_rate": 3e-3, "input.context": 2.5},
        {"model.learning_rate": 1e-2, "input.context": 2.0},
    ],
    "second": [
        {"model.learning_rate": 2e-4, "model.optimizer": "adam", "augmentation.flip": True, "model.weights": None},
        {"model.learning_rate": 5e-4, "model.optimizer": "adamw", "augmentation.flip": False, "model.weights": None},
    ],
}
HALF_DONE = ("first", 2)  # its last fold never finishes
WHY = "AUC -0.031 [-0.052, -0.010] against configuration 0: chance to win 0.0002"
CURVES = ["train_loss", "inner_loss", "inner_auc"]


class Sweep:
    """A ledger of made-up results, and what the driver tells the tracker about it."""

    def __init__(self, root: Path, name: str) -> None:
        self.name, self.folder = name, root / name
        self._random = np.random.default_rng(len(name))
        self.patients = {configuration: self._patients() for configuration in range(len(SETTINGS[name]))}
        for configuration in self.patients:
            for fold in range(FOLDS):
                self._write_curve(configuration, fold)

    def _patients(self) -> pd.DataFrame:
        label = np.tile([0, 0, 0, 1, 1], FOLDS)
        probability = (self._random.random(label.size) + label) / 2
        return pd.DataFrame({"fold": np.repeat(range(FOLDS), 5), "label": label, "probability": probability})

    def _write_curve(self, configuration: int, fold: int) -> None:
        table = pd.DataFrame(self._random.random((4 + 2 * fold, 3)), columns=CURVES)
        if self.name == "second":  # a sweep without an inner validation split
            table[["inner_loss", "inner_auc"]] = np.nan
        self.curve(configuration, fold).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(self.curve(configuration, fold), index_label="epoch")

    def curve(self, configuration: int, fold: int) -> Path:
        return self.folder / "ledger" / f"{configuration}-{fold}" / "curve.csv"

    def aucs(self, configuration: int) -> dict[int, float]:
        return fold_aucs(*arrays(self.patients[configuration]))

    def tracker(self) -> Tracker:
        return Tracker(self.folder / "tensorboard")

    def run(self, configuration: int, fold: int | None = None) -> str:
        return f"{self.name}/tensorboard/configuration-{configuration:03d}" + (
            f"/fold-{fold}" if fold is not None else ""
        )

    def drive(self) -> None:
        """The driver from start to end, as it also runs when the same command is given again."""
        tracker = self.tracker()
        for configuration, settings in enumerate(SETTINGS[self.name]):
            curves = [self.curve(configuration, fold) for fold in range(FOLDS)]
            for fold, auc in self.aucs(configuration).items():
                tracker.follow(configuration, fold, curves[fold])
                if (self.name, configuration, fold) != (*HALF_DONE, FOLDS - 1):
                    tracker.finish_fold(configuration, fold, curves[fold], auc)
            if (self.name, configuration) == HALF_DONE:
                tracker.follow_race(configuration, list(self.aucs(configuration).values())[:-1], WHY)
            else:
                tracker.finish_configuration(configuration, settings, curves, self.patients[configuration])


def killed_while_writing(sweep: Sweep, epochs: int) -> None:
    """A first driver that followed the first unit for some epochs, the last of them only half-written."""
    complete = sweep.curve(0, 0).read_text()
    sweep.curve(0, 0).write_text("".join(complete.splitlines(keepends=True)[: epochs + 1]))
    sweep.tracker().follow(0, 0, sweep.curve(0, 0))
    sweep.curve(0, 0).write_text(complete)
    [events] = (sweep.folder / "tensorboard").rglob("*tfevents*")
    events.write_bytes(events.read_bytes()[:-7])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*tfevents*")}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Sweep]:
    root = tmp_path_factory.mktemp("runs")
    sweeps = [Sweep(root, name) for name in SETTINGS]
    killed_while_writing(sweeps[0], epochs=3)
    for sweep in sweeps:
        sweep.drive()
        sweep.drive()
    return sweeps


class TensorBoard:
    """A TensorBoard of its own process on a free port of this machine."""

    def __init__(self, log_folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_folder), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        log = ""
        while not (address := re.search(r"http://localhost:\d+", log)):
            line = self.process.stderr.readline()
            assert line, f"TensorBoard did not start:\n{log}"
            log += line
        self._address = address.group().replace("localhost", "127.0.0.1")

    def fetch(self, route: str, body: dict[str, Any] | None = None, **query: object) -> bytes:
        url = f"{self._address}/data/{route}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def ask(self, route: str, body: dict[str, Any] | None = None, **query: object) -> Any:
        return json.loads(self.fetch(route, body, **query))

    def tags(self) -> dict[str, list[str]]:
        return {run: sorted(tags) for run, tags in self.ask("plugin/scalars/tags").items() if tags}

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        return [(step, value) for _, step, value in self.ask("plugin/scalars/scalars", run=run, tag=tag)]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of the HParams table by name. The page names the statuses and the columns, and no aggregation."""
        experiment = self.ask("plugin/hparams/experiment", {"experimentName": "", "hparamsLimit": 1000})
        columns = [{"hparam": info["name"]} for info in experiment.get("hparamInfos", [])]
        columns += [{"metric": info["name"]} for info in experiment.get("metricInfos", [])]
        request = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{**column, "includeInResult": True} for column in columns],
            "startIndex": 0,
            "sliceSize": 100,
        }
        groups = self.ask("plugin/hparams/session_groups", request)["sessionGroups"]
        rows = {group["name"]: group for group in groups}
        assert len(rows) == len(groups)
        return rows


@pytest.fixture(scope="module")
def board(sweeps: list[Sweep]) -> Iterator[TensorBoard]:
    once = ("--load_fast", "false", "--reload_interval", "0", "--reload_task", "blocking")
    board = TensorBoard(sweeps[0].folder.parent, *once)
    yield board
    board.process.terminate()
    board.process.wait()


def complete(sweep: Sweep) -> list[int]:
    return [number for number in range(len(SETTINGS[sweep.name])) if (sweep.name, number) != HALF_DONE]


def test_a_run_for_each_fold_and_each_complete_configuration(board: TensorBoard, sweeps: list[Sweep]) -> None:
    folds = {sweep.run(number, fold) for sweep in sweeps for number in sweep.patients for fold in range(FOLDS)}
    configurations = {sweep.run(number) for sweep in sweeps for number in sweep.patients}
    assert set(board.ask("runs")) == folds | configurations


def test_every_epoch_is_there_once_after_a_kill_and_another_start(board: TensorBoard, sweeps: list[Sweep]) -> None:
    for configuration in sweeps[0].patients:
        for fold in range(FOLDS):
            table = pd.read_csv(sweeps[0].curve(configuration, fold), index_col="epoch")
            for curve in CURVES:
                points = board.scalars(sweeps[0].run(configuration, fold), f"training/{curve}")
                assert [step for step, _ in points] == list(table.index)
                assert [value for _, value in points] == pytest.approx(list(table[curve]), rel=1e-6)


def test_a_dropped_configuration_shows_its_means_by_fold_and_why(board: TensorBoard, sweeps: list[Sweep]) -> None:
    run, aucs = sweeps[0].run(HALF_DONE[1]), list(sweeps[0].aucs(HALF_DONE[1]).values())
    assert board.scalars(run, "race/mean_so_far") == [
        (1, pytest.approx(aucs[0])),
        (2, pytest.approx(np.mean(aucs[:2]))),
    ]
    texts = board.ask("plugin/text/text", run=run, tag="race/dropped")
    assert [entry["step"] for entry in texts] == [2] and "chance to win 0.0002" in texts[0]["text"]
    assert "race/mean_so_far" not in board.tags()[sweeps[0].run(0)]


def test_what_was_not_measured_is_left_out(board: TensorBoard, sweeps: list[Sweep]) -> None:
    assert board.tags()[sweeps[1].run(0, 0)] == ["held_out/auc", "training/train_loss"]
    assert not any("inner" in tag for tag in board.tags()[sweeps[1].run(0)])


def test_another_start_writes_nothing(sweeps: list[Sweep]) -> None:
    before = contents(sweeps[0].folder)
    sweeps[0].drive()
    assert contents(sweeps[0].folder) == before


def test_a_curve_that_is_not_there_yet_writes_nothing(tmp_path: Path) -> None:
    Tracker(tmp_path / "new" / "tensorboard").follow(0, 0, tmp_path / "curve.csv")
    assert not contents(tmp_path)


def test_one_row_for_each_complete_configuration_with_the_mean_of_its_folds(
    board: TensorBoard, sweeps: list[Sweep]
) -> None:
    rows = board.rows()
    assert set(rows) == {f"{sweep.name}/{number:03d}" for sweep in sweeps for number in complete(sweep)}
    for sweep in sweeps:
        for number in complete(sweep):
            row, aucs = rows[f"{sweep.name}/{number:03d}"], sweep.aucs(number)
            metrics = {metric["name"]["tag"]: metric["value"] for metric in row["metricValues"]}
            assert metrics["held_out/auc"] == pytest.approx(np.mean(list(aucs.values())))
            assert [session["name"] for session in row["sessions"]] == [sweep.run(number, fold) for fold in aucs]
            assert board.scalars(sweep.run(number), "held_out/mean_auc")[0][1] == pytest.approx(metrics["held_out/auc"])


def test_each_row_has_its_own_sweeps_settings_as_they_are(board: TensorBoard, sweeps: list[Sweep]) -> None:
    rows = board.rows()
    for sweep in sweeps:
        for number in complete(sweep):
            expected = {
                name: "None" if value is None else value for name, value in SETTINGS[sweep.name][number].items()
            }
            assert rows[f"{sweep.name}/{number:03d}"]["hparams"] == expected


def test_bands_are_mean_and_sd_over_all_folds_a_stopped_one_keeping_its_last_value(
    board: TensorBoard, sweeps: list[Sweep]
) -> None:
    tables = [pd.read_csv(sweeps[0].curve(1, fold)) for fold in range(FOLDS)]
    assert len({len(table) for table in tables}) == FOLDS
    for chart in board.ask("plugin/custom_scalars/layout")["category"][0]["chart"]:
        [tags] = chart["margin"]["series"]
        drawn = {border: board.scalars(sweeps[0].run(1), tag) for border, tag in tags.items()}
        for epoch in range(max(map(len, tables))):
            values = [table[chart["title"]][min(epoch, len(table) - 1)] for table in tables]
            mean, sd = np.mean(values), np.std(values, ddof=1)
            points = [drawn[border][epoch] for border in ("value", "lower", "upper")]
            assert [step for step, _ in points] == [epoch] * 3
            assert [value for _, value in points] == pytest.approx([mean, mean - sd, mean + sd], rel=1e-5)


def test_two_sweeps_share_one_custom_scalars_page(board: TensorBoard) -> None:
    [category] = board.ask("plugin/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]] == CURVES


def test_roc_picture_is_a_png_with_curves_in_it(board: TensorBoard, sweeps: list[Sweep]) -> None:
    pictures = {run: tags for run, tags in board.ask("plugin/images/tags").items() if tags}
    assert set(pictures) == {sweep.run(number) for sweep in sweeps for number in complete(sweep)}
    run = sweeps[0].run(1)
    [picture] = board.ask("plugin/images/images", run=run, tag="held_out/roc", sample=0)
    key = dict(urllib.parse.parse_qsl(picture["query"]))
    decoded = Image.open(io.BytesIO(board.fetch("plugin/images/individualImage", **key)))
    assert (decoded.format, *decoded.size) == ("PNG", 600, 600)
    colours = np.asarray(decoded.convert("RGB")).reshape(-1, 3)
    assert (colours == (31, 119, 180)).all(axis=1).sum() > 500  # matplotlib's tab:blue, which only curves have


def test_the_fast_loader_shows_the_same(board: TensorBoard, sweeps: list[Sweep]) -> None:
    fast = TensorBoard(sweeps[0].folder.parent)
    try:
        deadline = time.monotonic() + 60
        while fast.tags() != board.tags() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert fast.tags() == board.tags()
        assert fast.rows() == board.rows()
        unit = sweeps[0].run(0, 0)
        assert fast.scalars(unit, "training/inner_auc") == board.scalars(unit, "training/inner_auc")
    finally:
        fast.process.terminate()
        fast.process.wait()
