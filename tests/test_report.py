"""The report: one set of figures in page, summary and tables; every state of a run has a page; nothing escapes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sweep import patient_metrics, predictions
from sweep import report as report_package
from sweep.compose import load_settings
from sweep.report import search_plots, write_report
from sweep.report.page import setting_text, shown_settings
from sweep.report.tables import RunFolderError, read_run
from tests.run_folders import keep_folds, stratified_split, synthetic_cohort, write_readers_and_features, write_run

SCRIPT = "</script><script>document.title='owned'</script>"
SIGNS = {ord("\N{MINUS SIGN}"): "-", ord("\N{INFINITY}"): "inf"}
PATHS = {"data.root": "/home/SECRET/dicom", "data.annotations": "/home/SECRET/annotations.csv"}


class Page(HTMLParser):
    """A page's text, figures (<data> elements: place, full value, shown text), plots and tags."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.plots: dict[str, Any] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(page.read_text())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = (tag, dict(attrs))
        self.tags.append(self._open)

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open
        if tag == "data":
            self.figures.append((str(attributes["data-figure"]), str(attributes["value"]), data))
        if tag == "script" and attributes.get("type") == "application/json":
            self.plots[str(attributes["id"])] = json.loads(data)
        if tag not in ("script", "style"):
            self.text += data


def report(run: Path) -> tuple[Page, dict[str, Any], pd.DataFrame]:
    page = Page(write_report(run))
    summary = json.loads((run / "summary.json").read_text())
    patients = pd.read_csv(run / "patients.csv", dtype={"patient_id": str})
    return page, summary, patients


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = synthetic_cohort()
    cohort["site"] = np.where(cohort["patient_id"].astype(int) % 3, "north", "south")
    run = write_run(tmp_path_factory.mktemp("runs") / "demo", cohort=cohort)
    write_readers_and_features(run)
    return run


def at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


def test_every_figure_of_the_page_is_the_one_of_summary_and_tables(demo: Path) -> None:
    page, summary, patients = report(demo)
    tables = summary | {"patients": patients.to_dict("records")}
    for path, value, shown in page.figures:
        assert float(value) == float(at(tables, path)), path
        number = float(re.sub("[p=<% ]", "", shown.translate(SIGNS))) / (100 if "%" in shown else 1)
        assert number == pytest.approx(float(value), abs=0.0051, rel=0.005), path
    shown_paths = {path for path, _, _ in page.figures}
    patient_figures = {f"patients.{row}.probability" for row in range(len(patients))}
    fold_figures = {f"best.folds.{fold}.{name}" for fold in range(10) for name in ("auc", "slice_auc", "malignant")}
    configuration_figures = {f"configurations.{number}.mean_fold_auc" for number in range(4)}
    assert patient_figures | fold_figures | configuration_figures <= shown_paths
    answer = {"corrected.estimate.value", "corrected.estimate.low", "best.mean_of_folds.low", "study_setting.p"}
    calls = {f"best.measures.{name}.value" for name in summary["best"]["measures"]} | {"best.counts.FN"}
    readers = {f"table2.{reader}.measures.{name}.value" for reader in range(3) for name in summary["best"]["measures"]}
    tests = {f"table2.{reader}.{name}_test.holm" for reader in range(3) for name in ("sensitivity", "specificity")}
    features = {
        f"features.{table}.{row}.p" for table in ("table1", "errors.2.rows", "model.table") for row in range(14)
    }
    helps = {f"table2.0.helped.{way}.{name}_test.holm" for way in range(3) for name in ("sensitivity", "specificity")}
    features |= helps | {"table2.2.auc.reader.low", "table2.2.auc.within_folds.holm", "table2.2.auc.pooled.p"}
    others = {"calibration.brier", "calibration.slope.high", "best.average_precision", "best.per_slice.low"}
    others |= {"best.permutation_p", "sites.p", "sites.rows.1.auc.value", "ensembles.1.corrected.value"}
    others |= {"search.cost.fold_trainings", "search.cost.full", "best.pooled.bootstrap.low", "evaluation.resamples"}
    others |= {"features.errors.1.false_positives", "selection.compared"}
    wanted = answer | calls | readers | tests | features | others
    assert not [path for path in wanted - shown_paths if at(tables, path) is not None]
    assert len(wanted & shown_paths) > 0.9 * len(wanted)


def test_summary_holds_the_figures_of_the_best_configuration(demo: Path) -> None:
    _, summary, patients = report(demo)
    configurations = pd.read_csv(demo / "configurations.csv")
    best = summary["best"]
    assert best["configuration"] == configurations["mean_fold_auc"].idxmax()
    assert best["mean_of_folds"]["value"] == configurations["mean_fold_auc"].max()
    assert best["settings"]["model.learning_rate"] == configurations["model.learning_rate"][best["configuration"]]
    assert summary["study_setting"]["difference"]["value"] == pytest.approx(
        np.ptp(configurations["mean_fold_auc"][[0, 1]])
    )
    assert best["counts"] == {kind: int((patients["outcome"] == kind).sum()) for kind in best["counts"]}
    label, score, fold = predictions.arrays(patients)
    assert best["mean_of_folds"]["high"] == patient_metrics.mean_of_folds(label, score, fold).high
    assert best["measures"]["sensitivity"]["value"] == np.mean(score[label == 1] >= 0.5)


def test_patients_csv_names_the_deciding_slice(demo: Path) -> None:
    _, summary, patients = report(demo)
    rows = pd.read_parquet(demo / "predictions.parquet")
    rows = rows[rows["configuration"] == summary["best"]["configuration"]].set_index("sop_instance_uid")
    assert len(patients) == 96
    assert (rows.loc[patients["sop_instance_uid"], "probability"].to_numpy() == patients["probability"]).all()
    assert (patients["call"] == (patients["probability"] >= 0.5)).all()


def test_the_same_tables_give_the_same_bytes_and_leave_nothing_temporary(demo: Path) -> None:
    names = ("summary.json", "patients.csv", "report.html")
    write_report(demo)
    before = [(demo / name).read_bytes() for name in names]
    write_report(demo)
    assert [(demo / name).read_bytes() for name in names] == before
    assert not [path for path in demo.iterdir() if path.name.startswith(".")]


def test_the_page_is_one_small_file_that_asks_nothing_of_the_network(demo: Path) -> None:
    page, _, _ = report(demo)
    assert (demo / "report.html").stat().st_size < 10_000_000
    assert not [attributes for _, attributes in page.tags if "src" in attributes or attributes.get("rel")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy


def test_plots_are_figures_that_plotly_accepts(demo: Path) -> None:
    page, summary, _ = report(demo)
    searched = {f"plot-setting-{name}" for name in summary["best"]["settings"]}
    always = {"roc", "precision-recall", "probabilities", "calibration", "decision-curve", "history"}
    assert {f"plot-{name}" for name in always} | searched == page.plots.keys()
    for figure in page.plots.values():
        go.Figure(json.loads(re.sub(r'"--\w+"', '"red"', json.dumps(figure))))  # the style sheet's colours


def test_the_roc_plot_has_the_folds_the_band_of_the_summary_and_the_mean(demo: Path) -> None:
    page, summary, _ = report(demo)
    traces = page.plots["plot-roc"]["data"]
    assert len([trace for trace in traces if trace.get("name", "").startswith("fold ")]) == 10
    low, high = traces[11:13]
    assert low["y"] == [row["low"] for row in summary["best"]["roc_band"]]
    assert (high["y"], high["fill"]) == ([row["high"] for row in summary["best"]["roc_band"]], "tonexty")
    table = pd.read_csv(demo / "roc_band.csv")
    assert table.to_dict("records") == summary["best"]["roc_band"]


def test_settings_over_decades_are_drawn_on_a_log_axis(demo: Path) -> None:
    page, _, _ = report(demo)
    assert page.plots["plot-setting-model.learning_rate"]["layout"]["xaxis"]["type"] == "log"
    assert page.plots["plot-setting-augmentation.scaling"]["layout"]["xaxis"]["type"] == "linear"
    choices = pd.DataFrame({"configuration": [0, 1, 2], "mean_fold_auc": [0.7, 0.8, 0.9], "x": [1e-4, 1e-3, 1e-2]})
    span = {"log": False, "choices": [1e-4, 1e-3, 1e-2]}
    assert search_plots.setting("x", choices, 2, span)["layout"]["xaxis"]["type"] == "log"
    assert (
        search_plots.setting("x", choices.assign(x=["a", "b", "b"]), 2, span)["layout"]["xaxis"]["type"] == "category"
    )


def test_phantoms_and_shuffled_labels_are_said(demo: Path, tmp_path: Path) -> None:
    assert "Synthetic phantom data: no clinical meaning" in report(demo)[0].text
    assert "Labels were shuffled" not in report(demo)[0].text
    shuffled = write_run(tmp_path / "a", (1.0,), changes={"data.shuffle_labels": True, "data.source": "dicom"} | PATHS)
    text = report(shuffled)[0].text
    assert "Labels were shuffled" in text and "phantom data" not in text
    assert json.loads((shuffled / "summary.json").read_text())["table2"] == []


def test_folders_of_the_machine_stay_out_of_page_and_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0,), changes=PATHS)
    write_report(run)
    for name in ("report.html", "summary.json", "patients.csv"):
        assert "SECRET" not in (run / name).read_text()


@pytest.mark.parametrize(
    ("early_stopping", "said"),
    [("inner", "inner split"), ("scored_fold", "optimistic for that reason"), ("none", "no early stopping")],
)
def test_the_page_says_what_stopped_the_training(tmp_path: Path, early_stopping: str, said: str) -> None:
    run = write_run(tmp_path / "a", (1.0,), changes={"training.early_stopping": early_stopping})
    page, summary, _ = report(run)
    assert said in page.text and summary["selection"]["early_stopping"] == early_stopping


def test_the_optimism_of_stopping_on_the_scored_fold_is_that_of_the_simulation(shared: Path) -> None:
    table = pd.read_csv(shared / "golden/earlystop_sim.csv").query("p == 200 and delta == 0").set_index("rule")
    said = (Path(report_package.__file__).parent / "methods.html").read_text().partition("on pure noise by")[2]
    quoted = [float(number) for number in re.findall(r"0\.\d{3}", said)[:2]]
    simulated = table["opt_mean_fold"][["stop_on_scored_fold_loss", "stop_on_scored_fold_auc"]]
    assert quoted == pytest.approx(simulated.tolist(), abs=0.001)


def test_the_best_of_several_is_called_optimistic_and_a_single_one_is_not(demo: Path, tmp_path: Path) -> None:
    assert "optimistic (naive)" in report(demo)[0].text
    assert "optimistic" not in report(write_run(tmp_path / "a", (1.0,)))[0].text


def test_a_shift_between_fold_models_is_warned_about(demo: Path, tmp_path: Path) -> None:
    assert "score on different scales" not in report(demo)[0].text
    page, summary, _ = report(write_run(tmp_path / "a", (2.0,), fold_shift=2.0))
    assert summary["best"]["fold_shift"]["difference"] > summary["best"]["fold_shift"]["limit"]
    assert "score on different scales" in page.text


def test_identifiers_and_reasons_are_text_and_never_markup(tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    cohort["patient_id"] = cohort["patient_id"].replace({"000": SCRIPT, "001": "<b>bold</b>", "002": "NA"})
    run = write_run(tmp_path / "a", (1.0, 1.2), cohort=cohort, excluded=((SCRIPT, SCRIPT, SCRIPT, SCRIPT),))
    keep_folds(run, {0: {1}}, failure={0: SCRIPT})
    page, _, patients = report(run)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == len(page.plots) + 2  # Plotly's and the page's own
    assert "<b>bold</b>" in page.text and "<b>bold</b>" not in (run / "report.html").read_text()
    assert page.text.count(SCRIPT) == 7  # patient, exclusion's four cells, its reason in the flow, failure
    hover = [text for trace in page.plots["plot-probabilities"]["data"] for text in trace["text"]]
    assert "patient &lt;b&gt;bold&lt;/b&gt;" in hover and not [text for text in hover if "<" in text]
    assert {SCRIPT, "NA"} <= set(pd.read_csv(run / "patients.csv", keep_default_na=False)["patient_id"])
    assert len(patients) == 96


def test_without_a_complete_configuration_the_page_names_the_missing_folds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 1.5))
    keep_folds(run, {0: {0, 1, 2, 3, 4, 5, 6, 8}, 1: set()})
    page, summary, patients = report(run)
    assert "No configuration has all its folds yet" in page.text and "missing 7, 9" in page.text
    assert summary["best"] is None and patients.empty and not page.plots
    keep_folds(run, {0: set(), 1: set()})
    assert "missing 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in report(run)[0].text


def test_a_failed_configuration_is_shown_with_its_reason_and_never_best(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 3.0))
    keep_folds(run, {1: {0, 1}}, failure={1: "loss became nan in fold 2"})
    page, summary, _ = report(run)
    assert summary["best"]["configuration"] == 0
    assert summary["configurations"][1]["failure"] == "loss became nan in fold 2"
    assert "Configuration 1 failed: loss became nan in fold 2" in page.text
    assert "1 of 2 configurations failed" in " ".join(page.text.split())


def test_equal_configurations_go_to_the_lower_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 30.0, 30.0))  # the last two separate the classes wholly
    assert report(run)[1]["best"]["configuration"] == 1


def test_folds_with_one_class_are_named_and_everything_else_is_there(tmp_path: Path) -> None:
    cohort = synthetic_cohort(30, malignant_share=0.2)
    page, summary, _ = report(write_run(tmp_path / "a", (2.0,), cohort=cohort))
    assert summary["best"]["mean_of_folds"]["undefined"] == [0, 1, 2, 3]
    assert summary["best"]["folds"][2]["auc"] is None
    assert "Folds 0, 1, 2, 3 hold patients of one class only" in page.text
    assert "as few as 1 of one class" in page.text


def test_perfect_separation_has_no_interval(tmp_path: Path) -> None:
    page, summary, _ = report(write_run(tmp_path / "a", (40.0,)))
    assert summary["best"]["mean_of_folds"]["value"] == 1 and summary["best"]["mean_of_folds"]["low"] is None
    assert "no interval can be estimated" in page.text


def test_nobody_malignant_still_gives_a_page(tmp_path: Path) -> None:
    page, summary, _ = report(write_run(tmp_path / "a", (1.0,), cohort=synthetic_cohort(20, 0.0)))
    assert summary["best"] is None and "every fold holds patients of one class only" in page.text


def test_tables_that_disagree_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0,))
    table = pd.read_csv(run / "configurations.csv")
    table.assign(mean_fold_auc=0.99).to_csv(run / "configurations.csv", index=False)
    with pytest.raises(RunFolderError, match=r"configuration 0: configurations.csv has mean_fold_auc 0.99"):
        write_report(run)
    (run / "split.csv").unlink()
    with pytest.raises(RunFolderError, match=r"split.csv: no such file"):
        write_report(run)


def test_a_complete_configuration_with_a_missing_slice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0,))
    rows = pd.read_parquet(run / "predictions.parquet")
    rows.iloc[1:].to_parquet(run / "predictions.parquet", index=False)
    with pytest.raises(predictions.PredictionsError, match=rows["sop_instance_uid"].iloc[0]):
        write_report(run)


def test_identifiers_stay_text(tmp_path: Path) -> None:
    cohort = synthetic_cohort(30)
    run = write_run(tmp_path / "a", (1.0,), folds=3, cohort=cohort)
    assert set(read_run(run).cohort["patient_id"]) == set(cohort["patient_id"])
    assert stratified_split(cohort, 3)["patient_id"].str.startswith("0").all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "1e-4"),
        (0.00012345, "1.23e-4"),
        (0.05, "0.05"),
        (10.0, "10"),
        (123456.0, "1.23e5"),
        (0.0, "0"),
        (20, "20"),
        (None, "null"),
        (True, "true"),
        ("narrow", "narrow"),
    ],
)
def test_settings_are_written_as_one_reads_them(value: object, text: str) -> None:
    assert setting_text(value) == text


def test_a_searched_setting_is_shown_with_its_condition() -> None:
    overrides = ["search.space.model.stem={choices: [7x7, 3x3]}"]
    overrides += ["search.space.model.dropout={low: 0, high: 0.5, when: {model.stem: [3x3]}}"]
    shown = dict(shown_settings(load_settings(overrides).model_dump(mode="json")))
    assert shown["search.space.model.stem"] == "one of 7x7, 3x3"
    assert shown["search.space.model.dropout"] == "0 to 0.5, where model.stem is 3x3"
