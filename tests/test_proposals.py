"""What Optuna is asked for: its samplers' options, and configurations that can be trained."""

from pathlib import Path

from optuna.samplers import TPESampler

from sweep.compose import load_settings
from sweep.ledger import Ledger
from sweep.proposals import open_study, sampler
from sweep.run_folder import open_search
from tests.folds import train_fold
from tests.stores import write_split, write_store
from tests.test_train_fold import QUICK


def test_tpe_is_multivariate_by_groups_and_lies_of_what_is_in_training() -> None:
    built = sampler(load_settings([]), 3)
    assert isinstance(built, TPESampler)
    assert (built._multivariate, built._group, built._constant_liar) == (True, True, True)


CHOICES = {
    "model.backbone": ("narrow", "resnet18"),
    "model.stem": ("7x7", "3x3"),
    "input.sequences": ("both", "t1w", "t2w"),
    "input.neighbours": (0, 1),
}
CONDITIONAL = "search.space.model.dropout={low: 0.0, high: 0.5, when: {model.backbone: [resnet18]}}"


def test_networks_stems_sequences_and_neighbours_are_proposed_and_trained(tmp_path: Path) -> None:
    space = [f"search.space.{name}={{choices: [{', '.join(map(str, each))}]}}" for name, each in CHOICES.items()]
    few = ["search.configurations=14", "folds.count=2", "search.racing.strategy=forgiving"]
    settings = load_settings([*QUICK, "training.epochs=1", "search/space=none", *space, CONDITIONAL, *few])
    store, ledger = write_store(tmp_path / "store"), Ledger(tmp_path / "ledger", "split")
    write_split(tmp_path / "split.csv", store, folds=2)
    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    search = open_search(settings, study, ledger, folds=2)
    while unit := search.next_unit():
        candidate, fold = unit
        folder = ledger.begin(candidate.unit(fold))
        train_fold(candidate.configuration, fold, folder, store=store, split=tmp_path / "split.csv")
        ledger.finish(candidate.unit(fold))
        search.succeeded(candidate, fold)
    assert search.is_finished and search.best and len(search.candidates) == 14  # after ten, TPE draws no more at random
    for name, choices in CHOICES.items():
        proposed = {candidate.values[name] for candidate in search.candidates}
        assert len(proposed) > 1 and proposed <= set(choices)
    for candidate, trial in zip(search.candidates, study.trials, strict=True):
        assert ("model.dropout" in trial.params) == (candidate.values["model.backbone"] == "resnet18")
