"""Colour profiles (ICC.1:2022) made from other descriptions of colours: PNG's gAMA and cHRM, and H.273's code points.

Every description becomes a matrix profile, from which `models.colour` converts, so there is one way of converting.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.image_errors import Undecodable

Point = tuple[float, float]  # CIE x and y
Primaries = tuple[Point, Point, Point, Point]  # of white, red, green and blue

_D65 = (0.3127, 0.3290)
SRGB: Primaries = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
# ITU-T H.273, table 2; those of old television (4 to 7) are so near to sRGB's that viewers treat them as sRGB
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    2: SRGB,  # unspecified
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_SRGB_LIKE = {1, 2, 6, 13, 14, 15}  # table 3: viewers show television's curves as sRGB's
_GAMMAS = {4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white that profiles are relative to
_ENTRIES = 1024  # of a sampled curve


def of_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile of these code points of H.273; None for sRGB's. Raises Undecodable for unknown ones."""
    if transfer in _HDR:
        raise Undecodable(f"The image is high dynamic range ({_HDR[transfer]}). Save it as an ordinary picture (SDR).")
    if primaries not in _PRIMARIES or transfer not in _SRGB_LIKE | _GAMMAS.keys():
        raise Undecodable("The image is in a colour space that is not supported. Save it in sRGB.")
    found, gamma = _PRIMARIES[primaries], _GAMMAS.get(transfer)
    return None if gamma is None and found is SRGB else of_primaries(found, gamma)


def of_primaries(primaries: Sequence[Point], gamma: float | None) -> bytes | None:
    """The RGB profile with these primaries and exponent (None: sRGB's curve); None if they are not usable."""
    try:
        colorants = _colorants(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(colorants).all() or np.abs(colorants).max() > 100 or (gamma is not None and gamma < 0.02):
        return None
    white = b"XYZ \0\0\0\0" + _fixed(_D50)
    tags = {b"wtpt": white}
    for name, colorant in zip((b"r", b"g", b"b"), colorants.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(colorant)
        tags[name + b"TRC"] = _curve(gamma)
    return _assembled(tags)


def _colorants(primaries: Sequence[Point]) -> npt.NDArray[np.float64]:
    """CIE XYZ of full red, green and blue, in columns, adapted to D50."""
    white, *colours = (np.array([x / y, 1.0, (1.0 - x - y) / y]) for x, y in primaries)
    unscaled = np.stack(colours, axis=1)
    native = unscaled * np.linalg.solve(unscaled, white)  # together they make white
    seen, wanted = _BRADFORD @ white, _BRADFORD @ _D50
    adapted: npt.NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(wanted / seen) @ _BRADFORD @ native
    return adapted


def _curve(gamma: float | None) -> bytes:
    encoded = np.linspace(0.0, 1.0, _ENTRIES)
    if gamma is None:
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    else:
        linear = encoded ** (1.0 / gamma)
    return b"curv\0\0\0\0" + struct.pack(">I", _ENTRIES) + (linear * 65535.0).round().astype(">u2").tobytes()


def _fixed(values: npt.NDArray[np.float64]) -> bytes:
    """As s15Fixed16Number."""
    return (values * 65536.0).round().astype(">i4").tobytes()


def _assembled(tags: dict[bytes, bytes]) -> bytes:
    place = 128 + 4 + 12 * len(tags)
    table, contents = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, place + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    size = place + len(contents)
    header = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    return header.ljust(68, b"\0") + _fixed(_D50).ljust(60, b"\0") + table + contents
