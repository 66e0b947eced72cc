"""Every command in the documentation runs: real ones on small data, long ones as far as their settings."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from sweep.__main__ import main
from sweep.compose import load_settings
from tests.test_main import TINY, sweep

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*.yaml")]


def commands() -> list[str]:
    """Each documented `python -m sweep …`, whatever stands before it on its line."""
    found = {
        line[line.index("python -m sweep") :].split("`")[0].strip()
        for document in DOCUMENTS
        for line in document.read_text().splitlines()
        if "python -m sweep" in line and "…" not in line
    }
    # One in quotes for another machine's shell ends where they do.
    return sorted(command[:-1] if command.count("'") % 2 else command for command in found)


@pytest.fixture
def patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the PATIENTS that the documents speak of."""
    (tmp_path / "PATIENTS").mkdir()
    (tmp_path / "PATIENTS" / "annotations.csv").touch()
    monkeypatch.chdir(tmp_path)


def test_the_readme_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()[:40]
    assert "pip install -e '.[test]' && python -m sweep" in lines
    assert "pip install -e '.[test]' && python -m pytest" in lines


@pytest.mark.parametrize(
    "command", [c for c in commands() if not re.search("sweep (phantom|report|compare|status|--help)", c)]
)
@pytest.mark.usefixtures("patients")
def test_a_documented_sweep_has_good_settings(command: str) -> None:
    _python, _m, _sweep, *overrides = shlex.split(command)
    overrides = [override for override in overrides if override != "ingest"]
    load_settings(overrides)


def test_the_documented_tools_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = [c for c in commands() if re.search("sweep (phantom|report|compare|status|--help)", c)]
    assert len(tools) >= 4
    assert sweep(tmp_path, "name=mine", *TINY, "search.configurations=1").returncode == 0
    shutil.copytree(tmp_path / "runs" / "mine", tmp_path / "runs" / "other")
    for command in tools:
        _python, _m, _sweep, *arguments = shlex.split(command.replace("patients=40", "patients=12"))
        if arguments == ["--help"]:
            assert main(arguments) == 0 and "learning_rate" in capsys.readouterr().out
        else:
            shutil.rmtree(tmp_path / "PATIENTS", ignore_errors=True)
            done = sweep(tmp_path, *arguments)
            assert done.returncode == 0, f"{command}: {done.stderr}"


def test_links_and_pictures_exist() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} names {target}"
