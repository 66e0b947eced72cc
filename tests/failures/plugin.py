"""A plugin of Lightning for every worker that finds its folder on its PYTHONPATH."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def path(folder: Path) -> str:
    """PYTHONPATH of processes that find the plugin and this package."""
    return os.pathsep.join([str(folder), str(ROOT)])


def own_folder() -> Path:
    """Of the plugin, in such a process."""
    return Path(os.environ["PYTHONPATH"].partition(os.pathsep)[0])


def install(folder: Path, name: str) -> None:
    """tests.failures.`name`.callbacks is called in every worker, once a Trainer."""
    information = folder / f"{name}-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1\n")
    entry = f"[pytorch_lightning.callbacks_factory]\n{name} = tests.failures.{name}:callbacks\n"
    (information / "entry_points.txt").write_text(entry)
