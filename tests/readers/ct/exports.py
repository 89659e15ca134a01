"""Builds what scanners and archives put beside a CT series."""

import shutil
from pathlib import Path

import numpy as np
import pydicom

from jaxkd.readers.ct import dicom_writing

SERIES = "1.2.826.0.1.3680043.8.498.1"


def edit(path, **tags):
    """Sets tags of a file; None removes one, and bytes are written as they are."""
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        elif isinstance(value, pydicom.DataElement):
            data.add(value)
        else:
            setattr(data, name, value)
    data.save_as(path)


def raw(path, keyword, value: bytes):
    """Gives a tag bytes that pydicom would not write."""
    with pydicom.config.disable_value_validation():
        data = pydicom.dcmread(path)
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
        padded = value + b" " * (len(value) % 2)
        data._dict[tag] = pydicom.dataelem.RawDataElement(
            tag, "DS", len(padded), padded, 0, False, True, True
        )
        data.save_as(path)


def volume(shape=(12, 10, 20), seed=0):
    """A block of tissue in air, ``[i, j, k]``, with its affine (5 mm slices)."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, -1000, np.int16)
    array[2:-2, 2:-2] = rng.integers(-100, 200, (shape[0] - 4, shape[1] - 4, shape[2]))
    return array, np.diag([-2.0, -2.5, 5.0, 1.0])


def write(folder, *, seed=0, shape=(12, 10, 20), number=1, patient="a", study="1"):
    """Writes a series."""
    paths = dicom_writing.write(folder, *volume(shape, seed))
    for path in paths:
        edit(
            path,
            PatientID=patient,
            StudyInstanceUID=f"{SERIES}.{study}",
            SeriesNumber=number,
            SeriesDescription=f"Thorax {number}",
        )
    return paths


def other(path, kind, **tags):
    """Writes a DICOM file of a class without pixels."""
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = kind, pydicom.uid.generate_uid()
    data.SeriesInstanceUID = pydicom.uid.generate_uid()
    for name, value in tags.items():
        setattr(data, name, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = kind
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def index(path):
    """Writes an index of files, as media have one."""
    data = pydicom.Dataset()
    data.FileSetID, data.DirectoryRecordSequence = "MEDIUM", []
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


STRUCTURES = pydicom.uid.RTStructureSetStorage
CAPTURE = pydicom.uid.SecondaryCaptureImageStorage


def scout(path, model):
    """Writes an overview image, from a slice."""
    shutil.copy(model, path)
    edit(
        path,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        SeriesInstanceUID=pydicom.uid.generate_uid(),
        SeriesNumber=99,
    )
    return path


def medium(top: Path) -> Path:
    """Writes a medium: an index, two patients, and company of every kind."""
    index(top / "DICOMDIR")
    (top / "README.TXT").write_text("How to view the images: start the viewer.")
    for letter, place in (("a", "PA0"), ("b", "PA1")):
        folder = top / "DICOM" / place
        for number, path in enumerate(
            write(
                folder / "SE0", seed=ord(letter), patient=letter, study=str(ord(letter))
            )
        ):
            path.rename(path.with_name(f"IM{number}"))
    first = top / "DICOM" / "PA0" / "SE0"
    scout(first / "IM90", first / "IM3")
    other(first / "IM91", CAPTURE, Modality="CT")
    other(top / "DICOM" / "PA0" / "SE1" / "IM0", STRUCTURES, Modality="RTSTRUCT")
    (top / "DICOM" / "PA1" / "SE0" / "IM19").write_bytes(b"")
    return top


def multi_frame(path, array, affine):
    """Writes an enhanced CT file."""
    folder = path.parent / "single"
    singles = [pydicom.dcmread(p) for p in dicom_writing.write(folder, array, affine)]
    shutil.rmtree(folder)
    first = singles[0]
    whole = pydicom.Dataset()
    whole.file_meta = pydicom.dataset.FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    whole.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    whole.SOPInstanceUID = pydicom.uid.generate_uid()
    whole.SeriesInstanceUID, whole.Modality = first.SeriesInstanceUID, "CT"
    for name in (
        *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    ):
        setattr(whole, name, getattr(first, name))
    whole.NumberOfFrames = len(singles)
    whole.PixelData = b"".join(each.PixelData for each in singles)
    shared, measures, values = (pydicom.Dataset() for _ in range(3))
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, "5"
    values.RescaleSlope, values.RescaleIntercept = "1", first.RescaleIntercept
    values.RescaleType = "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [values]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for each in singles:
        frame, place, way = (pydicom.Dataset() for _ in range(3))
        place.ImagePositionPatient = each.ImagePositionPatient
        way.ImageOrientationPatient = each.ImageOrientationPatient
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [way]
        frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.save_as(path, enforce_file_format=True)
    return path
