"""Reading a cohort: ours against MONAI's and SimpleITK's readers on the same files and cores, and memory as it grows.

    python benchmarks/ingest.py [--patients 190] [--processes 2] [--rounds 3]     (itk is needed for MONAI's ITK reader)
    python benchmarks/ingest.py --memory 50 500 2000

The cohort is the phantom's at the study's size: sagittal T1W and T2W of 512 by 512 pixels, beside the axial and coronal
series that the study's protocol held too. The others get every series in its own folder, in order, so they need not
sort anything, and only read; ours sorts, chooses, and cuts the patches out. The others' processes are warm; ours starts
its own within the time, and they import what they need. Ratios are of medians in one run; the files lie in the page
cache.
"""

import argparse
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import psutil


def read_by_monai(reader: str, folder: str) -> int:
    from monai.transforms import LoadImage

    logging.disable()  # it says once a folder that a decoder it does not need is missing
    with warnings.catch_warnings(action="ignore"):
        return int(LoadImage(reader=reader, image_only=True)(folder).shape[-1])


def by_monai_pydicom(folder: str) -> int:
    return read_by_monai("PydicomReader", folder)


def by_monai_itk(folder: str) -> int:
    return read_by_monai("ITKReader", folder)


def by_simpleitk(folder: str) -> int:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    return int(reader.Execute().GetSize()[2])


PEERS = {"MONAI, pydicom": by_monai_pydicom, "MONAI, ITK": by_monai_itk, "SimpleITK series": by_simpleitk}


def compare(folder: Path, processes: int, rounds: int) -> None:
    run_ours = ours()
    every = sorted(path for study in (folder / "dicom").iterdir() for path in study.iterdir())
    sagittal = [path for path in every if path.name.startswith("sagittal")]
    slices = {len(some): sum(len(list(path.iterdir())) for path in some) for some in (every, sagittal)}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for round_number in range(rounds):
        cache = folder / f"cache-{round_number}"
        for name in ("ours, cold", *3 * ["ours, cached"]):
            seconds.setdefault(name, []).append(timed(partial(run_ours, folder, cache, processes)))
        for name, read in PEERS.items():
            with ProcessPoolExecutor(processes) as pool:
                list(pool.map(read, map(str, sagittal[:processes])))  # imports are not counted
                for what, series in (("all series", every), ("the sagittal pair only", sagittal)):
                    taken = timed(partial(read_all, pool, read, series))
                    seconds.setdefault(f"{name}, {what}", []).append(taken)
    print(f"{slices[len(every)]} slices, {slices[len(sagittal)]} sagittal; {processes} processes, {rounds} rounds")
    print("| reader | s (median, range) | slices/s | times ours | times ours, cached | core s | times ours in core s |")
    print("|---|---|---|---|---|---|---|")
    median = {name: tuple(statistics.median(of) for of in zip(*both, strict=True)) for name, both in seconds.items()}
    (cold, cold_cores), (cached, _) = median["ours, cold"], median["ours, cached"]
    for name, (clock, cores) in median.items():
        spread = f"{clock:.2f} ({min(seconds[name])[0]:.2f} to {max(seconds[name])[0]:.2f})"
        times = f"{clock / cold:.2f} | {clock / cached:.0f} | {cores:.2f} | {cores / cold_cores:.2f}"
        print(f"| {name} | {spread} | {slices[len(every)] / clock:.0f} | {times} |")


def ours() -> Callable[[Path, Path, int], None]:
    """Reads a folder into a cache with so many processes; imports and settings are not counted, as for the others."""
    from datasets.ingest import ingest
    from sweep.compose import load_settings

    rules = load_settings(["data.pixels_per_box=64"]).data  # the default for files that are no phantom's

    def run(folder: Path, cache: Path, processes: int) -> None:
        store = ingest(folder / "dicom", folder / "annotations.csv", cache, rules, processes=processes).store
        assert store.excluded.empty and len(store.lesions), "the benchmark's own cohort must be complete"

    return run


def read_all(pool: ProcessPoolExecutor, read: Callable[[str], int], series: list[Path]) -> int:
    return sum(pool.map(read, map(str, series), chunksize=4))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of all cores together."""
    started, spent = time.perf_counter(), core_seconds()
    work()
    return time.perf_counter() - started, core_seconds() - spent


def core_seconds() -> float:
    """Of this process and its children, living or gone."""
    gone = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    living = (one.cpu_times() for one, is_child in family(os.getpid()) if is_child)
    return sum(one.ru_utime + one.ru_stime for one in gone) + sum(one.user + one.system for one in living)


def memory(sizes: list[int]) -> None:
    """Anonymous memory of the ingest and its workers at its peak, for cohorts of several sizes."""
    from ingest_cohort import multiply

    from datasets.phantom import write_phantom

    print("| patients | files | s | peak MB, main process | peak MB, largest worker |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        write_phantom(Path(temporary, "phantom"), 48, seed=1)
        for size in sizes:
            folder = Path(temporary, str(size))
            files = multiply(Path(temporary, "phantom"), folder, size)
            started = time.perf_counter()
            command = [sys.executable, __file__, "--ingest-only", str(folder)]
            peaks = watched(subprocess.Popen(command))
            taken = time.perf_counter() - started
            print(f"| {size} | {files} | {taken:.0f} | {peaks[0]:.0f} | {peaks[1]:.0f} |", flush=True)
            shutil.rmtree(folder)


def watched(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Peak anonymous memory in MB of a process, and of the largest of its children."""
    own, children = 0.0, 0.0
    while process.poll() is None:
        for one, is_child in family(process.pid):
            try:
                anonymous = one.memory_info().rss - one.memory_info().shared
            except psutil.Error:
                continue
            own, children = (own, max(children, anonymous)) if is_child else (max(own, anonymous), children)
        time.sleep(0.05)
    assert process.returncode == 0
    return own / 1e6, children / 1e6


def family(pid: int) -> Iterator[tuple[psutil.Process, bool]]:
    try:
        parent = psutil.Process(pid)
        yield parent, False
        yield from ((child, True) for child in parent.children())
    except psutil.Error:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=190)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+")
    parser.add_argument("--ingest-only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ingest_only:
        ours()(options.ingest_only, options.ingest_only / "cache", 2)
    elif options.memory:
        memory(options.memory)
    else:
        from ingest_cohort import write_cohort

        with tempfile.TemporaryDirectory() as temporary:
            compare(write_cohort(Path(temporary), options.patients), options.processes, options.rounds)


if __name__ == "__main__":
    main()
