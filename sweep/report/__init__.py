"""The report of a run: patients.csv, summary.json and report.html, from nothing but the run folder's tables."""

from pathlib import Path

from datasets.tables import to_csv
from sweep.ledger import write_atomically
from sweep.report.page import render
from sweep.report.summary import patient_table, summarise, to_json
from sweep.report.tables import read_run


def write_report(run: Path) -> Path:
    """Write patients.csv, summary.json and report.html into the run folder; returns the page's path.

    Reads settings.yaml, cohort.csv, excluded.csv, split.csv, configurations.csv and predictions.parquet. The same
    tables give the same bytes of patients.csv and summary.json. Raises RunFolderError where a table is missing
    or two of them disagree, and PredictionsError where a complete configuration has incomplete predictions.
    """
    tables = read_run(run)
    patients = patient_table(tables)
    summary = summarise(tables)
    write_atomically(run / "patients.csv", to_csv(patients))
    write_atomically(run / "summary.json", to_json(summary))
    page = run / "report.html"
    write_atomically(page, render(summary, patients, tables))
    return page
