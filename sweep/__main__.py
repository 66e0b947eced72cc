"""python -m sweep: the table of contents.

python -m sweep [key=value …]                 run a sweep, or go on with it where it was interrupted
python -m sweep ingest [key=value …]          read the cohort only, to check it by eye before hours of training
python -m sweep phantom FOLDER [patients=N] [seed=N]   write a synthetic cohort as DICOM files
python -m sweep report runs/NAME              write the report of a run again
python -m sweep status runs/NAME              how far a run has come, from any machine that sees its folder
python -m sweep compare runs/A runs/B [FOLDER] [patients=common]   two sweeps of the same patients, paired tests
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sweep.compose import default_settings, load_settings
from sweep.settings import SettingsError, below, flatten

BAD_INPUT, INTERRUPTED = 2, 130
log = logging.getLogger("sweep")


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 failed folds, 2 bad settings or input, 130 interrupted."""
    _log_to_terminal()
    try:
        match arguments:
            case [*_, "--help" | "-h"] | ["help"]:
                print(_help())
            case ["ingest", *overrides]:
                _ingest(overrides)
            case ["phantom", folder, *options]:
                _phantom(Path(folder), options)
            case ["report", folder]:
                _report(folder)
            case ["compare", first, second, *options]:
                _compare(Path(first), Path(second), options)
            case ["compare", *_]:
                raise SettingsError("compare: name two runs, as in `python -m sweep compare runs/A runs/B`")
            case ["status", folder]:
                _status(folder)
            case ["phantom" | "report" | "status" as command, *_]:
                raise SettingsError(f"{command}: name a folder, as in `python -m sweep {command} FOLDER`")
            case _:
                return _sweep(arguments)
        return 0
    except KeyboardInterrupt:
        log.warning("interrupted: the same command goes on where this one stopped")
        return INTERRUPTED
    except OSError as error:
        log.debug("", exc_info=True)
        print(f"sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    except ValueError as error:  # every module's own errors about what it was given are ValueErrors
        if not type(error).__module__.startswith(("sweep.", "datasets.", "lightning_modules.")):
            raise
        print(f"sweep: {error}", file=sys.stderr)
        return BAD_INPUT


def _sweep(overrides: Sequence[str]) -> int:
    settings = load_settings(overrides)
    from sweep.run import run_sweep

    return run_sweep(settings)


def _ingest(overrides: Sequence[str]) -> None:
    settings = load_settings(overrides)
    from sweep.run import run_ingest

    run_ingest(settings)


def _phantom(folder: Path, options: Sequence[str]) -> None:
    values: dict[str, int] = default_settings()["data"]["phantom"]
    for option in options:
        key, _, value = option.partition("=")
        if key not in values or not value.isdecimal():
            raise SettingsError(f"{option}: write patients=N or seed=N with a whole number")
        values[key] = int(value)
    from datasets.phantom import write_phantom

    write_phantom(folder, patients=values["patients"], seed=values["seed"])
    log.info("wrote a synthetic cohort of %d patients to %s", values["patients"], folder)


def _report(place: str) -> None:
    from sweep.report import write_report
    from sweep.storage import at_hand

    with at_hand(place) as folder:
        write_report(folder)
    log.info("report: %s", below(place, "report.html"))


def _compare(first: Path, second: Path, options: Sequence[str]) -> None:
    folders = [option for option in options if option != "patients=common"]
    if len(folders) > 1 or any("=" in folder for folder in folders):
        raise SettingsError(f"compare: {' '.join(folders)}: write a folder for the result, patients=common, or nothing")
    from rich.console import Console

    from sweep.report.compare import compare_runs, terminal_table

    folder = Path(folders[0]) if folders else first.parent / f"{first.name}-and-{second.name}"
    compared = compare_runs(first, second, folder, common=len(folders) < len(options))
    Console().print(terminal_table(compared))
    log.info("comparison: %s", folder / "compare.html")


def _status(place: str) -> None:
    from sweep.status import WANTED, status
    from sweep.storage import at_hand

    with at_hand(place, WANTED.fullmatch) as run:
        print(status(run))


def _help() -> str:
    settings = (f"  {name}={value}" for name, value in flatten(default_settings()).items())
    return "\n".join([str(__doc__), "Settings with their values; conf/ explains each:", *settings])


class _Terminal(logging.Handler):
    """Writes to what sys.stderr is at the time, which the live display replaces to keep lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def _log_to_terminal() -> None:
    for name in ("sweep", "datasets"):
        logging.getLogger(name).addHandler(_Terminal(logging.INFO))
        logging.getLogger(name).setLevel(logging.DEBUG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
