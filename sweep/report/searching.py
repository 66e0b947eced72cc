"""What the search did: its history and cost, and which settings mattered."""

from typing import Any

import pandas as pd

from sweep.report.tables import RunTables

ENOUGH_TO_RANK = 10  # complete configurations; even with these, a rank correlation of 0.6 is within chance


def searched(run: RunTables) -> dict[str, Any]:
    """The summary's part on the search."""
    return {"history": _history(run), "cost": _cost(run), "settings": _settings(run)}


def _history(run: RunTables) -> list[dict[str, Any]]:
    """A row per configuration in the order of the search: its AUC, the best so far, the fold-trainings so far."""
    rows = run.configurations.sort_values("configuration")
    found = rows[["configuration", "state", "folds_done"]].assign(
        mean_fold_auc=rows["mean_fold_auc"].where(rows["state"] == "complete").astype(float),
        fold_trainings=rows["folds_done"].cumsum(),
    )
    found["best_so_far"] = found["mean_fold_auc"].cummax().ffill()
    return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]


def _cost(run: RunTables) -> dict[str, Any]:
    """Finished fold-trainings, what all configurations with all folds would take, and hours where they are known."""
    return {
        "fold_trainings": int(run.configurations["folds_done"].sum()),
        "full": len(run.configurations) * int(run.split["fold"].nunique()),
        "hours": None if run.costs is None else float(run.costs["seconds"].sum() / 3600),
        "epochs": None if run.costs is None else int(run.costs["epochs"].sum()),
    }


def _settings(run: RunTables) -> list[dict[str, Any]]:
    """Every varied setting's fANOVA importance and, of numbers, Spearman's rank correlation with the mean fold AUC.

    The most important first; [] for too few complete configurations, or where all have one AUC.
    """
    complete = run.complete.dropna(subset="mean_fold_auc")
    varied = complete[run.searched].loc[:, complete[run.searched].nunique() > 1]
    if len(complete) < ENOUGH_TO_RANK or varied.empty or complete["mean_fold_auc"].nunique() < 2:
        return []
    ranks = varied.select_dtypes("number").corrwith(complete["mean_fold_auc"], method="spearman")
    space = run.settings["search"]["space"]
    found = importance(varied, complete["mean_fold_auc"], [str(name) for name in varied if space[name]["log"]])
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
