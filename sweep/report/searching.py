"""What the search did: its history and cost, and which settings mattered."""

from typing import Any

import numpy as np
import pandas as pd

from sweep.comparison import paired_mean_of_folds
from sweep.patient_metrics import fold_aucs
from sweep.report.tables import RunTables
from sweep.selection_bias import fill_dropped_folds

ENOUGH_TO_RANK = 10  # complete configurations; even with these, a rank correlation of 0.6 is within chance


def searched(run: RunTables) -> dict[str, Any]:
    """The summary's part on the search."""
    return {"history": _history(run), "cost": _cost(run), "dropped": _dropped(run), "settings": _settings(run)}


def _dropped(run: RunTables) -> list[dict[str, Any]]:
    """A row per configuration that a race dropped: its mean AUC so far, the best one's on the same folds, paired."""
    split = run.split.set_index("patient_id").loc[run.competing.index]
    nothing, means = pd.Series(np.nan, run.competing.index), _fold_aucs(run).mean(axis=1)
    rows = []
    for _, row in run.configurations.query("state == 'pruned'").sort_values("configuration").iterrows():
        scores = [run.competing.get(number, nothing) for number in (row["configuration"], run.best)]
        known = scores[0].notna() & scores[1].notna()
        first, second, label, fold = (column[known].to_numpy() for column in (*scores, split["label"], split["fold"]))
        test = paired_mean_of_folds(label, first, second, fold)
        own = {"configuration": row["configuration"], "folds_done": row["folds_done"], "why": row["dropped"]}
        own["mean"] = means.get(row["configuration"], np.nan)
        rows.append(own | {"best_mean": test.second, "difference": test.difference})
    return rows


def _fold_aucs(run: RunTables) -> pd.DataFrame:
    """A row per configuration that is complete or was dropped, a column per fold; nan where it was not trained."""
    split = run.split.set_index("patient_id").loc[run.competing.index]

    def of_folds(score: "pd.Series[float]") -> "pd.Series[float]":
        known = split[score.notna()]
        return pd.Series(fold_aucs(known["label"].to_numpy(), score.dropna().to_numpy(), known["fold"].to_numpy()))

    return run.competing.apply(of_folds).T


def _history(run: RunTables) -> list[dict[Any, Any]]:
    """A row per configuration in the order of the search: its AUC, the best so far, the fold-trainings so far."""
    rows = run.configurations.sort_values("configuration")
    found = rows[["configuration", "state", "folds_done"]].assign(
        mean_fold_auc=rows["mean_fold_auc"].where(rows["state"] == "complete").astype(float),
        fold_trainings=rows["folds_done"].cumsum(),
    )
    found["best_so_far"] = found["mean_fold_auc"].cummax().ffill()
    return found.to_dict("records")


def _cost(run: RunTables) -> dict[str, Any]:
    """Finished fold-trainings, all folds of all configurations, what a race spared of them, hours and epochs."""
    full = len(run.configurations) * (folds := int(run.split["fold"].nunique()))
    spared = int((folds - run.configurations.query("state == 'pruned'")["folds_done"]).sum())
    return {
        "fold_trainings": int(run.configurations["folds_done"].sum()),
        "full": full,
        "spared": spared,
        "spared_share": spared / full if full else 0.0,
        "hours": float(run.costs["seconds"].sum() / 3600),
        "epochs": int(run.costs["epochs"].sum()),
    }


def _settings(run: RunTables) -> list[dict[str, Any]]:
    """Every varied setting's fANOVA importance and, of numbers, Spearman's rank correlation with the mean fold AUC.

    The most important first; [] for too few or equal configurations. The folds a race dropped are filled as for BBC-CV.
    """
    if len(aucs := _fold_aucs(run)) < ENOUGH_TO_RANK:
        return []
    filled = fill_dropped_folds(aucs.to_numpy()[:, :, None])[:, :, 0]
    value = pd.Series(np.nanmean(filled, axis=1), aucs.index, dtype=float)
    settings = run.configurations.set_index("configuration").loc[value.index, run.searched]
    varied = settings.loc[:, settings.nunique() > 1]
    if varied.empty or value.nunique() < 2:
        return []
    ranks = varied.select_dtypes("number").corrwith(value, method="spearman")
    space = run.settings["search"]["space"]
    found = importance(varied, value, [str(name) for name in varied if space[name]["log"]])
    return [{"setting": name, "importance": share, "spearman": ranks.get(name)} for name, share in found.items()]


def importance(settings: pd.DataFrame, value: "pd.Series[float]", log: list[str]) -> dict[str, float]:
    """Share of the value's variance that each setting explains alone in a random forest; they add up to 1.

    fANOVA (Hutter et al. 2014), Optuna's; `settings` (configurations, settings) with at least two values each, those
    in `log` on a log scale. Also where no setting matters the forest finds shares in the noise.
    """
    import optuna  # slow to import, as the forest of scikit-learn
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    def distribution(name: str) -> BaseDistribution:
        column = settings[name]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            return CategoricalDistribution(sorted(column.astype(str).unique()))
        return FloatDistribution(float(column.min()), float(column.max()), log=name in log)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spans = {name: distribution(name) for name in map(str, settings)}
    typed = settings.astype({n: str if isinstance(s, CategoricalDistribution) else float for n, s in spans.items()})
    study = optuna.create_study(direction="maximize")
    for row, auc in zip(typed.to_dict("records"), value, strict=True):
        parameters = {str(name): setting for name, setting in row.items()}
        study.add_trial(optuna.create_trial(params=parameters, distributions=spans, value=float(auc)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
