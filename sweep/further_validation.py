"""Beyond one cross-validation: other splits of the best, nested cross-validation, the whole sweep on permuted labels.

Each is a chain of searches over splits of their own, whose tables and journals stand in the run's splits/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from datasets.folds import FEWEST_IN_TRAINING, make_split, split_digest
from datasets.tables import to_csv
from sweep.candidate import Candidate
from sweep.journal import mend
from sweep.ledger import Ledger, write_atomically
from sweep.predictions import configuration_figures, per_patient
from sweep.proposals import chosen_study, open_study
from sweep.run_folder import RunFolder, candidate_predictions, fold_threshold, open_search
from sweep.search_pool import Chain, SearchPool, Stage
from sweep.settings import Settings, SettingsError
from sweep.slices import Rule
from sweep.storage import remove

FURTHER = ("repeats", "nested", "nested_patients", "permutations")  # tables in the run folder
REPEATED = 3  # configurations, the best ones, whose cross-validation is repeated


def further_trainings(settings: Settings, folds: int, complete: int) -> dict[str, int]:
    """Fold-trainings of each kind, where none is done yet, after a sweep with so many `complete` configurations."""
    configurations, asked = settings.search.configurations, settings.evaluation
    return {
        "repeats": asked.repeats * min(REPEATED, complete) * folds,
        "nested": asked.nested * folds * (configurations * (folds - 1) + 1),
        "permutations": asked.permutations * configurations * folds,
    }


def require_inner_folds(split: pd.DataFrame) -> None:
    """Raises SettingsError where an inner fold of nested cross-validation would leave too few to train on."""
    counts = pd.crosstab(split["fold"], split["label"])
    fewest = min((counts.sum() - counts.loc[list(two)].sum()).min() for two in combinations(counts.index, 2))
    if fewest < FEWEST_IN_TRAINING:
        raise SettingsError(
            f"evaluation=nested: without two of the {len(counts)} folds one class has only {fewest} patients, too few "
            "to train and stop early; add patients or folds, or write evaluation=corrected"
        )


def permute_labels(split: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The split with the labels of every fold dealt anew among its patients."""
    random = np.random.default_rng(seed)
    return split.assign(label=split.groupby("fold")["label"].transform(lambda labels: random.permutation(labels)))


def further_searches(run: RunFolder, settings: Settings, split: pd.DataFrame, best: Sequence[Candidate]) -> SearchPool:
    """What the settings ask for, all over one pool of workers.

    repeats: the configurations `best` under other splits. nested: for every fold a sweep over the others' patients,
    with the other folds as inner folds, and its winner trained on all of them to predict the fold (Varma & Simon
    2006, doi 10.1186/1471-2105-7-91). permutations: the sweep on labels dealt anew within the folds.
    """

    def stage(kind: str, number: int, split: pd.DataFrame, chosen: Sequence[Candidate] = (), folds: int = 0) -> Stage:
        """A search over a split, or the training of what was chosen, all folds of it or the first `folds`."""
        own, digest = _with_seed(settings, kind, number, len(chosen)), split_digest(split)
        path, ledger = run.splits / f"{digest}.csv", Ledger(run.ledger, digest)
        journal = path.with_suffix(".journal")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, to_csv(split))
        mend(journal)
        values = [candidate.values for candidate in chosen]
        study = chosen_study(own, values) if chosen else open_study(journal, digest, own.own_values())
        search = open_search(own, study, ledger, folds or split["fold"].nunique())
        return Stage(kind, number, search, ledger, path, journal)

    def repeat(number: int) -> Chain:
        dealt = make_split(split, settings.folds.count or 0, derived_seed(settings.seed, "repeat", number))
        yield stage("repeat", number, dealt, best)

    def outer_fold(fold: int) -> Chain:
        others = split[split["fold"] != fold]
        inner = stage("outer fold", fold, others.assign(fold=others["fold"] - (others["fold"] > fold)))
        yield inner
        if winner := inner.search.best:  # fold 0 is the outer fold, and the only one to train
            yield stage("outer fold", fold, split.assign(fold=(split["fold"] != fold).astype(int)), [winner], folds=1)

    def permutation(number: int) -> Chain:
        yield stage("permutation", number, permute_labels(split, derived_seed(settings.seed, "permutation", number)))

    asked = settings.evaluation
    outer = [outer_fold(int(fold)) for fold in sorted(split["fold"].unique()) if asked.nested]
    repeats, permutations = (range(1, count + 1) for count in (asked.repeats, asked.permutations))
    return SearchPool([*map(repeat, repeats), *outer, *map(permutation, permutations)])


def derived_seed(seed: int, kind: str, number: int) -> int:
    """A seed for all randomness of a further search: it draws its own splits, proposals and initial weights."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{kind}/{number}".encode()).digest()[:4])


def _with_seed(settings: Settings, kind: str, number: int, chosen: int) -> Settings:
    """Chosen configurations do not race: all their folds are wanted."""
    own: dict[str, Any] = {"seed": derived_seed(settings.seed, kind, number)}
    if chosen:
        no_race = settings.search.racing.model_copy(update={"strategy": "none"})
        everything = {"racing": no_race, "deterministic": False, "max_folds": None, "max_hours": None}
        own["search"] = settings.search.model_copy(update=everything | {"configurations": chosen})
    return settings.model_copy(update=own)


def write_further_tables(run: RunFolder, settings: Settings, best: Sequence[Candidate], pool: SearchPool) -> None:
    """The FURTHER tables of what is done; none of what is not asked for."""
    rows: dict[str, list[dict[Any, Any]]] = {name: [] for name in FURTHER}
    for first, *more in filter(None, pool.begun):
        if first.kind == "repeat":
            rows["repeats"] += _repeated(first, best, settings.evaluation.slices)
        elif first.kind == "permutation" and first.search.is_finished and (winner := first.search.best):
            rows["permutations"].append({"permutation": first.number, "mean_fold_auc": winner.mean_fold_auc})
        elif more and (winner := first.search.best) and more[0].search.best:
            rows["nested"].append(_chosen(first, winner, more[0]))
            rows["nested_patients"] += _predicted(more[0], settings)
    for name, table in rows.items():
        remove(run.path / f"{name}.csv")
        if table:
            write_atomically(run.path / f"{name}.csv", to_csv(pd.DataFrame(table)))


def _repeated(stage: Stage, best: Sequence[Candidate], rule: Rule) -> list[dict[Any, Any]]:
    return [
        {"repeat": stage.number, "configuration": configuration.number}
        | configuration_figures(candidate_predictions(stage.ledger, again), rule)
        for configuration, again in zip(best, stage.search.candidates, strict=True)
        if again.is_complete
    ]


def _chosen(inner: Stage, winner: Candidate, test: Stage) -> dict[Any, Any]:
    """What an outer fold chose, how good it looked and how good it was."""
    row = {"fold": inner.number, "configuration": winner.number, "candidates": len(inner.search.candidates)}
    aucs = {"inner_auc": winner.mean_fold_auc, "auc": test.search.candidates[0].fold_aucs[0]}
    return row | aucs | dict(winner.values)


def _predicted(test: Stage, settings: Settings) -> list[dict[Any, Any]]:
    """An outer fold's patients, as the chosen configuration predicts them, with its threshold."""
    winner = test.search.candidates[0]
    patients = per_patient(candidate_predictions(test.ledger, winner), settings.evaluation.slices)
    threshold = fold_threshold(test.ledger, winner.unit(0), settings.evaluation)
    return patients.assign(fold=test.number, threshold=threshold).to_dict("records")
