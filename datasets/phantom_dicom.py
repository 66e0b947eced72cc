"""Writing a synthetic study as DICOM MR Image Storage in explicit VR little endian, marked as synthetic throughout."""

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from datasets.phantom_series import T1, Series

TIMES_MS = {0: (400, 15, 1), 1: (3200, 90, 15)}  # repetition time, echo time, echo train length
UNKNOWN = ["PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"]
UNKNOWN += ["PositionReferenceIndicator", "ScanOptions"]


def uid(seed: int, *place: str | int) -> UID:
    """A function of the cohort's seed and the place in it: patient, series, and index of the slice."""
    return generate_uid(entropy_srcs=["fracture-sweep phantom", str(seed), *map(str, place)])


def write_study(folder: Path, patient_id: str, study: list[Series], seed: int) -> None:
    """Write every slice of a study into one folder under names that say nothing, series mixed."""
    folder.mkdir(parents=True)
    count = sum(len(series.pixels) for series in study)
    numbers = iter(np.random.default_rng([seed, int(patient_id.rpartition("-")[2]), 1]).permutation(count))
    for series_number, series in enumerate(study, start=1):
        dataset = _series_dataset(patient_id, series, seed)
        dataset.SeriesNumber = series_number
        for index, pixels in enumerate(series.pixels):
            dataset.SOPInstanceUID = uid(seed, patient_id, series.name, index)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            corner = series.grid.corner(index)
            dataset.InstanceNumber = index + 1
            dataset.ImagePositionPatient = [f"{value:.9g}" for value in corner]
            dataset.SliceLocation = f"{corner @ series.grid.axes[2]:.9g}"
            dataset.PixelData = pixels.astype("<u2").tobytes()
            file = BytesIO()  # of a full disk pydicom would make an error of many lines
            dataset.save_as(file, enforce_file_format=True)
            (folder / f"IM{next(numbers):05d}").write_bytes(file.getvalue())


def _series_dataset(patient_id: str, series: Series, seed: int) -> Dataset:
    """All that the slices of a series share."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PatientName, dataset.PatientID = f"SYNTHETIC^{patient_id}", patient_id
    dataset.PatientSex, dataset.StudyID = "O", "1"
    for keyword in UNKNOWN:
        setattr(dataset, keyword, "")
    dataset.StudyInstanceUID = uid(seed, patient_id)
    dataset.SeriesInstanceUID = uid(seed, patient_id, series.name)
    dataset.FrameOfReferenceUID = uid(seed, patient_id, "frame of reference")
    dataset.StudyDescription, dataset.SeriesDescription = "SYNTHETIC spine", f"SYNTHETIC {series.name}"
    dataset.Manufacturer = dataset.ManufacturerModelName = "SYNTHETIC PHANTOM"
    dataset.PatientComments = dataset.ImageComments = "SYNTHETIC: computed phantom, no patient was imaged"
    dataset.QualityControlImage, dataset.BurnedInAnnotation = "YES", "NO"
    dataset.ContentQualification = "RESEARCH"
    # ORIGINAL, not DERIVED: DICOM (PS3.3 C.7.6.1.1.2) keeps DERIVED for pixels computed from other images.
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.Modality, dataset.BodyPartExamined, dataset.PatientPosition = "MR", "SPINE", "HFS"
    dataset.ScanningSequence, dataset.SequenceVariant = "SE", "NONE" if series.contrast == T1 else "SK"
    dataset.MRAcquisitionType, dataset.MagneticFieldStrength = "2D", "1.5"
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = TIMES_MS[series.contrast]
    columns, rows, slices = (f"{value:.9g}" for value in series.grid.spacing)
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [rows, columns], slices, slices
    dataset.ImageOrientationPatient = [f"{value:.9g}" for value in series.grid.axes[:2].ravel()]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    _, dataset.Rows, dataset.Columns = series.pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    low, high = np.percentile(series.pixels[:, ::4, ::4], (1, 99.5))
    dataset.WindowCenter, dataset.WindowWidth = round((low + high) / 2), max(1, round(high - low))
    return dataset
