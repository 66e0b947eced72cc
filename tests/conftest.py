"""Fixtures that more than one test file needs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Independently computed figures and real DICOM files beside the checkout; tests skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ folder beside the checkout: golden figures and real DICOM files are not at hand")
    return folder
