"""What racing costs and loses: replays of finished cross-validations, without any training.

    python benchmarks/search_cost.py [TABLE.npz …] [--orders 200] [--alpha 0.05 …] [--strategies posterior …]
    python benchmarks/search_cost.py --simulated 200 --configurations 24 --orders 1   # on tables drawn here
    python benchmarks/search_cost.py --workers 1 8 32 --strategies posterior

A table holds scores (C, N) out-of-fold, y (N,) and fold (N,); without one, those of benchmarks/data. Every replay
shuffles configurations and folds. Cost: share of all fold-trainings. Kept: replays that end with the full comparison's
winner. Regret: its mean of folds' AUCs less the found one's. `wide` asks for all configurations first, as samplers
that do not learn allow.
"""

import argparse
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from sweep.patient_metrics import Array, placements
from sweep.racing import STRATEGIES, Evidence, fold_influence

DATA = Path(__file__).parent / "data"
ALPHAS: dict[str, tuple[float, ...]] = {"posterior": (0.03,), "posterior wide": (0.1, 0.03, 0.01)}
ALPHAS |= {"paired": (0.05, 0.01, 0.001), "wilcoxon": (0.1,)}


@dataclass(frozen=True)
class Table:
    """A finished cross-validation: auc (C, K), influence (C, N), fold (N,)."""

    name: str
    auc: Array
    influence: Array
    fold: Array


def table(name: str, scores: Array, y: Array, fold: Array) -> Table:
    auc, influence = np.empty((len(scores), fold.max() + 1)), np.empty(scores.shape)
    for row, score in enumerate(scores):
        for number in range(fold.max() + 1):
            inside = np.flatnonzero(fold == number)
            malignant, benign = placements(y[inside], score[inside])
            auc[row, number] = malignant.mean()
            for of_class, values in zip((1, 0), fold_influence(malignant, benign), strict=True):
                influence[row, inside[y[inside] == of_class]] = values
    return Table(name, auc, influence, fold)


def load(path: Path) -> Table:
    with np.load(path) as file:
        return table(path.stem, file["scores"], file["y"], file["fold"].astype(int))


def simulate(seed: int, configurations: int = 200, patients: int = 190, folds: int = 10) -> Table:
    """Binormal scores of configurations from two to six families with three settings; every share and width is drawn.

    A patient's difficulty is common to all, to a family, a smooth function of the settings, or the configuration's own;
    families may hold near-duplicates, have luck with a fold, and some configurations fail.
    """
    random = np.random.default_rng(seed)
    y = np.zeros(patients, int)
    y[: int(random.uniform(0.2, 0.5) * patients)] = 1
    fold = np.empty(patients, int)
    for of_class in (0, 1):
        members = random.permutation(np.flatnonzero(y == of_class))
        fold[members] = np.arange(len(members)) % folds
    families = random.integers(2, 7)
    family = random.choice(families, size=configurations, p=random.dirichlet(np.full(families, 1.5)))
    setting, best = random.uniform(-1, 1, (configurations, 3)), random.uniform(-1, 1, (families, 3))
    far = np.abs(setting - best[family]) ** random.uniform(1, 4)
    lack = (random.gamma(0.7, 1, (families, 3))[family] * far).sum(axis=1)
    lack = lack / np.median(lack) * random.uniform(0.01, 0.6, families)[family]
    lack += random.exponential(random.uniform(0, 0.2), families)[family]
    lack += (random.random(configurations) < random.uniform(0, 0.2)) * random.uniform(0.5, 1.5, configurations)
    waves = np.cos(setting @ random.normal(0, 0.8, (3, 30)) + random.uniform(0, 6.3, 30)) / np.sqrt(15)
    parts = [
        np.tile(random.normal(size=patients), (configurations, 1)),
        random.normal(size=(families, patients))[family],
    ]
    parts += [waves @ random.normal(size=(30, patients)), random.normal(size=(configurations, patients))]
    own = random.choice([0.02, 0.3, 1.5], families)
    share = np.array([random.dirichlet([6, random.uniform(0.5, 5), random.uniform(0.1, 2), one]) for one in own])[
        family
    ]
    scores = sum(np.sqrt(share[:, [index]]) * part for index, part in enumerate(parts))
    shift = random.choice([0.01, 0.1, 0.3], families)[family][:, None] * random.normal(size=(configurations, folds))
    shift += random.uniform(0, 0.3) * random.normal(size=folds) + (random.uniform(0.8, 2.2) - lack)[:, None]
    shift += random.uniform(0, 0.3) * random.normal(size=(families, folds))[family]
    return table(f"simulated {seed}", scores + shift[:, fold] * y, y, fold)


def replay(source: Table, strategy: str, alpha: float, seed: int, workers: int = 1) -> tuple[float, float]:
    """(cost, regret) of one order; folds take log-normal times, so that with several workers they end in any order."""
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(source.auc)), random.permutation(source.auc.shape[1])
    auc, fold = source.auc[np.ix_(rows, columns)], np.argsort(columns)[source.fold]
    influence = np.zeros_like(source.influence)
    decide, wide = STRATEGIES[strategy.removesuffix(" wide")], strategy.endswith(" wide")
    begun, done, alive = np.zeros(auc.shape, bool), np.zeros(auc.shape, bool), np.ones(len(auc), bool)
    running: list[tuple[float, int, int]] = []
    now, asked = 0.0, 0
    while True:
        shown = min(asked + 1, len(auc))
        evidence = Evidence(
            np.where(done, auc, np.nan)[:shown],
            influence[:shown],
            fold,
            alive[:shown],
            last=asked == len(auc),
        )
        verdict = (decide if done.any() else STRATEGIES["none"])(evidence, alpha)
        alive[[drop.row for drop in verdict.drops]] = False
        while len(running) < workers:
            worth = verdict.worth((begun & ~done)[:shown].sum(axis=1))
            worth = np.where(alive[:shown] & ~begun[:shown].all(axis=1), worth, -np.inf)
            if wide and asked < shown:
                worth[asked] = np.inf
            row = int(np.argmax(worth))
            if worth[row] == -np.inf:
                break
            column = int(verdict.folds[np.argmin(begun[row, verdict.folds])])
            begun[row, column] = True
            heapq.heappush(running, (now + random.lognormal(0, 0.4), row, column))
            if row == asked:
                asked += 1
                break  # there is another newcomer to be thought of
        if len(running) < workers and asked < len(auc) and row == asked - 1:
            continue
        if not running:
            break
        now, row, column = heapq.heappop(running)
        done[row, column] = True
        influence[row, fold == column] = source.influence[rows[row], fold == column]
    full = auc.mean(axis=1)
    return float(done.mean()), float(full.max() - full[done.all(axis=1)].max())


def runs(args: argparse.Namespace) -> Iterator[tuple[str, float, int]]:
    for strategy in args.strategies:
        for alpha in args.alpha or ALPHAS.get(strategy, (0.0,)):
            for workers in args.workers:
                yield strategy, alpha, workers


def draw(points: dict[str, list[tuple[str, float, float]]], path: Path) -> None:
    figure = Figure(figsize=(5 * len(points) + 2, 4.2), layout="constrained")
    for axes, (name, of_table) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        axes.set(title=name, xlabel="cost: share of all fold-trainings", ylabel="mean regret in AUC", xlim=(0, 1.05))
        axes.set_yscale("symlog", linthresh=1e-4)  # many lose nothing
        axes.set_ylim(-2e-5, 0.02)
        axes.fill_between([0, 0.33], -2e-5, 0.0005, color="tab:green", alpha=0.15, label="aim")
        for number, (strategy, cost, regret) in enumerate(of_table):
            style = {"marker": "sv^<>DPX*"[number % 9], "color": "C" + "01245"[number % 5]}
            if strategy.startswith("posterior"):
                style = {"marker": "o", "color": "tab:red"}
            axes.plot(cost, regret, linestyle="", markersize=8, alpha=0.8, label=strategy.removesuffix(" 0"), **style)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--simulated", type=int, default=0, help="number of simulated tables instead")
    parser.add_argument("--configurations", type=int, default=200, help="of a simulated table")
    parser.add_argument("--strategies", nargs="+", default=["posterior wide", *STRATEGIES])
    parser.add_argument("--alpha", nargs="+", type=float)
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--plot", type=Path, help="a picture of cost and regret to write")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.simulated:
        drawn = [simulate(1000 + seed, args.configurations) for seed in range(args.simulated)]
        groups = {f"{args.simulated} simulated of {args.configurations}": drawn}
    else:
        groups = {path.stem: [load(path)] for path in args.tables or sorted(DATA.glob("*.npz"))}
    print("| table | strategy | alpha | workers | cost | kept | mean regret | worst regret |")
    print("|---|---|---|---|---|---|---|---|")
    points: dict[str, list[tuple[str, float, float]]] = {name: [] for name in groups}
    with Parallel(n_jobs=args.jobs) as parallel:
        for name, tables in groups.items():
            for strategy, alpha, workers in runs(args):
                found = parallel(
                    delayed(replay)(each, strategy, alpha, seed, workers)
                    for each in tables
                    for seed in range(args.orders)
                )
                cost, regret = np.array(found).T
                kept = np.mean(regret < 1e-9)
                points[name].append((f"{strategy} {alpha:g}", cost.mean(), regret.mean()))
                row = f"{cost.mean():.3f} | {kept:.1%} | {regret.mean():.5f} | {regret.max():.4f} |"
                print(f"| {name} | {strategy} | {alpha:g} | {workers} | {row}", flush=True)
    if args.plot:
        draw(points, args.plot)


if __name__ == "__main__":
    main()
