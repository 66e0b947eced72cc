"""The flow from files to patients, as STARD 2015 (doi 10.1136/bmj.h5527) asks for."""

from typing import Any

from sweep.contact_sheet import patients_by_reason
from sweep.report.tables import RunTables


def flow(run: RunTables) -> dict[str, Any]:
    """Counts of files, series, annotated and excluded patients; one excluded for several reasons counts under each."""
    files, skipped = run.ingested["files"], run.ingested["skipped"]
    annotated = run.cohort["patient_id"].nunique() + run.excluded["patient_id"].nunique()
    return {
        "files": files,
        "skipped": [{"reason": reason, "count": count} for reason, count in skipped.items()],
        "skipped_files": sum(skipped.values()),
        "images": files - sum(skipped.values()),
        "series": run.ingested["series"],
        "annotated": int(annotated),
        "excluded": [{"reason": reason, "count": count} for reason, count in patients_by_reason(run.excluded)],
    }
