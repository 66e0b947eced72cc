"""Reading a cohort: ours against MONAI's and SimpleITK's readers on the same files and cores, and memory as it grows.

    python benchmarks/ingest.py [--patients 64] [--processes 2] [--rounds 3]     (itk is needed for MONAI's ITK reader)
    python benchmarks/ingest.py --memory 50 500 2000

The cohort is the phantom's at the study's size: sagittal T1W and T2W of 512 by 512 pixels, beside the axial and coronal
series that the study's protocol held too. The others get every series in its own folder, in order, so they need not
sort anything, and only read; ours sorts, chooses, and cuts the patches out. Ratios are of medians in one run; the
files lie in the page cache.
"""

import argparse
import logging
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

import numpy as np
import pandas as pd
import psutil
import pydicom
from scipy import ndimage

from datasets.ingest import ingest
from datasets.ingest_rules import IngestRules
from datasets.phantom import write_phantom

SIDE, FIELD_OF_VIEW = 512, 300.0  # pixels, mm
OTHERS = {"axial T1W": 20, "axial T2W": 20, "coronal T2W": 12}  # slices
AXIAL = [1, 0, 0, 0, 1, 0]
RULES = IngestRules()
PIXEL_DATA = b"\xe0\x7f\x10\x00OW\x00\x00"
UID_PREFIX = "1.2.826.0.1.3680043.8.498."  # of what pydicom generates, as the phantom's UIDs are


def write_cohort(folder: Path, patients: int) -> Path:
    """The phantom at the study's matrix, a folder per series: dicom/PATIENT/SERIES/, annotations.csv beside."""
    phantom = folder / "phantom"
    write_phantom(phantom, patients, seed=2022)
    places: dict[str, tuple[float, int]] = {}
    for study in sorted((phantom / "dicom").iterdir()):
        for path in study.iterdir():
            dataset = pydicom.dcmread(path)
            factor, margin = enlarge(dataset)
            places[str(dataset.SOPInstanceUID)] = factor, margin
            target = folder / "dicom" / study.name / f"sagittal-{dataset.SeriesNumber}"
            target.mkdir(parents=True, exist_ok=True)
            dataset.save_as(target / f"{dataset.InstanceNumber:04d}")
        for number, (name, slices) in enumerate(OTHERS.items(), start=1):
            write_other(folder / "dicom" / study.name / name.replace(" ", "-"), dataset, number, slices)
    table = pd.read_csv(phantom / "annotations.csv", dtype={"patient_id": str})
    corners = ["x_min", "y_min", "x_max", "y_max"]
    of_slice = np.array([places[uid] for uid in table["sop_instance_uid"]])
    table[corners] = (table[corners] + 0.5).mul(of_slice[:, 0], axis=0).add(of_slice[:, 1], axis=0) - 0.5
    table.to_csv(folder / "annotations.csv", index=False)
    shutil.rmtree(phantom)
    return folder


def enlarge(dataset: pydicom.Dataset) -> tuple[float, int]:
    """To SIDE pixels over the study's field of view, the phantom in the middle, with noise.

    Returns the factor between the pixels, and how many were added to the left of and above the phantom.
    """
    factor = dataset.PixelSpacing[0] / (FIELD_OF_VIEW / SIDE)
    assert dataset.Rows == dataset.Columns and dataset.PixelSpacing[0] == dataset.PixelSpacing[1]
    anatomy = ndimage.zoom(dataset.pixel_array, factor, order=1, grid_mode=True, mode="nearest")
    factor = len(anatomy) / dataset.Columns
    margin = (SIDE - len(anatomy)) // 2
    pixels = np.random.default_rng(dataset.InstanceNumber).normal(20, 3, (SIDE, SIDE))
    pixels[margin : margin + len(anatomy), margin : margin + len(anatomy)] += anatomy
    dataset.PixelData = pixels.clip(0).astype("<u2").tobytes()
    dataset.PixelSpacing = [spacing / factor for spacing in dataset.PixelSpacing]
    directions = np.reshape(dataset.ImageOrientationPatient, (2, 3)).astype(float)
    corner = np.array(dataset.ImagePositionPatient, dtype=float)
    shift = (0.5 - 0.5 * factor + margin) * dataset.PixelSpacing[0]  # of the first pixel's centre
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in corner - directions.sum(axis=0) * shift]
    dataset.Rows = dataset.Columns = SIDE
    return factor, margin


def write_other(folder: Path, like: pydicom.Dataset, number: int, slices: int) -> None:
    folder.mkdir(parents=True)
    like.SeriesInstanceUID, like.ImageOrientationPatient = f"{like.StudyInstanceUID}.{number}"[-64:], AXIAL
    for index in range(slices):
        like.SOPInstanceUID = f"{like.SeriesInstanceUID}.{index}"[-64:]
        like.file_meta.MediaStorageSOPInstanceUID, like.InstanceNumber = like.SOPInstanceUID, index + 1
        like.ImagePositionPatient = [0, 0, 4 * index]
        like.save_as(folder / f"{index:04d}")


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
    every = sorted(path for study in (folder / "dicom").iterdir() for path in study.iterdir())
    sagittal = [path for path in every if path.name.startswith("sagittal")]
    slices = {len(some): sum(len(list(path.iterdir())) for path in some) for some in (every, sagittal)}
    seconds: dict[str, list[float]] = {}
    for round_number in range(rounds):
        cache = folder / f"cache-{round_number}"
        for name in ("ours, cold", "ours, cached"):
            seconds.setdefault(name, []).append(timed(partial(run_ours, folder, cache, processes)))
        for name, read in PEERS.items():
            with ProcessPoolExecutor(processes) as pool:
                list(pool.map(read, map(str, sagittal[:processes])))  # imports are not counted
                for what, series in (("all series", every), ("the sagittal pair only", sagittal)):
                    taken = timed(partial(read_all, pool, read, series))
                    seconds.setdefault(f"{name}, {what}", []).append(taken)
    ours = statistics.median(seconds["ours, cold"])
    print(
        f"{slices[len(every)]} slices, {slices[len(sagittal)]} of them sagittal; {processes} processes, {rounds} rounds"
    )
    print("| reader | s (median, range) | slices of the cohort a second | times ours |\n|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{median:.2f} ({min(values):.2f} to {max(values):.2f})"
        print(f"| {name} | {spread} | {slices[len(every)] / median:.0f} | {median / ours:.2f} |")


def run_ours(folder: Path, cache: Path, processes: int) -> None:
    store = ingest(folder / "dicom", folder / "annotations.csv", cache, RULES, processes=processes).store
    assert store.excluded.empty and len(store.lesions), "the benchmark's own cohort must be complete"


def read_all(pool: ProcessPoolExecutor, read: Callable[[str], int], series: list[Path]) -> int:
    return sum(pool.map(read, map(str, series), chunksize=4))


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def memory(sizes: list[int]) -> None:
    """Anonymous memory of the ingest and its workers at its peak, for cohorts of several sizes."""
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


def multiply(phantom: Path, folder: Path, patients: int) -> int:
    """Copies of the phantom's studies as so many patients, with UIDs and a pixel of their own."""
    studies = sorted((phantom / "dicom").iterdir())
    table = pd.read_csv(phantom / "annotations.csv", dtype=str)
    rows, files = [], 0
    for number in range(patients):
        source = number % len(studies)
        own, prefix = f"{number:05d}", f"1.2.826.0.1.{10**12 + number}."
        (folder / "dicom" / own).mkdir(parents=True)
        for path in studies[source].iterdir():
            content = path.read_bytes()
            pixels = content.rindex(PIXEL_DATA) + len(PIXEL_DATA) + 4  # behind the length
            content = content[:pixels] + (number + 1).to_bytes(2, "little") + content[pixels + 2 :]
            (folder / "dicom" / own / path.name).write_bytes(content.replace(UID_PREFIX.encode(), prefix.encode()))
            files += 1
        of_study = table[table["patient_id"] == table["patient_id"].unique()[source]].copy()
        of_study["patient_id"] = own
        of_study["sop_instance_uid"] = of_study["sop_instance_uid"].str.replace(UID_PREFIX, prefix, regex=False)
        rows.append(of_study)
    pd.concat(rows).to_csv(folder / "annotations.csv", index=False)
    return files


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
    parser.add_argument("--patients", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+")
    parser.add_argument("--ingest-only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ingest_only:
        run_ours(options.ingest_only, options.ingest_only / "cache", 2)
    elif options.memory:
        memory(options.memory)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(write_cohort(Path(temporary), options.patients), options.processes, options.rounds)


if __name__ == "__main__":
    main()
