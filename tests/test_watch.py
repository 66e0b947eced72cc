"""The driver's look at a unit's folder, while a worker writes there."""

from pathlib import Path
from unittest.mock import Mock

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from sweep.watch import last_change, outlive_lack_of_memory


def test_a_file_that_is_gone_by_the_time_it_is_looked_at_ends_no_sweep(tmp_path: Path) -> None:
    assert last_change(tmp_path) == (tmp_path, 0)
    (tmp_path / ".result.json.1234").symlink_to(tmp_path / "gone")  # listed, but not to be found
    assert last_change(tmp_path) == (tmp_path, 0)
    (tmp_path / "result.json").touch()
    assert last_change(tmp_path)[1] == (tmp_path / "result.json").stat().st_mtime_ns


def test_a_worker_that_rays_memory_monitor_kills_is_a_failed_one_and_ends_no_sweep() -> None:
    outlive_lack_of_memory()
    heard: list[Exception] = []
    actor = Mock(_on_error=None)
    task = Mock(_tracked_actor=actor, _on_error=lambda _, error: heard.append(error))
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
    RayActorManager._actor_task_failed(Mock(), tracked_actor_task=task, exception=killed)
    assert [type(error) for error in heard] == [RayActorError] and "low on memory" in str(heard[0])
