"""The flow from files to patients, as STARD 2015 (doi 10.1136/bmj.h5527) asks for."""

from typing import Any

from sweep.contact_sheet import patients_by_reason
from sweep.report.tables import RunTables


def flow(run: RunTables) -> dict[str, Any]:
    """Counts of files, series, annotated and excluded patients; of files only where the run says what was read.

    A patient excluded for several reasons counts under each.
    """
    excluded = dict(patients_by_reason(run.excluded))
    annotated = run.cohort["patient_id"].nunique() + run.excluded["patient_id"].nunique()
    found = {"annotated": int(annotated), "excluded": excluded, "files": None}
    if run.ingested is None:
        return found
    files, skipped = run.ingested["files"], run.ingested["skipped"]
    left = {"skipped_files": sum(skipped.values()), "images": files - sum(skipped.values())}
    return found | {"files": files, "series": run.ingested["series"], "skipped": skipped} | left
