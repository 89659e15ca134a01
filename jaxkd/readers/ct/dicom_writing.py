"""Writes a volume as a CT series in DICOM, such as a phantom for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.readers.ct.dicom import TO_RAS, library
from jaxkd.readers.ct.volumes import AIR


def write(folder: Path, array: np.ndarray, affine: np.ndarray) -> list[Path]:
    """Writes a volume as a CT series of one file per slice.

    Args:
      folder: to create.
      array: int16 ``[i, j, k]``, Hounsfield units; ``k`` counts the slices.
      affine: ``[4, 4]`` as in NIfTI, whose axes meet at right angles.

    Returns:
      The files, in the order of the slices.
    """
    pydicom = library()
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = (pydicom.uid.generate_uid() for _ in range(2))
    directions = TO_RAS @ affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    cosines = (directions / lengths).T[:2].reshape(-1)
    paths = []
    for index in range(array.shape[2]):
        data = pydicom.Dataset()
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = pydicom.uid.generate_uid()
        data.SeriesInstanceUID, data.FrameOfReferenceUID = series, frame
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.PatientPosition, data.InstanceNumber = "HFS", index + 1
        place = TO_RAS @ (affine @ [0, 0, index, 1])[:3]
        data.ImagePositionPatient = [f"{value:.6g}" for value in place]
        data.ImageOrientationPatient = [f"{value:.6g}" for value in cosines]
        data.PixelSpacing = [f"{lengths[1]:.6g}", f"{lengths[0]:.6g}"]
        data.SliceThickness = f"{lengths[2]:.6g}"
        data.RescaleSlope, data.RescaleIntercept = "1", str(AIR)
        _set_pixels(data, array[:, :, index].T - AIR)
        paths.append(folder / f"{index:04d}.dcm")
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def _set_pixels(data: Any, stored: np.ndarray) -> None:
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = np.ascontiguousarray(stored).astype("<u2").tobytes()
