"""A torn last record is cut off; anything else that changed in Optuna's journal is refused."""

from pathlib import Path

import pytest

from sweep.compose import load_settings
from sweep.journal import mend, seal
from sweep.proposals import open_study, propose
from sweep.settings import SettingsError


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "optuna.journal"
    study = open_study(path, "test", {})
    seal(path)
    trial = study.ask()
    trial.set_user_attr("proposed", True)
    study.tell(trial, 0.5)
    return path


def trials(journal: Path) -> int:
    return len(open_study(journal, "test", {}).trials)


def test_a_whole_journal_stays_as_it_is(journal: Path) -> None:
    content = journal.read_bytes()
    mend(journal)
    assert journal.read_bytes() == content
    mend(journal.with_name("there is none"))


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_half_written_record_is_cut_off(journal: Path, cut: int) -> None:
    content = journal.read_bytes()
    *whole, last = content.splitlines(keepends=True)
    journal.write_bytes(content[:-cut])
    journal.with_name("optuna.journal.lock").symlink_to(journal)  # the killed process held it
    assert cut < len(last)
    mend(journal)
    assert journal.read_bytes() == b"".join(whole)
    study = open_study(journal, "test", {})
    study.tell(study.ask(), 0.7)
    assert trials(journal) == len(study.trials)


def test_half_a_proposal_is_made_again_as_it_was(tmp_path: Path) -> None:
    settings = load_settings(["search/space=resnet50"])
    journal = tmp_path / "optuna.journal"
    study = open_study(journal, "test", settings.own_values())
    sizes = []
    for number in range(2):
        sizes.append(len(journal.read_bytes().splitlines()))
        propose(study, settings, number)
    content, proposed = journal.read_bytes().splitlines(keepends=True), study.trials
    seal(journal)
    for number, begin in enumerate(sizes):
        end = sizes[number + 1] if number == 0 else len(content)
        for kept in range(begin + 1, end):
            journal.write_bytes(b"".join(content[:kept]))
            journal.with_name("optuna.journal.sha256").unlink(missing_ok=True)
            mend(journal)
            assert len(journal.read_bytes().splitlines()) == begin
            mend(journal)
            again = open_study(journal, "test", settings.own_values())
            assert propose(again, settings, number).params == proposed[number].params
    journal.write_bytes(b"".join(content))
    mend(journal)
    assert journal.read_bytes() == b"".join(content)


def test_a_changed_record_is_refused_with_a_remedy(journal: Path) -> None:
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"test", b"tesu", 1))
    with pytest.raises(SettingsError, match=r"not as it was written; restore it .* or remove"):
        mend(journal)
    journal.write_bytes(content[:-40] + b'"' + content[-40:] + content.splitlines(keepends=True)[-1])
    with pytest.raises(SettingsError, match="not as it was written"):
        mend(journal)


def test_a_journal_may_be_removed(journal: Path) -> None:
    journal.unlink()
    mend(journal)
    assert trials(journal) == 1
    mend(journal)
