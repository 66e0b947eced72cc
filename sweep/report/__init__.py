"""The report of a run: patients.csv, summary.json and report.html, from nothing but the run folder's tables."""

from pathlib import Path

import pandas as pd

from datasets.tables import to_csv
from sweep.ledger import write_atomically
from sweep.report.galleries import explain_best
from sweep.report.page import render
from sweep.report.summary import csv_tables, patient_table, summarise, to_json
from sweep.report.tables import read_run


def write_report(run: Path) -> Path:
    """Write patients.csv, summary.json, its csv_tables and report.html into the run folder; returns the page's path.

    Patches and weights are read once: what is made of them is kept in explanations/. The same tables give the same
    bytes of all but the page. Raises RunFolderError where a table is missing or two of them disagree, PredictionsError
    where a complete configuration has incomplete predictions, ValueError where readers.csv or features.csv is wrong.
    """
    tables = read_run(run)
    patients = patient_table(tables)
    explained = explain_best(tables, patients)
    summary = summarise(tables, patients, explained)
    write_atomically(run / "patients.csv", to_csv(patients))
    write_atomically(run / "summary.json", to_json(summary))
    for name, rows in csv_tables(summary).items():
        write_atomically(run / f"{name}.csv", to_csv(pd.json_normalize(rows)))
    page = run / "report.html"
    write_atomically(page, render(summary, patients, tables, explained))
    return page
