"""The flow from files to patients: counts that add up, on the page and as a table, on both the same."""

import json
from pathlib import Path

import pandas as pd

from sweep.report import write_report
from sweep.report.flow import flow
from sweep.report.tables import read_run
from tests.run_folders import write_run
from tests.test_report import Page

EXCLUDED = (
    ("201", "1.2.3", "no T1W series in the study", "export it"),
    ("202", "1.2.4", "no T1W series in the study", "export it"),
    ("203", "1.2.5", "the box <b>has</b> side 0", "draw it"),
    ("203", "1.2.6", "no T1W series in the study", "export it"),
)


def test_files_and_patients_add_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", excluded=EXCLUDED)
    skipped = {"not DICOM": 7, "duplicate of another file": 3}
    (run / "ingest.json").write_text(json.dumps({"files": 100, "series": 12, "skipped": skipped, "patch_store": "x"}))
    found = flow(read_run(run))
    assert (found["files"], found["skipped_files"], found["images"], found["series"]) == (100, 10, 90, 12)
    assert found["annotated"] == 96 + 3
    reasons = [
        {"reason": "no T1W series in the study", "count": 3},
        {"reason": "the box <b>has</b> side 0", "count": 1},
    ]
    assert found["excluded"] == reasons
    page = Page(write_report(run))
    for text in ("100 files in the folder", "90 files of images in 12 series", "7 not DICOM", "99 annotated patients"):
        assert text in page.text
    assert "3 excluded" in page.text and "1 the box <b>has</b> side 0" in page.text  # as text, not as a tag
    table = pd.read_csv(run / "flow.csv", keep_default_na=False)
    counts = {(what, reason): count for what, count, reason in table.itertuples(index=False)}
    assert counts["files", ""] == 100 and counts["skipped", "not DICOM"] == 7 and counts["annotated", ""] == 99
    assert counts["excluded", "no T1W series in the study"] == 3 and counts["excluded", reasons[1]["reason"]] == 1
    shown = {path: float(value) for path, value, _ in page.figures if path.startswith("flow.")}
    assert shown["flow.skipped.1.count"] == 3 and shown["flow.excluded.0.count"] == 3 and len(shown) == 9
