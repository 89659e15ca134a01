"""Recognition of irises: unrolling, binary codes, and their distance.

Daugman's scheme (IEEE TPAMI 15, 1993): the ring between pupil and iris is unrolled into
a strip ``[rows, angles]``, each row is described by signs of local filters, and two
irises are compared by the part of signs that differ, at the best of a few rotations.
Filters are the Haar wavelet or a log-Gabor wavelet (Masek, 2003).
"""

import numpy as np


def unroll(
    image: np.ndarray,
    *,
    centre: tuple[float, float],
    radii: tuple[float, float],
    shape: tuple[int, int] = (8, 64),
) -> np.ndarray:
    """Samples the ring around a pupil on a polar grid, bilinearly.

    Args:
      image: grey, ``[height, width]``.
      centre: of both circles, ``(x, y)`` in pixels.
      radii: of the pupil and the iris.
      shape: rows and angles of the strip; rows lie between the circles.

    Returns:
      float64 ``shape``; angles start to the right and turn downwards.

    Raises:
      ValueError: if the ring is empty.
    """
    if not 0 <= radii[0] < radii[1]:
        raise ValueError(
            f"radii are {radii}, expected the pupil's below the iris's, from 0."
        )
    from scipy.ndimage import map_coordinates

    rows, angles = shape
    radius = radii[0] + (np.arange(rows) + 0.5) / rows * (radii[1] - radii[0])
    angle = 2 * np.pi * np.arange(angles) / angles
    y = centre[1] + radius[:, None] * np.sin(angle)
    x = centre[0] + radius[:, None] * np.cos(angle)
    return map_coordinates(np.asarray(image, float), [y, x], order=1, mode="nearest")


def haar_code(strip: np.ndarray, scales: tuple[int, ...] = (2, 4, 8)) -> np.ndarray:
    """Computes the signs of Haar coefficients along the angle, at every angle.

    The coefficient of scale ``s`` at angle ``i`` is the sum of the ``s`` samples from
    ``i`` on, less that of the ``s`` samples after them; angles are circular.

    Args:
      strip: ``[rows, angles]``.
      scales: in samples.

    Returns:
      bool ``[len(scales), rows, angles]``.

    >>> haar_code(np.array([[1.0, 0, 0, 1]]), scales=(1,)).astype(int).tolist()
    [[[1, 0, 0, 0]]]
    """
    total = np.concatenate([strip, strip], axis=1)
    codes = []
    for scale in scales:
        first = sum(total[:, i : i + strip.shape[1]] for i in range(scale))
        second = np.roll(first, -scale, axis=1)
        codes.append(first > second)
    return np.stack(codes)


def log_gabor_code(
    strip: np.ndarray, *, wavelength: float = 16.0, bandwidth: float = 0.5
) -> np.ndarray:
    """Computes the phase quadrants of a log-Gabor filter along the angle.

    Its transfer function is ``exp(-log(f / f0)^2 / (2 log(bandwidth)^2))`` for positive
    frequencies, with ``f0 = 1 / wavelength``.

    Args:
      strip: ``[rows, angles]``.
      wavelength: of the filter's centre, in samples.
      bandwidth: ``sigma / f0``, in (0, 1).

    Returns:
      bool ``[2, rows, angles]``: whether the real and the imaginary part are positive.
    """
    angles = strip.shape[1]
    frequency = np.fft.fftfreq(angles)
    positive = frequency > 0
    ratio = np.log(np.where(positive, frequency, 1) * wavelength)
    gain = positive * np.exp(-(ratio**2) / (2 * np.log(bandwidth) ** 2))
    response = np.fft.ifft(np.fft.fft(strip, axis=1) * gain, axis=1)
    return np.stack([response.real > 0, response.imag > 0])


def distance(a: np.ndarray, b: np.ndarray, *, shifts: int = 8) -> float:
    """Computes the part of differing signs, at the best rotation.

    Args:
      a: bool ``[..., angles]``.
      b: the same shape.
      shifts: rotations tried to either side, in samples.

    >>> code = np.array([True, False, False, True, True, False])
    >>> distance(code, np.roll(code, 2)), distance(code, ~code, shifts=0)
    (0.0, 1.0)
    """
    return float(
        min(np.mean(a != np.roll(b, s, axis=-1)) for s in range(-shifts, shifts + 1))
    )


def pair_distances(
    codes: np.ndarray, identities: np.ndarray, *, shifts: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the distances of all pairs of codes.

    Args:
      codes: bool ``[n, ..., angles]``.
      identities: ``[n]``.
      shifts: see ``distance``.

    Returns:
      Distances of pairs of one identity, and of pairs of two.
    """
    flat = np.asarray(codes).reshape(len(codes), -1, codes.shape[-1])
    signs = 2.0 * flat - 1
    spectra = np.fft.rfft(signs, axis=-1)
    size, angles = signs[0].size, signs.shape[-1]
    genuine, impostor = [], []
    for i in range(len(flat) - 1):
        # Agreement at every rotation at once, as a circular correlation
        product = np.sum(spectra[i] * np.conj(spectra[i + 1 :]), axis=1)
        agreement = np.fft.irfft(product, angles, axis=-1)
        near = np.concatenate(
            [agreement[:, : shifts + 1], agreement[:, angles - shifts :]], axis=1
        )
        # Whole numbers, lest rounding part pairs that are equally far apart.
        apart = np.rint((size - near.max(axis=1)) / 2) / size
        same = identities[i + 1 :] == identities[i]
        genuine.append(apart[same])
        impostor.append(apart[~same])
    return np.concatenate(genuine), np.concatenate(impostor)


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Computes the rate at which false rejections equal false acceptances.

    Args:
      genuine: distances of pairs of one identity.
      impostor: of pairs of two.

    Returns:
      In [0, 1], interpolated between the thresholds on either side; NaN without pairs.

    >>> equal_error_rate(np.array([0.1, 0.2]), np.array([0.4, 0.5]))
    0.0
    """
    if not len(genuine) or not len(impostor):
        return float("nan")
    genuine, impostor = np.sort(genuine), np.sort(impostor)
    cuts = np.unique(np.concatenate([genuine, impostor]))
    cuts = np.concatenate([[cuts[0] - 1], cuts])
    rejected = 1 - np.searchsorted(genuine, cuts, "right") / len(genuine)
    accepted = np.searchsorted(impostor, cuts, "right") / len(impostor)
    gap = accepted - rejected  # from -1 to 1
    place = int(np.argmax(gap >= 0))
    if gap[place] == 0:
        return float(accepted[place])
    part = -gap[place - 1] / (gap[place] - gap[place - 1])
    return float(accepted[place - 1] + part * (accepted[place] - accepted[place - 1]))
