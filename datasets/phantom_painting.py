"""The MR signal of a synthetic patient at points of space, painted in layers as on canvas.

Each layer has a weight between 0 (not there) and 1, soft at its edges, so that a voxel on an edge gets a share of both
tissues. The signal depends on the place alone, so two series show the same patient exactly. Arrays are (slice, row,
column), lengths mm; contrast 0 is T1-weighted, 1 T2-weighted.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from datasets.phantom_anatomy import ABNORMAL, Anatomy, Floats, Triple, Vertebra

AIR, FAT, MUSCLE, BOWEL = (0.01, 0.01), (1.0, 0.85), (0.36, 0.2), (0.4, 0.45)
CORTEX, VESSEL, CSF, CORD = (0.1, 0.06), (0.08, 0.04), (0.2, 1.0), (0.42, 0.42)
DISC_RIM, DISC_NUCLEUS_T2 = (0.3, 0.14), 0.62
LATTICE_ORIGIN_MM = (-48.0, -110.0, -150.0)
Block = tuple[slice, ...]
Axes = tuple[Floats, Floats, Floats]


class Points(NamedTuple):
    """Patient coordinates of the voxels of an affine grid."""

    x: Floats
    y: Floats
    z: Floats

    def near(self, centre: Triple, before: float, behind: float, height: float) -> tuple[Block, "Points"]:
        """The rows and columns that come within these distances of `centre` along y and z, whatever their x."""
        _, y, z = centre
        ends = np.s_[:: len(self.x) - 1]  # on an affine grid the extremes lie in the first or the last slice
        spans = [(self.y[ends], y - before, y + behind), (self.z[ends], z - height, z + height)]
        rows_columns = []
        for across in ((0, 2), (0, 1)):  # of rows, of columns
            near = [(p.min(across) < high) & (p.max(across) > low) for p, low, high in spans]
            found = np.flatnonzero(np.logical_and(*near))
            rows_columns.append(slice(found[0], found[-1] + 1) if len(found) else slice(0))
        block = slice(None), *rows_columns
        return block, Points(self.x[block], self.y[block], self.z[block])


def paint_patient(anatomy: Anatomy, points: Points, contrast: int) -> Floats:
    """Relative signal of the patient at `points` (at least two slices, rows and columns of an affine grid)."""
    signal = np.full(points.x.shape, MUSCLE[contrast], np.float32)
    wall = _posterior_wall(anatomy, points.z)
    _paint_soft_tissue(signal, anatomy, points, wall, contrast)
    _paint_canal(signal, anatomy, points, wall, contrast)
    for index, body in enumerate(anatomy.vertebrae):
        block, near = points.near(body.centre, 0, body.half_depth + 55, body.half_height + 24)
        _paint_posterior_elements(signal[block], anatomy, index, near, contrast)
        block, near = points.near(body.centre, body.half_depth + 8, body.half_depth + 8, body.half_height + 17)
        _paint_body(signal[block], anatomy, index, near, contrast)
    for ball in anatomy.balls:
        _, depth, height = ball.radii
        block, near = points.near(ball.centre, depth + 2, depth + 2, height + 2)
        _paint(signal[block], _ball_weight(near, ball.radii, ball.centre), ball.signal[contrast])
    return signal


def _paint(signal: Floats, weight: Floats, value: float | Floats) -> None:
    signal += weight * (value - signal)


def _inside(distance: Floats, softness: float = 1.0) -> Floats:
    """Weight 1 inside, 0 outside, falling over `softness` mm around distance 0 (negative inside)."""
    return np.asarray(np.clip(0.5 - distance / softness, 0, 1), np.float32)


def _ball_weight(points: Points, radii: Triple, centre: Triple = (0, 0, 0)) -> Floats:
    x, y, z = (np.square((p - c) / r) for p, c, r in zip(points, centre, radii, strict=True))
    return _inside((np.sqrt(x + y + z) - 1) * min(radii), 1.5)


def _noise_at(lattice: Floats, spacing: float, points: Points) -> Floats:
    index = [(p - o) / spacing for p, o in zip(points, LATTICE_ORIGIN_MM, strict=True)]
    noise: Floats = ndimage.map_coordinates(lattice, index, output=np.float32, order=1, mode="nearest")
    return noise


def _posterior_wall(anatomy: Anatomy, z: Floats) -> Floats:
    """y of the backs of the bodies at height z: a smooth curve through them."""
    heights = [body.centre[2] for body in anatomy.vertebrae]
    backs = [body.centre[1] + body.half_depth for body in anatomy.vertebrae]
    return np.polyval(np.polyfit(heights, backs, 5).astype(np.float32), z)


def _paint_soft_tissue(signal: Floats, anatomy: Anatomy, points: Points, wall: Floats, contrast: int) -> None:
    (x, y, _), body = points, anatomy.body
    noise = _noise_at(anatomy.coarse_noise, 12.0, points)
    abdomen = _inside(y - wall + 36 + 3 * noise, 4)
    away = np.hypot(x - body.vessel_side, y - wall + body.vessel_before) - body.vessel_radius
    for weight, tissue in (
        (abdomen * np.clip(0.85 + 0.3 * noise, 0, 1), FAT),
        (abdomen * np.clip(noise - 1.2, 0, 0.6), BOWEL),
        ((1 - abdomen) * np.clip(0.9 * noise - 0.4, 0, 0.8), FAT),
        (_inside(away, 2), VESSEL),
        (_inside(body.skin - body.subcutaneous - y, 2), FAT),
        (_inside(body.skin - y, 2), AIR),
    ):
        _paint(signal, weight, tissue[contrast])


def _paint_canal(signal: Floats, anatomy: Anatomy, points: Points, wall: Floats, contrast: int) -> None:
    """Epidural fat, fluid, the cord down to the conus and the nerve roots below."""
    x, y, z = points
    depth = anatomy.body.canal_half_depth
    back, above = y - wall - depth - 1, z - anatomy.body.conus
    radius = np.hypot(back, x / np.float32(1.35))
    strands = np.where(above < 0, np.clip(0.3 * np.sin(1.7 * back + 0.9 * x) + 0.2, 0, 1), 0)
    for weight, tissue in (
        (_inside(radius - 1.25 * depth, 2), FAT),
        (_inside(radius - depth), CSF),
        (_inside(np.hypot(back, np.float32(0.8) * x) - 4.5, 1.5) * np.clip(above / 20 + 1, 0, 1), CORD),
        (_inside(np.abs(back - 3) - 4) * strands.astype(np.float32), CORD),
    ):
        _paint(signal, weight, tissue[contrast])


def _paint_posterior_elements(signal: Floats, anatomy: Anatomy, index: int, points: Points, contrast: int) -> None:
    """Spinous process, articular pillars and pedicles; a tumour there replaces the marrow and swells the bone."""
    body, marrow, swelling = anatomy.vertebrae[index], anatomy.body.marrow[contrast], 1.0
    if index == ABNORMAL and anatomy.features["pedicle_or_posterior_element_involvement"]:
        marrow, swelling = anatomy.body.marrow[contrast] * anatomy.body.tumour[contrast], 1.5
    u, v, w = local_axes(body, points)
    behind, side = u - body.half_depth, np.abs(w)
    spinous = Points(w, behind - 2 * anatomy.body.canal_half_depth - 17 - 0.3 * v, v + 8)
    pillar = Points(side - 15, behind - 15, v + 2)
    pedicle = Points(side - 14, behind - 6, v - 4)
    for place, radii in ((spinous, (3.5, 14, 6)), (pillar, (5, 6, 15)), (pedicle, (4.5, 12, 5))):
        a, b, c = (radius * swelling for radius in radii)
        _paint(signal, _ball_weight(place, (a, b, c)), CORTEX[contrast])
        _paint(signal, _ball_weight(place, (a - 1.2, b - 1.2, c - 1.2)), marrow)


def _paint_body(signal: Floats, anatomy: Anatomy, index: int, points: Points, contrast: int) -> None:
    """A vertebral body with its cortex, and the disc above it."""
    body, normal = anatomy.vertebrae[index], anatomy.body.marrow[contrast]
    u, v, w = local = local_axes(body, points)
    noise = _noise_at(anatomy.fine_noise, 3.0, points)
    _paint_disc(signal, body, local, contrast)
    distance = body_distance(body, *local)
    for end in (-1, 1) if body.osteophyte else ():
        spur = np.hypot(u + body.half_depth, v - end * (body.half_height - 1)) - body.osteophyte
        distance = np.minimum(distance, np.maximum(spur, np.abs(w) - body.half_width))
    _paint(signal, _inside(distance - 0.6), CORTEX[contrast])
    marrow = normal * (1 + anatomy.body.marrow_spread * np.sin(7.0 * index)) * (1 + anatomy.body.mottle * noise)
    if index == ABNORMAL:
        marrow = _abnormal_marrow(anatomy, local, marrow, noise, contrast)
    elif body.endplate_change:
        change = _inside(body.half_height - body.concavity - v - body.endplate_change + noise, 1.5)
        _paint(marrow, 0.7 * change, normal * anatomy.body.tumour[contrast])
    _paint(signal, _inside(distance + 0.6), marrow)


def local_axes(body: Vertebra, points: Points) -> Axes:
    """Points in the body's own axes: u to the back, v to the head, w to the left (mm)."""
    cosine, sine = np.float32(np.cos(body.tilt)), np.float32(np.sin(body.tilt))
    x, y, z = (p - c for p, c in zip(points, body.centre, strict=True))
    return cosine * y - sine * z, sine * y + cosine * z, x


def body_distance(body: Vertebra, u: Floats, v: Floats, w: Floats) -> Floats:
    """About the signed distance (mm) to the body's surface, negative inside."""
    dent = body.concavity * np.clip(1 - np.square(u / body.half_depth), 0, 1)
    towards_front = np.clip(0.5 - u / (2 * body.half_depth), 0, 1)
    top = body.half_height * (1 - 2 * body.wedge * towards_front) - dent
    waist = np.clip(1 - np.square(v / body.half_height), 0, 1)
    depth = body.half_depth * (1 - 0.35 * np.square(w / body.half_width))
    walls = np.maximum(u - depth - (body.bulge_back - 1) * waist, -u - depth - (body.bulge_front - 1.2) * waist)
    ends = np.maximum(v - top, dent - body.half_height - v)
    return np.asarray(np.maximum(np.maximum(walls, ends), np.abs(w) - body.half_width))


def _paint_disc(signal: Floats, body: Vertebra, local: Axes, contrast: int) -> None:
    """The disc above a body: a slab that the two bodies, painted later, cut to its shape."""
    u, v, w = local
    away = np.abs(v - body.half_height - body.disc / 2) - body.disc / 2
    reach = np.hypot(u / (body.half_depth + 1), w / (1.05 * body.half_width))
    slab = np.maximum(away - 4 - body.concavity, (reach - 1) * body.half_depth)
    nucleus = (DISC_RIM[0], max(DISC_NUCLEUS_T2 * body.hydration, DISC_RIM[1]))
    _paint(signal, _inside(slab), DISC_RIM[contrast])
    _paint(signal, np.clip(2.2 - 3 * reach, 0, 1) * _inside(away - 2), nucleus[contrast])


def _abnormal_marrow(anatomy: Anatomy, local: Axes, marrow: Floats, noise: Floats, contrast: int) -> Floats:
    """Marrow signal of the abnormal body with its features."""
    u, v, w = local
    body, lesion, features = anatomy.vertebrae[ABNORMAL], anatomy.lesion, anatomy.features
    p, q = u / body.half_depth, v / body.half_height
    normal = anatomy.body.marrow[contrast] * lesion.level[contrast]
    if features["homogeneous_marrow_signal"]:
        return np.full_like(marrow, normal)
    marrow = marrow * lesion.level[contrast] * (1 + 0.2 * noise)
    diseased = normal * lesion.disease[contrast]
    front = p * np.cos(lesion.front_angle) + q * np.sin(lesion.front_angle) - lesion.front_offset
    oedema = lesion.oedema_edge - (q if lesion.oedema_side < 0.7 else -q)  # under the upper endplate, or over the lower
    band = np.abs(q - lesion.band_height - lesion.band_slope * p) * body.half_height
    patch = np.hypot(u - lesion.patch[0] * body.half_depth, v - lesion.patch[1] * body.half_height)
    cleft = np.hypot(v - lesion.cleft_height * body.half_height, np.float32(0.2) * u)
    layers = [
        ("diffuse_signal_change", _inside(front + 0.08 * noise, 0.15), diseased * (1 + 0.1 * noise)),
        ("marrow_oedema_band", _inside(oedema + 0.05 * noise, 0.2), diseased),
        ("intravertebral_dark_band", _inside(band - 1.5 + 0.3 * noise), 0.3 * normal),
        ("intravertebral_dark_patch", _inside(patch - 4.5 + noise, 1.5), 0.35 * normal),
        ("fluid_or_necrotic_cleft", _inside(cleft - 1.8), CSF[contrast]),
    ]
    for at_p, at_q, at_r, radius in lesion.nodules:
        place = Points(w - at_r * body.half_width, u - at_p * body.half_depth, v - at_q * body.half_height)
        layers.append(("intravertebral_nodule", _ball_weight(place, (radius,) * 3), normal * lesion.nodule[contrast]))
    for feature, weight, value in layers:
        if features[feature]:
            _paint(marrow, weight, value)
    return marrow
