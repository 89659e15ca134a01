"""CT exports as people have them: company, damage at the ends, odd header values."""

import gzip
import os
import shutil

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers.ct import scans
from jaxkd.readers.ct.cache import Cache
from jaxkd.readers.ct.scans import Options

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

from jaxkd.readers.ct import __main__ as command  # noqa: E402
from jaxkd.readers.ct import dicom, dicom_files, dicom_writing, headers, nifti, series  # noqa: E402
from tests.readers.ct import exports  # noqa: E402

ARRAY, AFFINE = exports.volume()
WANTED = ARRAY.transpose(2, 1, 0)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "pristine"
    exports.write(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "scan")


def named(folder, index):
    return folder / f"{index:04d}.dcm"


def refused(folder, match, **options):
    with pytest.raises(UserError, match=match) as caught:
        scans.read(folder, Options(**options))
    assert str(folder) in str(caught.value)


def accepted(folder, *notes, **options):
    volume = scans.read(folder, Options(**options))
    for note in notes:
        assert any(note in given for given in volume.notes), volume.notes
    return volume


# --- damage is never skipped ---------------------------------------------------


@pytest.mark.parametrize("index", [0, 7, 19])
@pytest.mark.parametrize("rename", [False, True])
@pytest.mark.parametrize("size", [0, 60, 200, 700])
def test_a_cut_slice_is_named_wherever_it_lies(folder, index, rename, size):
    path = named(folder, index)
    path.write_bytes(path.read_bytes()[:size])
    if rename:  # media have names without ending
        for each in sorted(folder.iterdir()):
            each.rename(folder / f"IM{each.stem}")
    name = f"IM{index:04d}" if rename else f"{index:04d}.dcm"
    refused(folder, f"{name} is damaged")
    if index == 7:  # also where there is nothing left of it
        volume = accepted(folder, name, "1 slices interpolated", fill_gaps=1)
        np.testing.assert_array_equal(
            np.delete(volume.voxels, 7, 0), WANTED[:7].tolist() + WANTED[8:].tolist()
        )
    else:
        refused(folder, "so that the first or last may be lost", fill_gaps=1)


def test_files_without_preamble_are_read(folder):
    for index in (0, 1, 18, 19):
        path = named(folder, index)
        path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(accepted(folder).voxels, WANTED)


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_group_of_the_file_are_read(folder, implicit):
    for path in folder.iterdir():
        data = pydicom.Dataset()
        data.update(pydicom.dcmread(path))
        data.save_as(path, implicit_vr=implicit, little_endian=True)
        assert not dicom_files.has_magic(path)
    np.testing.assert_array_equal(accepted(folder).voxels, WANTED)


def test_a_page_in_place_of_the_last_slice_is_damage(folder):
    named(folder, 19).write_text("<html>Your session has expired.</html>\n" * 9)
    refused(folder, "0019.dcm is damaged: no DICOM file, but text")
    named(folder, 19).rename(folder / "README")
    accepted(folder, "left out: README (no DICOM file, but text)")


def test_ends_are_checked_by_the_tags(folder):
    for path in folder.iterdir():
        exports.edit(path, ImagesInAcquisition=20, SpacingBetweenSlices="5")
    assert not [n for n in accepted(folder).notes if "missing" in n]
    for index in (0, 1, 19):
        named(folder, index).unlink()
    accepted(folder, "InstanceNumber begins at 3", "ImagesInAcquisition is 20, but")


def test_every_second_slice_missing_is_noted(tmp_path):
    exports.write(tmp_path / "scan", shape=(12, 10, 40))
    for path in (tmp_path / "scan").iterdir():
        exports.edit(path, SpacingBetweenSlices="5")
    for path in sorted((tmp_path / "scan").iterdir())[1::2]:
        path.unlink()
    accepted(
        tmp_path / "scan", "counts in steps of 2", "SpacingBetweenSlices is 5.00 mm"
    )


def test_a_slice_beside_the_others(folder):
    exports.edit(named(folder, 19), ImagePositionPatient=["9", "0", "95"])
    refused(folder, r"0019\.dcm lies 9\.0 mm beside the line")


# --- content decides, not names --------------------------------------------------


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    return exports.medium(tmp_path_factory.mktemp("medium"))


def test_a_medium_holds_two_patients(medium):
    found, aside = scans.find(medium)
    assert [str(scan.path.relative_to(medium)) for scan in found] == [
        "DICOM/PA0/SE0",
        "DICOM/PA1/SE0",
    ]
    first, second = found
    volume = scans.read_scan(first)
    np.testing.assert_array_equal(volume.voxels, exports.volume(seed=97)[0].T)
    assert volume.uid == first.uid and volume.uid
    assert any("IM90 (an overview" in note for note in volume.notes)
    assert any("IM91 (Secondary Capture" in note for note in volume.notes)
    with pytest.raises(UserError, match=r"IM19 is damaged: it is empty"):
        scans.read_scan(second)
    reasons = {each.path.name: each.reason for each in aside}
    assert reasons == {
        "DICOMDIR": "an index of files",
        "README.TXT": "no DICOM file, but text",
        "IM0": "RT Structure Set Storage",
    }
    with pytest.raises(UserError, match="it holds 2 series"):
        scans.read(medium)


def test_odd_descriptions_do_not_break_the_table(folder):
    for path in folder.iterdir():
        exports.edit(path, SeriesDescription="Lung\r\n\x1b[31m  1.0")
    (line,) = [row for row in series.table(folder).splitlines() if "Lung" in row]
    assert "Lung [31m 1.0  1.2.826" in line


def test_the_table(medium, capsys):
    assert command.main([str(medium)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[:8] for line in lines[1:3]]
    assert rows[0] == ["1", "1", "1", "20", "axial", "10x12", "2.5", "DICOM/PA0/SE0"]
    assert rows[1] == ["2", "2", "1", "19", "axial", "10x12", "2.5", "DICOM/PA1/SE0"]
    assert "set aside: 6 files, 1 of them damaged" in lines
    empty = next(line for line in lines if "IM19" in line)
    assert empty.split()[1:] == ["DAMAGED", "it", "is", "empty"]
    assert command.main([str(medium / "nowhere")]) == 2


@pytest.mark.parametrize("name", ["DICOMDIR", "DIRFILE", "INDEX"])
def test_an_index_is_known_by_its_class(folder, name):
    exports.index(folder / name)
    np.testing.assert_array_equal(
        accepted(folder, f"{name} (an index of files)").voxels, WANTED
    )
    assert [scan.path for scan in scans.find(folder)[0]] == [folder]


@pytest.mark.parametrize(
    ("kind", "modality"),
    [
        ("RTStructureSetStorage", "RTSTRUCT"),
        ("BasicTextSRStorage", "SR"),
        ("SegmentationStorage", "SEG"),
        ("GrayscaleSoftcopyPresentationStateStorage", "PR"),
        ("KeyObjectSelectionDocumentStorage", "KO"),
        ("XRayRadiationDoseSRStorage", "SR"),
        ("SecondaryCaptureImageStorage", "CT"),
        ("MRImageStorage", "MR"),
    ],
)
def test_company_is_set_aside_with_a_note(folder, kind, modality):
    uid = getattr(pydicom.uid, kind)
    exports.other(folder / "other.dcm", uid, Modality=modality)
    volume = accepted(folder, f"left out: other.dcm ({uid.name})")
    np.testing.assert_array_equal(volume.voxels, WANTED)


def test_dose_pages_and_previews_are_set_aside(folder):
    shutil.copy(named(folder, 3), folder / "page.dcm")
    exports.edit(
        folder / "page.dcm",
        ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"],
        SeriesInstanceUID=pydicom.uid.generate_uid(),
    )
    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "preview.jpg")
    accepted(folder, "page.dcm (a dose page", "preview.jpg (no DICOM file, but a JPEG")


def test_only_company(tmp_path):
    exports.other(tmp_path / "x.dcm", exports.STRUCTURES, Modality="RTSTRUCT")
    refused(tmp_path, r"no DICOM files of CT slices \(left out: x.dcm \(RT Structure")


def test_rounded_tags_do_not_split_a_series(folder):
    for index, path in enumerate(sorted(folder.iterdir())):
        tip, size = (0.004999, 2.0004999) if index % 2 else (0.005001, 2.0005001)
        exports.edit(
            path,
            ImageOrientationPatient=["1", f"{tip}", "0", f"-{tip}", "1", "0"],
            PixelSpacing=["2.5", f"{size}"],
        )
    assert accepted(folder).voxels.shape == WANTED.shape


def test_choosing_a_series(folder):
    other = exports.write(folder / "more", seed=5, number=2, shape=(12, 10, 24))
    refused(folder, "it holds 2 series.*series 1 'Thorax 1'.*choose one by series")
    uid = str(pydicom.dcmread(other[0]).SeriesInstanceUID)
    wanted = exports.volume((12, 10, 24), seed=5)[0].T
    for name in (uid, "2", "thorax 2"):
        volume = accepted(folder, "chosen by", series=name)
        np.testing.assert_array_equal(volume.voxels, wanted)
        assert volume.uid == uid
    refused(folder, "no series has the UID, number or description 'MR'", series="MR")
    volume = accepted(folder, "picked one of 2 series: 24 axial", pick_largest=True)
    assert volume.uid == uid
    other[3].unlink()
    volume = accepted(folder, "cannot be read: 23 axial", pick_largest=True)
    np.testing.assert_array_equal(volume.voxels, WANTED)


def test_equally_large_series_are_named(folder):
    exports.write(folder / "more", seed=5, number=2)
    refused(folder, "2 series are the largest.*Thorax 1.*Thorax 2", pick_largest=True)
    found, _ = scans.find(folder)
    assert len(found) == 2 and found[0].uid != found[1].uid


def test_short_series_beside_a_long_one_are_left_out(folder):
    exports.write(folder / "tracker", shape=(8, 8, 3), number=3)
    accepted(folder, "left out, too few slices for a volume: 3 axial of 8x8")
    found, _ = scans.find(folder)
    assert len(found) == 1
    volume = scans.read_scan(found[0])
    assert volume.uid == series.survey(folder).series[0].uid
    assert any("series 3 'Thorax 3'" in note for note in volume.notes)


# --- header values ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value", "match"),
    [
        ("RescaleSlope", b"", "lacks one of RescaleSlope"),
        ("RescaleSlope", b"1\\2", "RescaleSlope is .*expected 1 finite number"),
        ("RescaleSlope", b"0", "RescaleSlope is 0"),
        ("RescaleSlope", b"nan", "RescaleSlope is nan|header is damaged"),
        ("RescaleIntercept", b"inf", "RescaleIntercept is inf|header is damaged"),
        ("ImagePositionPatient", b"0\\0", "ImagePositionPatient is .*expected 3"),
        ("ImagePositionPatient", b"0\\0\\nan", "expected 3|header is damaged"),
        ("ImageOrientationPatient", b"", "2 series or mixed slices"),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0", "two directions"),
        ("PixelSpacing", b"2.5", "PixelSpacing is 2.5, expected 2"),
        ("PixelSpacing", b"0\\0", "expected above 0"),
    ],
)
def test_odd_values_in_one_slice(folder, keyword, value, match):
    exports.raw(named(folder, 5), keyword, value)
    refused(folder, match)


def test_odd_values_in_all_slices(folder):
    for path in folder.iterdir():
        exports.raw(path, "ImageOrientationPatient", b"")
    volume = accepted(folder, "no orientation in the files")
    np.testing.assert_array_equal(volume.voxels, WANTED)
    for path in folder.iterdir():
        exports.edit(path, RescaleSlope="0.0001")
    refused(folder, "below -600 .air. and 0.0% above -200 .tissue.")


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "expected MONOCHROME2"),
        ({"RescaleType": "Z_EFF"}, "values are Z_EFF"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.999"}, "class .*999 is unknown"),
    ],
)
def test_what_is_no_hounsfield_slice(folder, tags, match):
    exports.edit(named(folder, 0), **tags)
    refused(folder, match)


def test_slices_of_two_patients_are_not_one_series(folder):
    exports.edit(named(folder, 0), PatientID="b")
    refused(folder, "2 series or mixed slices")


def test_other_slopes_are_noted(folder):
    exports.edit(named(folder, 4), RescaleIntercept="-1020")
    accepted(folder, "slope or intercept differs between slices", "0004.dcm")


def test_padding_of_signed_pixels(folder):
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.astype(np.int16) - 1024
        pixels[0, :4] = -2000
        exports.edit(
            path,
            PixelData=pixels.tobytes(),
            PixelRepresentation=1,
            RescaleIntercept="0",
            PixelPaddingValue=pydicom.DataElement(
                "PixelPaddingValue", "US", 65536 - 2000
            ),
        )
    volume = accepted(folder, "80 voxels outside of the scan")
    wanted = WANTED.copy()
    wanted[:, 0, :4] = -1024
    np.testing.assert_array_equal(volume.voxels, wanted)


# --- frames, tilt, spacings ----------------------------------------------------------


def test_a_multi_frame_file(tmp_path):
    path = exports.multi_frame(tmp_path / "frames.dcm", ARRAY, AFFINE)
    volume = scans.read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, WANTED)
    single = exports.write(tmp_path / "single")
    np.testing.assert_allclose(volume.affine, dicom.read(single[0].parent).affine)
    shutil.rmtree(tmp_path / "single")
    exports.edit(path, NumberOfFrames=19)
    refused(tmp_path, "it has 19 frames, but the places of 20")


def test_gantry_tilt_is_straightened(tmp_path):
    """A block that is upright in the room, seen by slices that slide over it."""
    array = np.full((12, 40, 20), -1000, np.int16)
    array[3:9, 14:26] = 50
    lean = 2.5  # mm a slice, one voxel
    shifted = np.stack([np.roll(array[:, :, k], k - 10, 1) for k in range(20)], 2)
    affine = np.diag([-2.0, -2.5, 5.0, 1.0])
    paths = dicom_writing.write(tmp_path / "scan", shifted, affine)
    for k, path in enumerate(paths):
        position = ["0", f"{-lean * k}", f"{5 * k}"]
        exports.edit(path, ImagePositionPatient=position)
    refused(tmp_path / "scan", "say --correct-tilt")
    volume = accepted(tmp_path / "scan", "26.6 degrees", correct_tilt=True)
    inside = slice(10, 30)  # beyond, slices are shifted out of the picture
    wanted = array.transpose(2, 1, 0)[:, inside]
    np.testing.assert_array_equal(volume.voxels[:, inside], wanted)
    middle = volume.affine @ [0, 0, 10, 1]
    np.testing.assert_allclose(middle[:3], [0, 25, 50], atol=1e-6)
    assert np.allclose(volume.affine[:2, 2], 0)


def test_two_spacings_are_interpolated(tmp_path):
    """A ramp along the body is the same ramp, whatever the spacing."""
    heights = np.array([*range(0, 60, 3), *range(60, 120, 6)], float)
    array = np.full((6, 6, len(heights)), -1000, np.int16)
    array[2:4, 2:4] = 2 * heights
    paths = dicom_writing.write(tmp_path / "scan", array, np.diag([-2.0, -2, 3, 1]))
    for height, path in zip(heights, paths, strict=True):
        exports.edit(path, ImagePositionPatient=["0", "0", f"{height}"])
    refused(tmp_path / "scan", "missing; say --fill-gaps|two spacings in one series")
    volume = accepted(tmp_path / "scan", "interpolated to 3.00 mm", even_spacing=True)
    assert volume.spacing[0] == pytest.approx(3.0)
    np.testing.assert_allclose(volume.voxels[:, 3, 3], 2 * np.arange(0, 115, 3.0))
    paths[25].unlink()
    refused(tmp_path / "scan", "12.00 mm .*occurs once", even_spacing=True)


# --- the cache -----------------------------------------------------------------


def test_the_cache_knows_every_file(folder, tmp_path):
    cache = Cache(str(tmp_path / "cache"), "test")
    made = []

    def count():
        made.append(1)
        return np.asarray(len(list(folder.iterdir())))

    assert cache(count, folder) == 20 and cache(count, folder) == 20
    assert len(made) == 1
    named(folder, 3).unlink()
    assert cache(count, folder) == 19
    shutil.copy2(named(folder, 4), named(folder, 3))  # as old as the others
    assert cache(count, folder) == 20 and len(made) == 3
    times = named(folder, 5).stat()
    shutil.copyfile(named(folder, 6), named(folder, 5))  # of the same size and time
    os.utime(named(folder, 5), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache(count, folder) == 20 and len(made) == 4


# --- NIfTI -------------------------------------------------------------------


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_datatypes_that_are_no_numbers(tmp_path):
    colours = np.zeros(ARRAY.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save(tmp_path / "rgb.nii", colours), "voxels are colours")
    refused(save(tmp_path / "c.nii", ARRAY.astype(np.complex64)), "type complex64")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_dimensions_that_cannot_be(tmp_path, name):
    path = save(tmp_path / name, ARRAY)
    opened = gzip.open if name.endswith("gz") else open
    with opened(path, "rb") as file:
        content = bytearray(file.read())
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()
    with opened(path, "wb") as file:
        file.write(content)
    refused(path, "declares 30000 x 30000 x 30000 voxels")


def test_a_flipped_bit_fails_the_checksum(tmp_path):
    path = save(tmp_path / "a.nii.gz", ARRAY)
    content = bytearray(path.read_bytes())
    for place in (len(content) // 2, len(content) - 6):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        refused(path, "damaged or cut short")


def test_zero_voxel_size(tmp_path):
    path = save(tmp_path / "a.nii", ARRAY)
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(0).tobytes()
    path.write_bytes(content)
    refused(path, "voxel size is .* expected above 0")


def test_other_units_become_millimetres(tmp_path):
    image = nibabel.Nifti1Image(ARRAY, np.diag([-0.002, -0.0025, 0.005, 1.0]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    volume = accepted(tmp_path / "a.nii", "unit of length is meter, converted to mm")
    np.testing.assert_allclose(volume.spacing, (5, 2.5, 2), rtol=1e-6)
    np.testing.assert_array_equal(volume.voxels, WANTED)


def test_headers_that_make_no_volume(tmp_path):
    refused(
        save(tmp_path / "flat.nii", ARRAY[..., 0]), r"array of \(12, 10\), expected"
    )
    path = save(tmp_path / "a.nii", ARRAY)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(np.inf).tobytes()
    path.write_bytes(content)
    refused(path, r"scl_slope and scl_inter are \(inf")


def test_files_of_analyze_are_read(tmp_path):
    image = nibabel.AnalyzeImage(ARRAY, np.diag([2.0, 2.5, 5.0, 1.0]))
    nibabel.save(image, tmp_path / "a.hdr")
    volume = accepted(tmp_path / "a.hdr", "left and right may be exchanged")
    assert sorted(volume.voxels.ravel()) == sorted(WANTED.ravel())


def test_voxel_sizes_that_disagree(tmp_path):
    path = save(tmp_path / "a.nii", ARRAY)
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(3).tobytes()
    path.write_bytes(content)
    accepted(path, "by sform, which is taken")


def test_two_files_in_a_folder(tmp_path):
    for name in ("a.nii", "b.nii.gz"):
        save(tmp_path / name, ARRAY)
    refused(tmp_path, r"holds 2 NIfTI files \(a.nii, b.nii.gz\)")
    assert [scan.path.name for scan in scans.find(tmp_path)[0]] == ["a.nii", "b.nii.gz"]


def test_one_volume_of_several(tmp_path):
    path = save(tmp_path / "a.nii", np.stack([ARRAY - 7, ARRAY], -1))
    refused(path, "say --volume 0 .to 1.")
    np.testing.assert_array_equal(accepted(path, volume=1).voxels, WANTED)
    refused(path, "holds 2 volumes", volume=2)


def test_pairs_of_files(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
    assert {p.name for p in tmp_path.iterdir()} == {"a.img", "a.hdr"}
    for path in (tmp_path, tmp_path / "a.hdr", tmp_path / "a.img"):
        np.testing.assert_array_equal(accepted(path).voxels, WANTED)
    assert nifti.unpaired(sorted(tmp_path.iterdir())) == [tmp_path / "a.hdr"]
    (tmp_path / "a.hdr").unlink()
    refused(tmp_path / "a.img", "damaged or cut short")


def test_air_must_be_somewhere(tmp_path):
    refused(save(tmp_path / "a.nii", np.full((12, 10, 20), -5, np.int16)), "air")


def test_a_nifti_file_beside_dicom_is_named(folder):
    save(folder / "seg.nii.gz", ARRAY)
    accepted(folder, "left out: seg.nii.gz (a NIfTI file)")


def test_foreign_content_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "IM1"
    for content, kind in (
        (b"%PDF-1.4", "a PDF"),
        (b"MZ\x90\0", "a program"),
        (b"plain words, many of them\n" * 9, "text"),
    ):
        path.write_bytes(content)
        assert headers.read(path).reason == f"no DICOM file, but {kind}"
