"""The driver's look at a unit's folder, while a worker writes there."""

from pathlib import Path

from sweep.watch import last_change


def test_a_file_that_is_gone_by_the_time_it_is_looked_at_ends_no_sweep(tmp_path: Path) -> None:
    assert last_change(tmp_path) == (tmp_path, 0)
    (tmp_path / ".result.json.1234").symlink_to(tmp_path / "gone")  # listed, but not to be found
    assert last_change(tmp_path) == (tmp_path, 0)
    (tmp_path / "result.json").touch()
    assert last_change(tmp_path)[1] == (tmp_path / "result.json").stat().st_mtime_ns
