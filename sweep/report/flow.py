"""The flow from files to patients, as STARD 2015 (doi 10.1136/bmj.h5527) asks for."""

from typing import Any

from sweep.contact_sheet import patients_by_reason
from sweep.report.tables import RunTables


def flow(run: RunTables) -> dict[str, Any]:
    """Counts of files, series, annotated and excluded patients; of files only where the run says what was read.

    A patient excluded for several reasons counts under each.
    """
    found: dict[str, Any] = {
        "annotated": int(run.cohort["patient_id"].nunique() + run.excluded["patient_id"].nunique()),
        "excluded": [{"reason": reason, "patients": count} for reason, count in patients_by_reason(run.excluded)],
        "files": None,
    }
    if run.ingested is None:
        return found
    skipped = [{"reason": reason, "files": count} for reason, count in run.ingested["skipped"].items()]
    left_out = sum(row["files"] for row in skipped)
    read = {"files": run.ingested["files"], "series": run.ingested["series"], "skipped": skipped}
    return found | read | {"skipped_files": left_out, "images": read["files"] - left_out}


def flow_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """flow() as a table: step, reason, count."""
    files, read = [("skipped files", row["reason"], row["files"]) for row in found.get("skipped", [])], found["files"]
    excluded = [("excluded patients", row["reason"], row["patients"]) for row in found["excluded"]]
    folder = [("files", "", read), *files, ("series", "", found["series"])] if read is not None else []
    rows = [*folder, ("annotated patients", "", found["annotated"]), *excluded]
    return [{"step": step, "reason": reason, "count": count} for step, reason, count in rows]
