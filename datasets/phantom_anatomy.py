"""What one synthetic patient's spine is like: every random decision, in mm and patient coordinates, drawn apart from painting.

Coordinates are DICOM patient coordinates relative to the abnormal vertebra: x to the left, y to the back, z to the head.
Every number is drawn whether the patient has the feature or not, so a feature changes the picture only where it is drawn.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Features = dict[str, bool]
ABNORMAL = 5  # index of the abnormal vertebra among the eleven drawn


class Signal(NamedTuple):
    """Relative signal on the two contrasts."""

    t1: float
    t2: float


@dataclass(frozen=True)
class Vertebra:
    """A vertebral body in its own axes: u to the back, v to the head, w to the left (mm)."""

    centre: tuple[float, float, float]
    tilt: float  # radians about x, positive leans the head end back
    half_depth: float
    half_width: float
    half_height: float
    wedge: float  # share of the height lost at the front
    concavity: float  # mm lost in the middle of either endplate
    bulge_front: float
    bulge_back: float
    osteophyte: float  # radius, 0 for none
    disc: float  # height of the disc above
    hydration: float  # T2 signal of that disc's nucleus, 1 = young

    def half_extent(self) -> float:
        """Half the side of the smallest square (mm) around the body on a sagittal slice."""
        cosine, sine = np.cos(self.tilt), abs(np.sin(self.tilt))
        depth = self.half_depth + max(self.bulge_front, self.bulge_back) / 2
        return float(max(depth * cosine + self.half_height * sine, self.half_height * cosine + depth * sine))


@dataclass(frozen=True)
class Ball:
    """An ellipsoid in patient axes (mm)."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """How the abnormal body's features look; positions in shares of the half body (-1 to 1)."""

    factor: Signal  # of the marrow's signal where tumour or oedema replaces it
    front_angle: float  # radians, direction of the edge of a diffuse change
    front_offset: float
    oedema_above: bool
    oedema_edge: float
    band_height: float
    band_slope: float
    patch: tuple[float, float]
    cleft_height: float
    nodules: tuple[tuple[float, float, float, float], ...]  # u, v, w in shares, radius in mm
    nodule_factor: Signal


@dataclass(frozen=True)
class Anatomy:
    """All that painting needs to know about one patient."""

    features: Features
    vertebrae: tuple[Vertebra, ...]
    lesion: Lesion
    masses: tuple[Ball, ...]
    metastases: tuple[Ball, ...]
    haemangiomas: tuple[Ball, ...]
    marrow: Signal
    marrow_spread: float  # of each vertebra's own signal
    mottle: float  # strength of fatty heterogeneity, grows with age
    tumour: Signal  # factor of the marrow's signal outside the abnormal body
    canal_half_depth: float
    conus: float  # z where the cord ends
    skin: float  # y of the skin of the back
    subcutaneous: float
    vessel_side: float  # x of the great vessel
    vessel_before: float  # its distance in front of the posterior wall
    vessel_radius: float
    fine_noise: Floats  # smooth unit-variance noise on a 3 mm lattice around the origin
    coarse_noise: Floats  # the same on a 12 mm lattice


def draw_anatomy(features: Features, generator: np.random.Generator) -> Anatomy:
    """One patient's anatomy; `features` decide which of the drawn abnormalities are kept."""
    age = generator.uniform()
    vertebrae = _draw_spine(features, age, generator)
    uniform = generator.uniform
    t2_factor = uniform(0.75, 0.9) if uniform() < 0.3 else uniform(1.15, 1.5)
    disease = Signal(uniform(0.5, 0.75), t2_factor)
    marrow = Signal(uniform(0.4, 0.85), uniform(0.35, 0.6))
    return Anatomy(
        features=features,
        vertebrae=vertebrae,
        lesion=_draw_lesion(disease, generator),
        masses=_draw_masses(vertebrae[ABNORMAL], generator),
        metastases=_draw_metastases(vertebrae, generator),
        haemangiomas=_draw_haemangiomas(vertebrae, generator),
        marrow=marrow,
        marrow_spread=uniform(0.02, 0.07),
        mottle=0.04 + 0.14 * age * uniform(),
        tumour=Signal(uniform(0.4, 0.6), uniform(1.3, 1.7)),
        canal_half_depth=uniform(7.0, 9.0),
        conus=uniform(-40, 60),
        skin=uniform(75, 100),
        subcutaneous=uniform(6, 22),
        vessel_side=uniform(-14, 14),
        vessel_before=uniform(48, 58),
        vessel_radius=uniform(5, 9),
        fine_noise=_draw_noise((32, 80, 100), generator),
        coarse_noise=_draw_noise((8, 20, 25), generator),
    )


def _draw_noise(shape: tuple[int, int, int], generator: np.random.Generator) -> Floats:
    noise = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), 0.7)
    return noise / noise.std()


def _draw_spine(features: Features, age: float, generator: np.random.Generator) -> tuple[Vertebra, ...]:
    uniform = generator.uniform
    count = 2 * ABNORMAL + 1
    size, slope = uniform(0.88, 1.12), uniform(0.005, 0.025)
    half_depths = size * 16.5 * (1 - slope * (np.arange(count) - ABNORMAL)) * uniform(0.97, 1.03, count)
    half_heights = half_depths * uniform(0.74, 0.84) * uniform(0.96, 1.04, count)
    discs = size * uniform(6, 9) * (1 - 0.25 * age) * uniform(0.75, 1.15, count)
    hydration = np.clip(uniform(0.2, 1.1, count) - 0.5 * age, 0.12, 1)
    osteophytes = np.where(uniform(size=count) < 0.5 * age, uniform(1.5, 3.5, count), 0)
    concavities = uniform(0.5, 2.0, count)
    normal_half_height = half_heights[ABNORMAL]
    wedge, crush, dent = uniform(0.35, 0.6), uniform(0.42, 0.68), uniform(0.25, 0.45)
    bulge, bulge_is_back = uniform(3.5, 6.5), uniform() < 0.7
    if features["entire_body_compression"]:
        half_heights[ABNORMAL] *= crush
    if features["central_concave_deformity"]:
        concavities[ABNORMAL] = dent * half_heights[ABNORMAL] + 1.5
    wedges = np.zeros(count)
    if features["anterior_wedge_deformity"]:
        wedges[ABNORMAL] = wedge
    kyphosis = 0.6 * np.arctan2(2 * normal_half_height * wedges[ABNORMAL], 2 * half_depths[ABNORMAL])
    tilts = np.radians(uniform(-10, 10) + uniform(1, 7) * (np.arange(count) - ABNORMAL))
    tilts[ABNORMAL + 1 :] -= kyphosis
    tilts[ABNORMAL] -= kyphosis / 3
    centres = _stack(half_heights, discs, tilts)
    centres[:, 0] = uniform(-4, 4) * (centres[:, 2] / 80) ** 2
    bulges = np.zeros((count, 2))
    if features["body_protrusion"]:
        bulges[ABNORMAL, int(bulge_is_back)] = bulge
    return tuple(
        Vertebra(
            centre=(float(centres[k, 0]), float(centres[k, 1]), float(centres[k, 2])),
            tilt=float(tilts[k]),
            half_depth=float(half_depths[k]),
            half_width=float(1.25 * half_depths[k]),
            half_height=float(half_heights[k]),
            wedge=float(wedges[k]),
            concavity=float(concavities[k]),
            bulge_front=float(bulges[k, 0]),
            bulge_back=float(bulges[k, 1]),
            osteophyte=float(osteophytes[k]),
            disc=float(discs[k]),
            hydration=float(hydration[k]),
        )
        for k in range(count)
    )


def _stack(half_heights: NDArray[np.float64], discs: NDArray[np.float64], tilts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres (vertebra, xyz) of bodies piled along the leaning axis, the abnormal one at the origin."""
    pitch = half_heights[:-1] + half_heights[1:] + discs[:-1]
    lean = (tilts[:-1] + tilts[1:]) / 2
    steps = pitch[:, None] * np.stack([np.zeros_like(lean), np.sin(lean), np.cos(lean)], axis=1)
    centres = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return centres - centres[ABNORMAL]


def _draw_lesion(disease: Signal, generator: np.random.Generator) -> Lesion:
    uniform = generator.uniform
    nodules = tuple(
        (uniform(-0.7, 0.7), uniform(-0.6, 0.6), uniform(-0.35, 0.35), uniform(3, 5.5)) for _ in range(4)
    )
    return Lesion(
        factor=disease,
        front_angle=uniform(-np.pi, np.pi),
        front_offset=uniform(0.45, 0.9),
        oedema_above=bool(uniform() < 0.7),
        oedema_edge=uniform(0.0, 0.3),
        band_height=uniform(-0.3, 0.5),
        band_slope=uniform(-0.25, 0.25),
        patch=(uniform(-0.5, 0.5), uniform(-0.4, 0.4)),
        cleft_height=uniform(0.1, 0.55),
        nodules=nodules,
        nodule_factor=Signal(uniform(0.4, 0.6), uniform(1.3, 1.7)),
    )


def _draw_masses(abnormal: Vertebra, generator: np.random.Generator) -> tuple[Ball, ...]:
    """An epidural mass behind the body, a paraspinal one in front, or both, clear of the tight box."""
    uniform = generator.uniform
    clear = 1.1 * abnormal.half_extent()
    behind, before = uniform(5, 7), uniform(7, 13)
    epidural = Ball((uniform(-4, 4), clear + behind, uniform(-6, 6)), (12, behind, uniform(14, 24)))
    paraspinal = Ball((uniform(-6, 6), -clear - before, uniform(-8, 8)), (16, before, uniform(14, 26)))
    where = uniform()
    return (epidural, paraspinal)[slice(int(where < 0.4), 2 - int(where > 0.7))]


def _draw_metastases(vertebrae: tuple[Vertebra, ...], generator: np.random.Generator) -> tuple[Ball, ...]:
    """One to three lesions in other bodies up to three levels away."""
    levels = generator.permutation(np.array([-3, -2, -1, 1, 2, 3]))[: generator.integers(1, 4)]
    return tuple(_ball_in_body(vertebrae[ABNORMAL + level], int(np.sign(level)), 7, 11, generator) for level in levels)


def _draw_haemangiomas(vertebrae: tuple[Vertebra, ...], generator: np.random.Generator) -> tuple[Ball, ...]:
    """Harmless round bright lesions, whatever the class."""
    levels = generator.permutation(np.array([-3, -2, -1, 1, 2, 3]))[: int(generator.uniform() < 0.3)]
    return tuple(_ball_in_body(vertebrae[ABNORMAL + level], int(np.sign(level)), 4, 8, generator) for level in levels)


def _ball_in_body(body: Vertebra, away: int, low: float, high: float, generator: np.random.Generator) -> Ball:
    """A ball inside a body, on its half away from the abnormal vertebra."""
    x, y, z = body.centre
    radius = generator.uniform(low, high)
    shift = generator.uniform(-0.5, 0.5) * body.half_depth
    return Ball((x + generator.uniform(-4, 4), y + shift, z + 4 * away), (radius * 1.3, radius, radius))
