"""A file imports only from files above it; datasets and lightning_modules do not know each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP_ORDER = [
    "settings",
    "storage",
    "ledger",
    "journal",
    "train_fold",
    "explain_fold",
    "patient_metrics",
    "bootstrap",
    "slices",
    "operating_point",
    "calibration",
]
SWEEP_ORDER += ["comparison", "selection_bias", "ensembles", "readers", "features", "predictions"]
SWEEP_ORDER += ["race_model", "racing", "proposals"]
SWEEP_ORDER += [
    "candidate",
    "search",
    "search_pool",
    "compose",
    "watch",
    "node_copy",
    "allocation",
    "worker",
    "tune_adapter",
    "run_folder",
    "further_validation",
]
SWEEP_ORDER += ["contact_sheet", "prepare", "tensorboard_summaries", "tracking"]
SWEEP_ORDER += ["display", "explanations", "report", "run", "status", "__main__"]
PACKAGES = ("datasets", "lightning_modules", "sweep")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of the project's own modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_know_only_what_stands_above_them(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {"datasets": {"datasets"}, "lightning_modules": {"lightning_modules"}, "sweep": set(PACKAGES)}[package]
    assert {name.split(".")[0] for name in imports(path)} <= allowed


def sweep_part(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[-2] == "sweep"], ids=lambda path: path.stem)
def test_a_file_of_sweep_imports_only_files_above_it(path: Path) -> None:
    if path.stem == "__init__":
        assert path.read_text() == ""
        return
    parts = {sweep_part(name) for name in imports(path) if name.startswith("sweep.")}
    assert parts <= set(SWEEP_ORDER[: SWEEP_ORDER.index(path.stem)])


def test_only_the_readers_read_dicom() -> None:
    readers = [
        path.name for path in FILES if "import pydicom" in path.read_text() or "from pydicom" in path.read_text()
    ]
    assert set(readers) <= {"dicom_file.py", "headers.py", "pixels.py", "plain_elements.py", "phantom_dicom.py"}


def test_the_core_knows_no_ray() -> None:
    users = [path.name for path in FILES if "import ray" in path.read_text() or "from ray" in path.read_text()]
    assert users == ["allocation.py", "tune_adapter.py", "watch.py", "worker.py"]


def test_the_parts_of_the_report_do_not_import_the_whole() -> None:
    parts = [path for path in FILES if path.parent.name == "report" and path.stem != "__init__"]
    assert len(parts) > 5
    assert not [path.name for path in parts if "sweep.report" in imports(path)]
