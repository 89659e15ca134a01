"""Files that declare far more than they hold, and the functions that read them.

``benchmarks.memory`` measures what reading each of them takes.
"""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GIGABYTES = 1 << 33
SIDE = 5_792  # of the largest square that ``images.BLANK_PIXELS`` lets pass


class Case(NamedTuple):
    """A hostile file.

    Attributes:
      make: writes it into a folder, and returns its path.
      read: what a user's command reads it with.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def _bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _pickle(path: Path) -> Any:
    from jaxkd.core.safe_pickle import read_arrays

    return read_arrays(path.read_bytes(), str(path))


# A dictionary whose place in the memo is the two-thousand-millionth.
_MEMO = b"\x80\x02}r\xff\xff\xff\x7f."
# A string of 2**40 bytes.
_STRING = b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."


def _nifti_header(shape: tuple[int, ...], extension: int = 0) -> bytes:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"] = 352 + extension
    header["magic"] = b"n+1"
    more = struct.pack("<ii", extension, 4) if extension else b""
    return header.binaryblock + bytes([bool(extension), 0, 0, 0]) + more


def _nifti(name: str, *header: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = _nifti_header(*header)
        packed = gzip.compress(content) if name.endswith(".gz") else content
        return _bytes(name, packed)(folder)

    return make


def _read_nifti(path: Path) -> Any:
    from jaxkd.readers.ct import nifti

    return nifti.read(path)


def _dicom(deflated: bool) -> Callable[[Path], Path]:
    """A slice of 65,535 rows and columns, or one whose header unpacks to a gigabyte."""

    def make(folder: Path) -> Path:
        import pydicom
        from pydicom import uid

        data, meta = pydicom.Dataset(), pydicom.dataset.FileMetaDataset()
        kind = uid.CTImageStorage
        data.SOPClassUID = meta.MediaStorageSOPClassUID = kind
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
        meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        if deflated:
            meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
            data.ImageComments = "x"
        data.Modality, data.SeriesInstanceUID = "CT", "1.2.4"
        data.Rows = data.Columns = 16 if deflated else 65_535
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelSpacing, data.RescaleSlope, data.RescaleIntercept = [1, 1], 1, 0
        data.ImagePositionPatient = [0, 0, 0]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.add_new(0x7FE00010, "OW", bytes((1 << 28) if deflated else 64))
        data.file_meta = meta
        place = folder / "series"
        place.mkdir(exist_ok=True)
        for number in range(2):
            data.ImagePositionPatient = [0, 0, number]
            data.save_as(place / f"{number}.dcm", enforce_file_format=True)
        return place

    return make


def _read_dicom(path: Path) -> Any:
    from jaxkd.readers.ct import dicom

    return dicom.read(path)


def _cifar(declared_only: bool) -> Callable[[Path], Path]:
    """A tar whose member is, or says that it is, of gigabytes."""

    def make(folder: Path) -> Path:
        member = tarfile.TarInfo("cifar-100-python/train")
        member.size = GIGABYTES if declared_only else 1 << 29
        path = folder / "cifar-100-python.tar.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            for _ in range(0 if declared_only else member.size >> 24):
                file.write(bytes(1 << 24))
        return path

    return make


def _read_cifar(path: Path) -> Any:
    from jaxkd.datasets import cifar

    return cifar.read(path.parent, 100)


def png(width: int, height: int, bits: int, data: int) -> Callable[[Path], Path]:
    """A grey picture of which so many bytes of pixels are there."""

    def part(kind: bytes, content: bytes) -> bytes:
        ends = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + ends

    def make(folder: Path) -> Path:
        head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
        parts = [part(b"IHDR", head), part(b"IDAT", zlib.compress(bytes(data)))]
        content = b"\x89PNG\r\n\x1a\n" + b"".join([*parts, part(b"IEND", b"")])
        return _bytes("a.png", content)(folder)

    return make


def _png_part(folder: Path) -> Path:
    """A picture with a part that declares four gigabytes."""
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0xFFFFFFFF) + b"IHDR"
    return _bytes("a.png", content)(folder)


def _bmp(folder: Path) -> Path:
    side = 13_000
    head = struct.pack("<2sIHHI", b"BM", 70, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return _bytes("a.bmp", head + info + bytes(16))(folder)


def _webp(folder: Path) -> Path:
    """A blank picture, which packs to nearly nothing."""
    from PIL import Image

    Image.new("L", (SIDE, SIDE)).save(folder / "a.webp", lossless=True, method=0)
    return folder / "a.webp"


def _gif(folder: Path) -> Path:
    """A picture of one pixel whose header declares more."""
    from PIL import Image

    stream, side = io.BytesIO(), struct.pack("<HH", 13_000, 13_000)
    Image.new("L", (1, 1)).save(stream, "gif")
    one, content = struct.pack("<HH", 1, 1), bytearray(stream.getvalue())
    content[6:10] = side
    place = content.index(b"," + bytes(4) + one) + 5
    content[place : place + 4] = side
    return _bytes("a.gif", bytes(content))(folder)


def read_image(path: Path) -> Any:
    """Reads an image by the one decoder."""
    from jaxkd.readers import images

    return images.decode(path)


def _npz(unpacked: int) -> Callable[[Path], Path]:
    """An array of gigabytes by its header, with so many bytes behind it."""

    def make(folder: Path) -> Path:
        stream = io.BytesIO()
        header = {"descr": "|u1", "fortran_order": False, "shape": (GIGABYTES,)}
        np.lib.format.write_array_header_1_0(stream, header)
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("train_images.npy", stream.getvalue() + bytes(unpacked))
        return path

    return make


def _read_npz(path: Path) -> Any:
    from jaxkd.datasets import npz

    return npz.load(str(path))


_TENSOR = {"a": {"dtype": "F32", "shape": [1 << 31], "data_offsets": [0, 1 << 33]}}
_HEADER = json.dumps(_TENSOR).encode()


def _read_tensors(path: Path) -> Any:
    from jaxkd.convert.torch import reading

    return reading.read(path)


def _read_hub_tensors(path: Path) -> Any:
    from jaxkd.convert.paligemma import files

    found = files.open_tensors(path)
    return {name: found.read(name) for name in found.shapes}


def _torch(folder: Path) -> Path:
    """A tensor of gigabytes by its strides, with one number."""
    from jaxkd.convert.torch import writing

    path = folder / "a.pth"
    writing.write(path, {"a": np.zeros((1 << 16, 1), np.float32)})
    data = path.read_bytes()
    return _bytes("a.pth", data)(folder)


def _mat(declared: int) -> Callable[[Path], Path]:
    """A compressed variable that unpacks to a gigabyte of zeros, or a huge array."""

    def make(folder: Path) -> Path:
        head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x100, b"IM")
        array = struct.pack("<IIII", 6, 8, 6, 0)
        array += struct.pack("<IIii", 5, 8, declared >> 10, 1 << 10)
        array += struct.pack("<HH4s", 1, 1, b"a") + struct.pack("<II", 9, declared * 8)
        body = struct.pack("<II", 14, len(array) + declared * 8) + array
        packer = zlib.compressobj(9)
        packed = packer.compress(body)
        for _ in range((1 << 28) >> 24):
            packed += packer.compress(bytes(1 << 24))
        packed += packer.flush()
        return _bytes("a.mat", head + struct.pack("<II", 15, len(packed)) + packed)(
            folder
        )

    return make


def _read_mat(path: Path) -> Any:
    from jaxkd.readers import matlab

    return matlab.read_mat(path, ["a"], "Get it again.")


def _read_json(path: Path) -> Any:
    from jaxkd.core import parsing

    return parsing.read_json(path, "JSON", "Get it again.")


def _read_rows(path: Path) -> Any:
    from jaxkd.core import parsing

    return parsing.read_rows(path, "CSV", "Get it again.")


def _wav(folder: Path) -> Path:
    size = 0xFFFFFFF0
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    content = b"RIFF" + struct.pack("<I", size) + b"WAVE" + form
    return _bytes("a.wav", content + b"data" + struct.pack("<I", size - 40))(folder)


def _read_wav(path: Path) -> Any:
    from jaxkd.readers import audio

    return audio.read(path)


CASES = {
    "pickle: place in the memo": Case(_bytes("a.pkl", _MEMO), _pickle),
    "pickle: length of a string": Case(_bytes("a.pkl", _STRING), _pickle),
    "torch: place in the memo": Case(_bytes("a.pth", _MEMO), _read_tensors),
    ".nii.gz: 1,250³ voxels": Case(_nifti("a.nii.gz", (1250,) * 3), _read_nifti),
    ".nii: 1,250³ voxels": Case(_nifti("a.nii", (1250,) * 3), _read_nifti),
    ".nii: an extension of 2 GB": Case(
        _nifti("a.nii", (9, 9, 9), 0x7FFFFFF0), _read_nifti
    ),
    "DICOM: 65,535² pixels": Case(_dicom(False), _read_dicom),
    "DICOM: deflated zeros": Case(_dicom(True), _read_dicom),
    "CIFAR, tar: a member of 8 GB, declared": Case(_cifar(True), _read_cifar),
    "CIFAR, tar: a member of 500 MB, packed": Case(_cifar(False), _read_cifar),
    "PNG: 2,000,000² pixels": Case(png(2_000_000, 2_000_000, 8, 20), read_image),
    "PNG: 13,000² pixels, 20 bytes": Case(png(13_000, 13_000, 8, 20), read_image),
    "PNG: 13,000² pixels of 1 bit, blank": Case(
        png(13_000, 13_000, 1, 13_000 * 1_626), read_image
    ),
    "PNG: a part of 4 GB": Case(_png_part, read_image),
    "BMP: 13,000² pixels": Case(_bmp, read_image),
    "GIF: 13,000² pixels": Case(_gif, read_image),
    "PNG: 5,792² pixels of 1 bit, blank": Case(
        png(SIDE, SIDE, 1, SIDE * (SIDE // 8 + 1)), read_image
    ),
    "WebP: 5,792² pixels, blank": Case(_webp, read_image),
    ".npz: an array of 8 GB, declared": Case(_npz(16), _read_npz),
    ".npz: an array of 8 GB, 64 MB packed": Case(_npz(1 << 26), _read_npz),
    "safetensors: a header of 2⁶⁰ bytes": Case(
        _bytes("a.safetensors", struct.pack("<Q", 1 << 60) + b"{}"), _read_tensors
    ),
    "safetensors: a tensor of 8 GB": Case(
        _bytes("a.safetensors", struct.pack("<Q", len(_HEADER)) + _HEADER),
        _read_tensors,
    ),
    "safetensors of the hub: a tensor of 8 GB": Case(
        _bytes("a.safetensors", struct.pack("<Q", len(_HEADER)) + _HEADER),
        _read_hub_tensors,
    ),
    ".npz of the hub: an array of 8 GB": Case(_npz(16), _read_hub_tensors),
    "JSON: 100,000 lists in each other": Case(
        _bytes("a.json", b"[" * 100_000), _read_json
    ),
    "JSON: a number of 1,000,000 digits": Case(
        _bytes("a.json", b"9" * 1_000_000), _read_json
    ),
    "CSV: a cell of 10 MB": Case(_bytes("a.csv", b'"' + b"a" * 10_000_000), _read_rows),
    ".mat: 256 MB of zeros, packed": Case(_mat(1 << 25), _read_mat),
    ".mat: an array of 8 GB": Case(_mat(1 << 28), _read_mat),
    ".wav: 4 GB of samples": Case(_wav, _read_wav),
}
