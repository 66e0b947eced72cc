"""The race beside its peers on the same tables and orders: SMAC3, Optuna's WilcoxonPruner and Ray Tune's ASHA.

    python benchmarks/search_peers.py [TABLE.npz …] [--orders 20] [--peers smac wilcoxon asha posterior]

The peers' own code decides; a fold's AUC is looked up instead of trained. SMAC3 (`pip install smac` in an environment
of its own) takes folds as instances and the 200 configurations as one categorical setting.
"""

import argparse
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.search_cost import DATA, load, replay
from sweep.patient_metrics import Array

Outcome = tuple[float, float]


def outcome(auc: Array, done: Array, found: int) -> Outcome:
    """(cost, regret) of having trained the folds `done` and answered with `found`."""
    full = auc.mean(axis=1)
    return float(done.mean()), float(full.max() - full[found])


def best_complete(auc: Array, done: Array) -> int:
    return int(np.argmax(np.where(done.all(axis=1), auc.mean(axis=1), -1)))


def wilcoxon(auc: Array, seed: int) -> Outcome:  # noqa: ARG001
    """As Optuna's tutorial has it: a trial reports fold after fold and asks whether to stop."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
    done = np.zeros(auc.shape, bool)
    for row, of_folds in enumerate(auc):
        trial = study.ask()
        for fold, value in enumerate(of_folds):
            trial.report(value, fold)
            done[row, fold] = True
            if trial.should_prune() and not done[row].all():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, of_folds.mean())
    return outcome(auc, done, best_complete(auc, done))


def asha(auc: Array, seed: int) -> Outcome:  # noqa: ARG001
    """Ray Tune's scheduler with folds for iterations, asked for trial after trial as one worker would."""
    from types import SimpleNamespace

    from ray.tune.schedulers import AsyncHyperBandScheduler

    folds = auc.shape[1]
    scheduler = AsyncHyperBandScheduler("fold", "auc", "max", max_t=folds, grace_period=1, reduction_factor=3)
    done = np.zeros(auc.shape, bool)
    for row, of_folds in enumerate(auc):
        trial = SimpleNamespace(trial_id=str(row), stub=True)
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        for fold in range(folds):
            done[row, fold] = True
            result = {"fold": fold + 1, "auc": float(of_folds[: fold + 1].mean())}
            if scheduler.on_trial_result(None, trial, result) == scheduler.STOP:  # type: ignore[arg-type]
                break
    return outcome(auc, done, best_complete(auc, done))


def smac(auc: Array, seed: int) -> Outcome:
    """SMAC3's algorithm configuration: its intensifier decides who gets how many folds."""
    from ConfigSpace import Categorical, Configuration, ConfigurationSpace
    from smac import RandomFacade, Scenario
    from smac.initial_design import RandomInitialDesign
    from smac.main.exceptions import ConfigurationSpaceExhaustedException

    space = ConfigurationSpace({"row": Categorical("row", list(range(len(auc))))}, seed=seed)
    done = np.zeros(auc.shape, bool)

    def loss(config: dict[str, int], instance: str, seed: int = 0) -> float:  # noqa: ARG001
        done[config["row"], int(instance)] = True
        return 1 - float(auc[config["row"], int(instance)])

    names = [str(fold) for fold in range(auc.shape[1])]
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            deterministic=True,
            instances=names,
            instance_features={name: [float(name)] for name in names},
            n_trials=auc.size,
            output_directory=Path(folder),
            seed=seed,
        )
        rows = [Configuration(space, {"row": row}) for row in range(len(auc))]
        design = RandomInitialDesign(scenario, n_configs=0, additional_configs=rows)
        rule = RandomFacade.get_intensifier(scenario, max_config_calls=len(names))  # its default stops at three
        facade = RandomFacade(scenario, loss, initial_design=design, intensifier=rule, logging_level=50, overwrite=True)
        with suppress(ConfigurationSpaceExhaustedException):  # its way to say that all have been tried
            facade.optimize()
        found = facade.intensifier.get_incumbent()
    return outcome(auc, done, int(found["row"]))


PEERS = {"smac": smac, "wilcoxon": wilcoxon, "asha": asha}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--peers", nargs="+", default=[*PEERS, "posterior"])
    args = parser.parse_args()
    print("| table | decides | orders | cost | kept | mean regret | worst regret |\n|---|---|---|---|---|---|---|")
    for path in args.tables or sorted(DATA.glob("*.npz")):
        table = load(path)
        for name in args.peers:
            found = []
            for seed in range(args.orders):
                random = np.random.default_rng(seed)
                rows, columns = random.permutation(len(table.auc)), random.permutation(table.auc.shape[1])
                auc = table.auc[np.ix_(rows, columns)]
                found.append(PEERS[name](auc, seed) if name in PEERS else replay(table, f"{name} wide", 0.03, seed))
            cost, regret = np.array(found).T
            figures = f"{cost.mean():.3f} | {np.mean(regret < 1e-9):.1%} | {regret.mean():.5f} | {regret.max():.4f}"
            print(f"| {table.name} | {name} | {args.orders} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
