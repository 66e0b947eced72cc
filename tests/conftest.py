"""Fixtures that more than one test file needs."""

from pathlib import Path

import pytest

from tests.trained_runs import HOSTILE, write_trained_run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose folds were really trained, some of its patients with hostile identifiers; copy it to spoil it."""
    return write_trained_run(tmp_path_factory.mktemp("trained"), HOSTILE)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Independently computed figures and real DICOM files beside the checkout; tests skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ folder beside the checkout: golden figures and real DICOM files are not at hand")
    return folder
