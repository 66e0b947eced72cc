"""The MR signal of a synthetic patient at points of space: anatomy first, then the abnormal vertebra's features over it.

A picture is painted in layers, as on canvas: each layer has a weight between 0 (not there) and 1, soft at its edges, so
that voxels on an edge get a share of both tissues. Arrays have the shape of the points handed in, (slice, row, column).
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from datasets.phantom_anatomy import ABNORMAL, Anatomy, Ball, Floats, Signal, Vertebra

AIR, FAT, MUSCLE, BOWEL = Signal(0.01, 0.01), Signal(1.0, 0.85), Signal(0.36, 0.2), Signal(0.4, 0.45)
CORTEX, VESSEL, CSF, CORD = Signal(0.1, 0.06), Signal(0.08, 0.04), Signal(0.2, 1.0), Signal(0.42, 0.42)
DISC_RIM, DISC_NUCLEUS, CLEFT, MASS = Signal(0.3, 0.14), Signal(0.36, 0.62), Signal(0.2, 1.0), Signal(0.36, 0.62)
Block = tuple[slice, slice, slice]
LATTICE_ORIGIN_MM = (-48.0, -110.0, -150.0)


class Points(NamedTuple):
    """Patient coordinates (mm) of voxels, each array (slice, row, column)."""

    x: Floats
    y: Floats
    z: Floats

    def block(self, centre: tuple[float, float, float], before: float, behind: float, height: float) -> Block:
        """Index of the rows and columns that may come as near to `centre` as this, in mm along y and z.

        The grid is affine, so the extremes of every row and column of voxels lie in their ends.
        """
        y, z = self.y - centre[1], self.z - centre[2]
        ranges = ((y, -before, behind), (z, -height, height))
        rows = [(p[:: len(p) - 1, :, :: p.shape[2] - 1], low, high, (0, 2)) for p, low, high in ranges]
        columns = [(p[:: len(p) - 1, :: p.shape[1] - 1], low, high, (0, 1)) for p, low, high in ranges]
        return slice(None), _overlap(rows), _overlap(columns)

    def at(self, block: Block) -> "Points":
        return Points(self.x[block], self.y[block], self.z[block])


def _overlap(ranges: list[tuple[Floats, float, float, tuple[int, int]]]) -> slice:
    near = [(p.min(axis) < high) & (p.max(axis) > low) for p, low, high, axis in ranges]
    found = np.flatnonzero(np.logical_and(*near))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def paint_patient(anatomy: Anatomy, points: Points, contrast: int) -> Floats:
    """Relative signal of the patient at `points`; contrast 0 is T1-weighted, 1 T2-weighted."""
    signal = np.full(points.x.shape, MUSCLE[contrast], np.float32)
    _paint_soft_tissue(signal, anatomy, points, contrast)
    _paint_canal(signal, anatomy, points, contrast)
    for index in range(len(anatomy.vertebrae)):
        body = anatomy.vertebrae[index]
        block = points.block(body.centre, 0, body.half_depth + 55, body.half_height + 24)
        _paint_posterior_elements(signal[block], anatomy, index, points.at(block), contrast)
        block = points.block(body.centre, body.half_depth + 8, body.half_depth + 8, body.half_height + 24)
        _paint_body(signal[block], anatomy, index, points.at(block), contrast)
    if anatomy.features["epidural_or_paraspinal_mass"]:
        for mass in anatomy.masses:
            _paint_ball(signal, points, mass, MASS[contrast])
    if anatomy.features["coexisting_lesion_in_other_vertebra"]:
        value = anatomy.marrow[contrast] * anatomy.tumour[contrast]
        for metastasis in anatomy.metastases:
            _paint_ball(signal, points, metastasis, value)
    return signal


def _paint(signal: Floats, weight: Floats, value: float | Floats) -> None:
    signal += weight * (value - signal)


def _inside(distance: Floats, softness: float = 1.0) -> Floats:
    """Weight 1 inside, 0 outside, falling over `softness` mm around distance 0 (negative inside)."""
    return np.clip(0.5 - distance / softness, 0, 1)


def _ball_weight(points: Points, ball: Ball, softness: float = 1.5) -> Floats:
    squared = sum(((p - c) / r) ** 2 for p, c, r in zip(points, ball.centre, ball.radii, strict=True))
    return _inside((np.sqrt(squared, dtype=np.float32) - 1) * np.float32(min(ball.radii)), softness)


def _paint_ball(signal: Floats, points: Points, ball: Ball, value: float) -> None:
    _, depth, height = ball.radii
    block = points.block(ball.centre, depth + 2, depth + 2, height + 2)
    _paint(signal[block], _ball_weight(points.at(block), ball), value)


def _noise_at(lattice: Floats, spacing: float, points: Points) -> Floats:
    index = [(p - o) / spacing for p, o in zip(points, LATTICE_ORIGIN_MM, strict=True)]
    return ndimage.map_coordinates(lattice, index, output=np.float32, order=1, mode="nearest")


def _paint_soft_tissue(signal: Floats, anatomy: Anatomy, points: Points, contrast: int) -> None:
    x, y, z = points
    noise = _noise_at(anatomy.coarse_noise, 12.0, points)
    wall = _posterior_wall(anatomy, z)
    abdomen = _inside(y - wall + 36 + 3 * noise, 4)
    _paint(signal, abdomen * np.clip(0.75 + 0.5 * noise, 0, 1), FAT[contrast])
    _paint(signal, abdomen * np.clip(noise - 0.9, 0, 0.7), BOWEL[contrast])
    _paint(signal, (1 - abdomen) * np.clip(0.9 * noise - 0.4, 0, 0.8), FAT[contrast])
    away = np.hypot(x - anatomy.vessel_side, y - wall + anatomy.vessel_before) - anatomy.vessel_radius
    _paint(signal, _inside(away, 2), VESSEL[contrast])
    _paint(signal, _inside(anatomy.skin - anatomy.subcutaneous - y, 2), FAT[contrast])
    _paint(signal, _inside(anatomy.skin - y, 2), AIR[contrast])


def _posterior_wall(anatomy: Anatomy, z: Floats) -> Floats:
    """y of the backs of the bodies at height z."""
    heights = [body.centre[2] for body in anatomy.vertebrae]
    backs = [body.centre[1] + body.half_depth for body in anatomy.vertebrae]
    curve = np.polyfit(heights, backs, 5).astype(np.float32)
    return np.polyval(curve, z)


def _paint_canal(signal: Floats, anatomy: Anatomy, points: Points, contrast: int) -> None:
    x, y, z = points
    depth = anatomy.canal_half_depth
    back = y - _posterior_wall(anatomy, z) - depth - 1
    squared = (back / depth) ** 2 + (x / (1.35 * depth)) ** 2
    _paint(signal, _inside((np.sqrt(squared) - 1.25) * depth, 2), FAT[contrast])
    _paint(signal, _inside((np.sqrt(squared) - 1) * depth), CSF[contrast])
    cord = _inside(np.hypot(back, 0.8 * x) - 4.5 - 0.03 * np.clip(z - anatomy.conus, -60, 0), 1.5)
    _paint(signal, cord * np.clip((z - anatomy.conus) / 20 + 1, 0, 1), CORD[contrast])
    roots = np.clip(0.5 * np.sin(1.7 * back + 0.9 * x) + 0.3, 0, 1) * _inside(np.abs(back - 3) - 4)
    _paint(signal, 0.6 * roots * (z < anatomy.conus), CORD[contrast])


def _paint_body(signal: Floats, anatomy: Anatomy, index: int, points: Points, contrast: int) -> None:
    body = anatomy.vertebrae[index]
    u, v, w = local_axes(body, points)
    noise = _noise_at(anatomy.fine_noise, 3.0, points)
    spread = 1 + anatomy.marrow_spread * np.sin(7.0 * index)
    marrow = anatomy.marrow[contrast] * spread * (1 + anatomy.mottle * noise)
    _paint_disc(signal, body, (u, v, w), contrast)
    distance = body_distance(body, u, v, w)
    if body.osteophyte:
        for end in (-1, 1):
            spur = np.hypot(u + body.half_depth, v - end * (body.half_height - 1)) - body.osteophyte
            distance = np.minimum(distance, np.maximum(spur, np.abs(w) - body.half_width))
    _paint(signal, _inside(distance - 0.6), CORTEX[contrast])
    if index == ABNORMAL:
        marrow = _abnormal_marrow(anatomy, (u, v, w), marrow, noise, contrast)
    _paint(signal, _inside(distance + 0.6), marrow)
    value = max(anatomy.marrow[contrast], 0.6) * 1.2
    for haemangioma in anatomy.haemangiomas:
        if abs(haemangioma.centre[2] - body.centre[2]) < body.half_height:
            _paint(signal, _ball_weight(points, haemangioma) * (distance < -1), value)


def local_axes(body: Vertebra, points: Points) -> tuple[Floats, Floats, Floats]:
    """Points in the body's own axes: u to the back, v to the head, w to the left (mm)."""
    cosine, sine = np.float32(np.cos(body.tilt)), np.float32(np.sin(body.tilt))
    x, y, z = (p - np.float32(c) for p, c in zip(points, body.centre, strict=True))
    return cosine * y - sine * z, sine * y + cosine * z, x


def body_distance(body: Vertebra, u: Floats, v: Floats, w: Floats) -> Floats:
    """About the signed distance (mm) to the body's surface, negative inside."""
    middle = 1 - np.square(u / body.half_depth)
    front_share = np.clip(0.5 - u / (2 * body.half_depth), 0, 1)
    dent = body.concavity * np.clip(middle, 0, 1)
    top = body.half_height * (1 - 2 * body.wedge * front_share) - dent
    bottom = -body.half_height + dent
    waist = np.clip(1 - np.square(v / body.half_height), 0, 1)
    depth = body.half_depth * (1 - 0.35 * np.square(w / body.half_width))
    back = depth + (body.bulge_back - 1.0) * waist
    front = depth + (body.bulge_front - 1.2) * waist
    sides = np.maximum(np.maximum(u - back, -u - front), np.abs(w) - body.half_width)
    return np.maximum(sides, np.maximum(v - top, bottom - v))


def _paint_disc(signal: Floats, body: Vertebra, local: tuple[Floats, Floats, Floats], contrast: int) -> None:
    """The disc above a body: a slab that the two bodies, painted later, cut to its shape."""
    u, v, w = local
    middle = v - body.half_height - body.disc / 2
    reach = np.sqrt(np.square(u / (body.half_depth + 1)) + np.square(w / (1.05 * body.half_width)))
    slab = np.abs(middle) - body.disc / 2 - 4 - body.concavity
    _paint(signal, _inside(np.maximum(slab, (reach - 1) * body.half_depth)), DISC_RIM[contrast])
    bright = (DISC_RIM[contrast], DISC_NUCLEUS[contrast])[contrast] * (1.0, body.hydration)[contrast]
    nucleus = np.clip(2.2 - 3 * reach, 0, 1) * _inside(np.abs(middle) - body.disc / 2 - 2)
    _paint(signal, nucleus, max(bright, DISC_RIM[contrast]))


def _paint_posterior_elements(
    signal: Floats, anatomy: Anatomy, index: int, points: Points, contrast: int
) -> None:
    """Spinous process, pedicles and articular pillars; a tumour there replaces the marrow and swells the bone."""
    body = anatomy.vertebrae[index]
    u, v, w = local_axes(body, points)
    involved = index == ABNORMAL and anatomy.features["pedicle_or_posterior_element_involvement"]
    swelling = 1.5 if involved else 1.0
    marrow = anatomy.marrow[contrast] * (anatomy.tumour[contrast] if involved else 1)
    wall, canal, side = body.half_depth, 2 * anatomy.canal_half_depth + 4, np.abs(w)
    spinous = Points(w, u - wall - canal - 13 - v * 0.3, v + 8)
    pillar = Points(side - 15, u - wall - 15, v + 2)
    pedicle = Points(side - 14, u - wall - 6, v - 4)
    for place, radii in ((spinous, (3.5, 14, 6)), (pillar, (5, 6, 15)), (pedicle, (4.5, 12, 5))):
        grown = (radii[0] * swelling, radii[1] * swelling, radii[2] * swelling)
        _paint(signal, _ball_weight(place, Ball((0, 0, 0), grown)), CORTEX[contrast])
        inner = (grown[0] - 1.2, grown[1] - 1.2, grown[2] - 1.2)
        _paint(signal, _ball_weight(place, Ball((0, 0, 0), inner)), marrow)


def _abnormal_marrow(
    anatomy: Anatomy, local: tuple[Floats, Floats, Floats], marrow: Floats, noise: Floats, contrast: int
) -> Floats:
    """Marrow signal of the abnormal body with its features."""
    u, v, w = local
    body, lesion, features = anatomy.vertebrae[ABNORMAL], anatomy.lesion, anatomy.features
    normal = anatomy.marrow[contrast]
    if features["homogeneous_marrow_signal"]:
        marrow = np.full_like(marrow, normal)
    else:
        marrow = marrow * (1 + 0.12 * noise)
    p, q, r = u / body.half_depth, v / body.half_height, w / body.half_width
    if features["diffuse_signal_change"]:
        edge = p * np.cos(lesion.front_angle) + q * np.sin(lesion.front_angle) - lesion.front_offset
        _paint(marrow, _inside(edge + 0.08 * noise, 0.15), normal * lesion.factor[contrast] * (1 + 0.05 * noise))
    if features["marrow_oedema_band"]:
        edge = lesion.oedema_edge - (q if lesion.oedema_above else -q)
        _paint(marrow, _inside(edge + 0.05 * noise, 0.3), normal * lesion.factor[contrast])
    if features["intravertebral_dark_band"]:
        line = np.abs(q - lesion.band_height - lesion.band_slope * p) * body.half_height - 1.2
        _paint(marrow, _inside(line + 0.3 * noise), 0.3 * normal)
    if features["intravertebral_dark_patch"]:
        spot = np.hypot(u - lesion.patch[0] * body.half_depth, v - lesion.patch[1] * body.half_height)
        _paint(marrow, _inside(spot - 4.5 + noise, 1.5), 0.35 * normal)
    if features["fluid_or_necrotic_cleft"]:
        slit = np.hypot(v - lesion.cleft_height * body.half_height, 0.2 * u) - 1.8
        _paint(marrow, _inside(slit), CLEFT[contrast])
    if features["intravertebral_nodule"]:
        for at_p, at_q, at_r, radius in lesion.nodules:
            spot = np.square(u - at_p * body.half_depth) + np.square(v - at_q * body.half_height)
            away = np.sqrt(spot + np.square(w - at_r * body.half_width)) - radius
            _paint(marrow, _inside(away, 1.2), normal * lesion.nodule_factor[contrast])
    return marrow
