"""What a unit takes of a machine, and how many fit. Tune loads this in every worker: it stays apart from the driver."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from sweep.settings import Configuration, Resources, SettingsError

FOLDS_SIDE_BY_SIDE = 10  # the study's: one configuration on one GPU


def fold_resources(
    resources: Resources, available: Mapping[str, float], at_once: int | None = None
) -> tuple[dict[str, float], int]:
    """What a fold takes, and how many folds fit at once into what is available ("CPU", "GPU").

    Nodes may still have to be started for `at_once` folds, so that what is available does not bound them.

    Raises:
        SettingsError: not even one fits, or a GPU that is not there yet is to be counted on.
    """
    gpus = resources.gpus_per_fold
    if at_once is not None and gpus is None:
        raise SettingsError(
            f"cluster.folds_at_once={at_once}: nodes that come later may have GPUs; "
            "write resources.gpus_per_fold=1, a share of one, or 0"
        )
    own = min(available.get("GPU", 0.0), 1.0) if gpus is None else gpus
    needed = {"CPU": float(resources.cpus_per_fold), "GPU": own}
    if at_once is not None:
        return needed, at_once
    for name, amount in needed.items():
        if amount > (there := available.get(name, 0.0)):
            setting = f"resources.{name.lower()}s_per_fold={amount:g}"
            raise SettingsError(f"{setting}: there are {there:g}; write {there:g} or less")
    return needed, min(int(available[name] / amount) for name, amount in needed.items() if amount)


def pack_size(resources: Resources, configuration: Configuration, *, on_gpu: bool, slots: int) -> int:
    """How many folds a worker trains side by side: by default one, and with recorded steps on GPUs ten among them.

    Without recorded steps one process cannot launch a GPU's work fast enough for more than one fold.
    """
    packed = on_gpu and configuration.training.cuda_graphs
    return resources.folds_per_pack or (-(-FOLDS_SIDE_BY_SIDE // slots) if packed else 1)


def trial_resources(needed: Mapping[str, float], config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes of one node: retries more, though never more than some node or device has."""
    bundle = {}
    for name, amount in needed.items():
        most = max([node.get(name, 0.0) for node in config.get("nodes", [])], default=amount)
        most = min(most, 1.0) if name == "GPU" and amount <= 1 else most
        bundle[name] = max(amount, min(amount * config.get("times", 1), most))
    avoid = config.get("avoid")
    return tune.PlacementGroupFactory(
        [bundle], bundle_label_selector=[{"ray.io/node-id": f"!in({','.join(avoid)})"}] if avoid else None
    )
