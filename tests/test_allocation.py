"""What a unit takes of a machine, and how many fit."""

import subprocess
import sys

import pytest

from sweep.allocation import fold_resources, pack_size, trial_resources
from sweep.compose import load_settings
from sweep.settings import SettingsError

DRIVERS_OWN = ("optuna", "pydicom", "sklearn", "sweep.search", "torch")


def test_a_worker_loads_none_of_what_the_driver_alone_needs() -> None:
    """Every new worker would wait for it; torch comes with the first unit."""
    script = f"import sys, sweep.worker, sweep.allocation; print([one for one in {DRIVERS_OWN} if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("overrides", "available", "expected"),
    [
        ([], {"CPU": 2.0}, ({"CPU": 1.0, "GPU": 0.0}, 2)),
        ([], {"CPU": 16.0, "GPU": 4.0}, ({"CPU": 1.0, "GPU": 1.0}, 4)),
        (["resources.gpus_per_fold=0.25"], {"CPU": 16.0, "GPU": 2.0}, ({"CPU": 1.0, "GPU": 0.25}, 8)),
        (["resources.cpus_per_fold=4"], {"CPU": 14.0, "GPU": 8.0}, ({"CPU": 4.0, "GPU": 1.0}, 3)),
        (["resources.gpus_per_fold=0"], {"CPU": 3.0, "GPU": 1.0}, ({"CPU": 1.0, "GPU": 0.0}, 3)),
    ],
)
def test_how_many_folds_fit_at_once(
    overrides: list[str], available: dict[str, float], expected: tuple[dict[str, float], int]
) -> None:
    assert fold_resources(load_settings(overrides).resources, available) == expected


@pytest.mark.parametrize("setting", ["gpus_per_fold=1", "cpus_per_fold=3"])
def test_resources_that_are_not_there_are_refused(setting: str) -> None:
    resources = load_settings([f"resources.{setting}"]).resources
    with pytest.raises(SettingsError, match=rf"^resources\.{setting}: there are [02]; write [02] or less$"):
        fold_resources(resources, {"CPU": 2.0})


@pytest.mark.parametrize(
    ("overrides", "on_gpu", "slots", "expected"),
    [
        ([], False, 2, 1),
        ([], True, 1, 1),
        (["training.cuda_graphs=true"], True, 1, 10),
        (["training.cuda_graphs=true"], True, 4, 3),
        (["training.cuda_graphs=true"], False, 2, 1),
        (["resources.folds_per_pack=5"], False, 2, 5),
    ],
)
def test_how_many_folds_a_worker_trains_side_by_side(
    overrides: list[str], on_gpu: bool, slots: int, expected: int
) -> None:
    settings = load_settings(overrides)
    assert pack_size(settings.resources, settings.configuration({}), on_gpu=on_gpu, slots=slots) == expected


def test_folds_at_once_count_on_nodes_that_are_not_there_yet() -> None:
    resources = load_settings(["resources.gpus_per_fold=0.25"]).resources
    assert fold_resources(resources, {"CPU": 0.0}, at_once=32) == ({"CPU": 1.0, "GPU": 0.25}, 32)
    with pytest.raises(SettingsError, match=r"resources\.gpus_per_fold=1"):
        fold_resources(load_settings([]).resources, {"CPU": 4.0}, at_once=32)


@pytest.mark.parametrize(
    ("needed", "tries", "node", "expected"),
    [
        ({"CPU": 1.0, "GPU": 0.0}, 0, {"CPU": 8.0}, {"CPU": 1.0}),
        ({"CPU": 1.0, "GPU": 0.0}, 1, {"CPU": 8.0}, {"CPU": 2.0}),
        ({"CPU": 3.0, "GPU": 0.0}, 2, {"CPU": 8.0}, {"CPU": 8.0}),
        ({"CPU": 1.0, "GPU": 0.25}, 1, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 0.5}),
        ({"CPU": 1.0, "GPU": 0.25}, 3, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}),
        ({"CPU": 1.0, "GPU": 1.0}, 1, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}),
    ],
)
def test_a_retry_gets_more_room_but_no_more_than_a_device(
    needed: dict[str, float], tries: int, node: dict[str, float], expected: dict[str, float]
) -> None:
    config = {"times": 2**tries, "nodes": [{"CPU": 1.0}, node], "avoid": ["aa"]}
    room = trial_resources(needed, config if tries else {})
    assert room.required_resources == expected
