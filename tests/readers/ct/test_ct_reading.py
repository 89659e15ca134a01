"""CT readers: the same array from DICOM and NIfTI, and every way to be damaged."""

import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import phantoms
from jaxkd.readers.ct import scans, volumes
from jaxkd.readers.ct.scans import Options

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

from jaxkd.readers.ct import dicom, dicom_writing, nifti, series  # noqa: E402

SPACING = (5.0, 2.5, 2.0)  # mm, of depth, height and width


@pytest.fixture(scope="session")
def scan():
    return phantoms.draw(0, (7,), (8,)).image


@pytest.fixture(scope="session")
def stored(scan):
    """The phantom as ``[i, j, k]`` with its affine."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-SPACING[2], -SPACING[1], SPACING[0]])
    affine[:3, 3] = (50, 60, -100)
    return scan.transpose(2, 1, 0), affine


@pytest.fixture(scope="session")
def written(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "series"
    dicom_writing.write(folder, *stored)
    return folder


@pytest.fixture
def damaged(written, tmp_path):
    """A copy of the series to do harm to."""
    return shutil.copytree(written, tmp_path / "scan")


@pytest.fixture
def write_nifti(stored, tmp_path):
    def write(array=None, affine=None, name="scan.nii"):
        array = stored[0] if array is None else array
        path = tmp_path / name
        nifti.write(path, array, stored[1] if affine is None else affine)
        return path

    return write


def edit(path, **tags):
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        elif isinstance(value, pydicom.DataElement):
            data.add(value)
        else:
            setattr(data, name, value)
    data.save_as(path)


def refused(path, match, **options):
    with pytest.raises(UserError, match=match) as caught:
        scans.read(path, Options(**options))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# --- what is right -----------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_dicom_and_nifti_give_the_same_array(scan, written, write_nifti, name):
    from_dicom, from_nifti = dicom.read(written), nifti.read(write_nifti(name=name))
    for volume in (from_dicom, from_nifti):
        np.testing.assert_allclose(volume.voxels, scan, atol=1)
        assert volume.spacing == pytest.approx(SPACING)
    np.testing.assert_allclose(from_dicom.affine, from_nifti.affine, atol=1e-4)


@pytest.mark.parametrize(
    "axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=["ijk", "kij", "jki"]
)
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_any_orientation_of_a_file(scan, stored, write_nifti, axes, flips):
    image = nibabel.Nifti1Image(*stored)
    orientation = np.column_stack([axes, flips])
    turned = image.as_reoriented(orientation)
    path = write_nifti(np.asarray(turned.dataobj), turned.affine)
    volume = nifti.read(path)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert volume.spacing == pytest.approx(SPACING)
    back = volumes.from_frame(volume.voxels, volume)
    np.testing.assert_array_equal(back, np.asarray(turned.dataobj))


def test_feet_first_series_is_turned_by_its_geometry(scan, stored, tmp_path):
    array, affine = stored
    turned = np.diag([-1.0, 1.0, -1.0, 1.0]) @ affine  # lying the other way round
    paths = dicom_writing.write(tmp_path / "scan", array, turned)
    for path in paths:
        edit(path, PatientPosition="FFS")
    volume = dicom.read(tmp_path / "scan")
    np.testing.assert_array_equal(volume.voxels, scan[::-1, :, ::-1])
    assert "patient position FFS" in volume.notes


def test_names_and_numbers_do_not_order_slices(scan, damaged):
    paths = sorted(damaged.iterdir())
    rng = np.random.default_rng(0)
    for index, place in enumerate(rng.permutation(len(paths))):
        edit(paths[index], InstanceNumber=int(place) + 1, SliceThickness="1.25")
        paths[index].rename(damaged / f"x{place}.dcm")
    (damaged / "readme.txt").write_text("notes")
    volume = dicom.read(damaged)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert volume.spacing[0] == pytest.approx(5.0)


def test_slope_and_intercept_of_each_slice(scan, damaged):
    path = sorted(damaged.iterdir())[3]
    data = pydicom.dcmread(path)
    pixels = (data.pixel_array.astype(np.int32) // 2).astype("<u2")
    edit(path, PixelData=pixels.tobytes(), RescaleSlope="2")
    np.testing.assert_allclose(dicom.read(damaged).voxels, scan, atol=1)


def test_padding_and_what_lies_below_air(damaged):
    path = sorted(damaged.iterdir())[3]
    pixels = pydicom.dcmread(path).pixel_array.copy()
    pixels[0, :5] = 4000
    padding = pydicom.DataElement("PixelPaddingValue", "US", 4000)
    edit(path, PixelData=pixels.tobytes(), PixelPaddingValue=padding)
    edit(sorted(damaged.iterdir())[4], RescaleIntercept="-5000")
    voxels = dicom.read(damaged).voxels
    assert (voxels[3, 0, :5] == -1024).all() and (voxels[4] == -1024).all()


def test_no_identifiers_in_notes_or_errors(damaged):
    for path in damaged.iterdir():
        edit(path, PatientName="Doe^Jane", PatientID="4711")
    volume = dicom.read(damaged)
    assert "Doe" not in repr(volume.notes) and "4711" not in repr(volume.notes)
    edit(sorted(damaged.iterdir())[0], Modality="MR")
    with pytest.raises(UserError) as caught:
        dicom.read(damaged)
    assert "Doe" not in str(caught.value) and "4711" not in str(caught.value)


# --- DICOM, damaged ----------------------------------------------------------


def test_truncated_pixels(damaged):
    path = sorted(damaged.iterdir())[5]
    path.write_bytes(path.read_bytes()[:-200])
    refused(damaged, r"0005\.dcm is damaged: its pixels cannot be read")
    volume = dicom.read(damaged, fill_gaps=1)
    assert volume.voxels.shape[0] == 24
    assert any(
        "0005.dcm is damaged" in note and "interpolated" in note
        for note in volume.notes
    )


@pytest.mark.parametrize("size", [0, 60, 400])
def test_file_cut_short(damaged, size):
    path = sorted(damaged.iterdir())[5]
    path.write_bytes(path.read_bytes()[:size])
    refused(damaged, r"0005\.dcm")


def test_missing_slice(scan, damaged):
    for index in (9, 10):
        (damaged / f"{index:04d}.dcm").unlink()
    refused(
        damaged,
        r"gap of 15\.0 mm between 0008\.dcm \(-60\.0 mm\) and 0011\.dcm.*2 missing",
    )
    refused(damaged, "2 missing", fill_gaps=1)
    volume = dicom.read(damaged, fill_gaps=2)
    assert volume.spacing == pytest.approx(SPACING)
    wanted = scan.astype(float)
    wanted[9], wanted[10] = (
        (2 * wanted[8] + wanted[11]) / 3,
        (wanted[8] + 2 * wanted[11]) / 3,
    )
    np.testing.assert_allclose(volume.voxels, wanted, atol=0.51)
    assert any("2 slices interpolated" in note for note in volume.notes)


def test_repeated_slice(scan, damaged):
    copy = damaged / "again.dcm"
    shutil.copy(damaged / "0004.dcm", copy)
    volume = dicom.read(damaged)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert any("left out" in note for note in volume.notes)
    pixels = pydicom.dcmread(copy).pixel_array + 50
    edit(copy, PixelData=pixels.astype("<u2").tobytes())
    refused(damaged, r"again\.dcm.* differ, but both lie at -80\.0 mm.*phases")


def test_mixed_orientation(damaged):
    for index in range(3):
        path = damaged / f"{index:04d}.dcm"
        edit(path, ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"])
    refused(damaged, r"2 series or mixed slices \(3 coronal .*21 axial")
    volume = dicom.read(damaged, pick_largest=True)
    assert volume.voxels.shape[0] == 21
    assert any("picked one of 2 series" in note for note in volume.notes)


def test_mixed_sizes_and_series(damaged):
    edit(damaged / "0000.dcm", SeriesInstanceUID=pydicom.uid.generate_uid())
    refused(damaged, "2 series or mixed slices")
    edit(damaged / "0001.dcm", PixelSpacing=["3", "3"])
    refused(damaged, "3 series or mixed slices")


def test_two_spacings(damaged):
    for index in range(12, 24):
        height = -100 + 5 * 11 + 3.5 * (index - 11)
        position = ["-50", "-60", f"{height}"]
        edit(damaged / f"{index:04d}.dcm", ImagePositionPatient=position)
    refused(damaged, "distance of .* two spacings in one series")


def test_overview_is_left_out(scan, damaged):
    shutil.copy(damaged / "0004.dcm", damaged / "scout.dcm")
    edit(
        damaged / "scout.dcm",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        SeriesInstanceUID=pydicom.uid.generate_uid(),
    )
    volume = dicom.read(damaged)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert "left out: scout.dcm (an overview image (localizer))" in volume.notes


def test_gantry_tilt(damaged):
    for index in range(24):
        lean = -60 + 5 * index * np.tan(np.deg2rad(10))
        position = ["-50", f"{lean:.6g}", f"{-100 + 5 * index}"]
        edit(damaged / f"{index:04d}.dcm", ImagePositionPatient=position)
    refused(damaged, r"leans by 10\.0 degrees \(gantry tilt")
    assert dicom.read(damaged, allow_tilt=True).voxels.shape[0] == 24


def test_too_few_slices_and_odd_lengths(damaged, stored, tmp_path):
    for index in range(9, 24):
        (damaged / f"{index:04d}.dcm").unlink()
    refused(damaged, "it has 9 slices, expected at least 16")
    for index in range(1, 9):
        (damaged / f"{index:04d}.dcm").unlink()
    refused(damaged, "1 slices")
    array, affine = stored
    for factor, length in ((0.5, 60), (10, 1200)):
        squeezed = affine @ np.diag([1, 1, factor, 1])
        folder = tmp_path / f"length{length}"
        dicom_writing.write(folder, array, squeezed)
        refused(folder, f"it is {length} mm long")


def test_not_ct(damaged):
    edit(damaged / "0002.dcm", Modality="MR")
    refused(damaged, r"0002\.dcm is damaged: it has modality MR, expected CT")


def test_multi_frame(damaged):
    edit(damaged / "0002.dcm", NumberOfFrames=3)
    refused(
        damaged,
        r"0002\.dcm is damaged: it has several frames, but is of the class of single",
    )


def test_no_positions(scan, damaged):
    for path in damaged.iterdir():
        edit(path, ImagePositionPatient=None)
    volume = dicom.read(damaged)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert any("order by InstanceNumber" in note for note in volume.notes)


def test_only_some_positions(damaged):
    edit(damaged / "0006.dcm", ImagePositionPatient=None)
    refused(damaged, r"0006\.dcm has no position")


def test_no_rescale(damaged):
    edit(damaged / "0006.dcm", RescaleIntercept=None)
    refused(damaged, r"0006\.dcm .* lacks one of RescaleSlope and RescaleIntercept")


def test_compressed_without_a_decoder(damaged):
    path = damaged / "0006.dcm"
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2K
    data.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    with pytest.raises(UserError, match=r"0006\.dcm.*pylibjpeg"):
        dicom.read(damaged)


def test_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    refused(tmp_path, "no DICOM files of CT slices")


def test_bundled_sample_of_pydicom_is_too_short():
    from pydicom.data import get_testdata_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = get_testdata_file("CT_small.dcm", download=False)
    found = series.survey_files([Path(path)])
    assert found.series[0].first.size == (128, 128)
    assert found.series[0].plane == "axial" and not found.aside


# --- NIfTI, damaged ----------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_nifti(write_nifti, name, share):
    path = write_nifti(name=name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "damaged or cut short")


def test_four_axes(stored, write_nifti):
    array, _ = stored
    path = write_nifti(array[..., None])
    assert nifti.read(path).voxels.shape == (24, 48, 48)
    refused(
        write_nifti(np.stack([array] * 2, -1)), r"48, 48, 24, 2\), expected one volume"
    )


def test_voxels_that_are_no_numbers(stored, write_nifti):
    array = stored[0].astype(np.float32)
    array[0, 0, :5] = [np.nan, np.inf, -np.inf, np.nan, 7]
    volume = nifti.read(write_nifti(array))
    assert (volume.voxels[:4, 0, 0] == -1024).all() and volume.voxels[4, 0, 0] == 7
    assert "4 voxels were not finite and are taken for air" in volume.notes


def test_not_in_hounsfield_units(scan, stored, write_nifti):
    path = write_nifti((stored[0] + 1024).astype(np.int16))
    refused(path, "--intensity-offset -1024")
    assert nifti.read(path, intensity_offset=-1024).voxels.tolist() == scan.tolist()
    shades = np.asarray(volumes.apply_window(stored[0])) * 255
    path = write_nifti(shades.round().astype(np.uint8))
    refused(path, "--already-windowed")
    volume = nifti.read(path, already_windowed=True)
    got = volumes.apply_window(jnp.asarray(volume.voxels))
    np.testing.assert_allclose(got, volumes.apply_window(scan), atol=0.003)
    refused(write_nifti(stored[0]), "expected 0 to 255", already_windowed=True)


def test_orientation_of_nifti(scan, stored, write_nifti, tmp_path):
    array, affine = stored
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    path = tmp_path / "unknown.nii"
    nibabel.save(image, path)
    assert any("no orientation" in note for note in nifti.read(path).notes)
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(np.diag([2.0, 2.5, 5, 1]), 1)
    nibabel.save(image, path)
    volume = nifti.read(path)
    np.testing.assert_array_equal(volume.voxels, scan)
    assert "sform and qform disagree; sform is taken" in volume.notes


def test_zero_spacing(stored, tmp_path):
    array, affine = stored
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine @ np.diag([1.0, 0, 1, 1]), 1)
    nibabel.save(image, tmp_path / "flat.nii")
    refused(tmp_path / "flat.nii", "its voxels measure 2 x 0 x 5 mm, expected above 0")


def test_leaning_and_flat_voxels(stored, write_nifti):
    affine = stored[1].copy()
    affine[1, 2] = 5 * np.tan(np.deg2rad(8))
    path = write_nifti(affine=affine)
    refused(path, r"miss a right angle by 8\.0 degrees.*--allow-tilt")
    assert nifti.read(path, allow_tilt=True).voxels.shape == (24, 48, 48)
    with pytest.raises(ValueError, match="0 x 1 x 1 mm, expected above 0"):
        volumes.to_frame(stored[0], np.diag([0.0, 1, 1, 1]))


def test_one_slice(stored, write_nifti):
    refused(write_nifti(stored[0][:, :, :1]), "1 slices, expected at least 16")


def test_wrong_paths(tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "scan.txt").write_text("no")
    refused(tmp_path / "scan.txt", "no CT scan by its name")


# --- slice images ------------------------------------------------------------


@pytest.fixture
def pictures(scan, tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    shades = np.asarray(volumes.apply_window(scan)) * 255
    for index, picture in enumerate(shades.round().astype(np.uint8)):
        Image.fromarray(picture).save(folder / f"{index + 1}.png")
    return folder


def test_slice_images(scan, pictures):
    refused(pictures, r"1\.png.*--already-windowed")
    volume = scans.read(pictures, Options(already_windowed=True))
    got = volumes.apply_window(jnp.asarray(volume.voxels))
    np.testing.assert_allclose(got, volumes.apply_window(scan), atol=0.003)


def test_slice_images_that_are_wrong(pictures):
    shutil.copy(pictures / "3.png", pictures / "25.png")
    refused(pictures, r"25\.png repeats 3\.png", already_windowed=True)
    (pictures / "25.png").write_bytes((pictures / "3.png").read_bytes()[:100])
    refused_by_file = pytest.raises(UserError, match=r"25\.png cannot be read")
    with refused_by_file:
        scans.read(pictures, Options(already_windowed=True))


# --- grids -------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 9, 7), (14, 3, 20), (10, 6, 12)])
def test_resample_is_that_of_jax(size):
    array = np.random.default_rng(0).normal(size=(10, 6, 12)).astype(np.float32)
    wanted = jax.image.resize(jnp.asarray(array), size, "linear")
    np.testing.assert_allclose(volumes.resample(array, size), wanted, atol=1e-5)


@pytest.mark.parametrize("spacing", [None, (5.0, 2.5, 2.5), (4.0, 4.0, 4.0)])
def test_a_map_returns_to_where_it_came_from(written, spacing):
    volume = dicom.read(written)
    size = (20, 30, 40)
    fitted, placement = volumes.fit(volume, size, spacing)
    assert fitted.shape == size and fitted.dtype == np.int16
    back = volumes.unfit(fitted.astype(np.float32), placement)
    middle = (slice(6, 18), slice(14, 34), slice(12, 36))
    inside = np.corrcoef(back[middle].ravel(), volume.voxels[middle].ravel())[0, 1]
    shifted = np.roll(volume.voxels, 1, 2)[middle].ravel()
    assert inside > 0.8 and inside > np.corrcoef(back[middle].ravel(), shifted)[0, 1]


def test_windows():
    values = jnp.array([-2000, -1000, -300, 400, 3000], jnp.int16)
    np.testing.assert_allclose(volumes.apply_window(values), [0, 0, 0.5, 1, 1])
    lung = volumes.apply_window(jnp.array([-600]), "lung")
    np.testing.assert_allclose(lung, [0.5])
    with pytest.raises(UserError, match="window is 'bone', expected one of default"):
        volumes.window_of("bone")
