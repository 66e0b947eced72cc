"""What one synthetic patient's spine is like: every random decision, drawn apart from painting.

Lengths are mm, in DICOM patient coordinates about the abnormal vertebra: x to the left, y to the back, z to the head.
Every number is drawn whether the patient has the feature or not, so a feature changes the picture only where it shows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]
ABNORMAL = 5  # index of the abnormal vertebra among the eleven drawn


class Signal(NamedTuple):
    """Relative signal on the two contrasts, or a factor of it."""

    t1: float
    t2: float


class Ball(NamedTuple):
    """An ellipsoid along the patient axes (mm)."""

    centre: Triple
    radii: Triple


@dataclass(frozen=True)
class Vertebra:
    """A vertebral body in its own axes: u to the back, v to the head, w to the left (mm)."""

    centre: Triple
    tilt: float  # radians about x; positive leans the head end back
    half_depth: float
    half_height: float
    wedge: float  # share of the height lost at the front
    concavity: float  # depth of the dent in either endplate
    bulge_front: float
    bulge_back: float
    osteophyte: float  # radius, 0 for none
    disc: float  # height of the disc above
    hydration: float  # T2 signal of that disc's nucleus: 1 young, 0 black
    endplate_change: float  # thickness of degenerated marrow along the upper endplate, 0 for none

    @property
    def half_width(self) -> float:
        return 1.25 * self.half_depth

    def half_extent(self) -> float:
        """Half the side of the smallest square around the body on a sagittal slice."""
        cosine, sine = np.cos(self.tilt), abs(np.sin(self.tilt))
        depth = self.half_depth + max(self.bulge_front, self.bulge_back) / 2
        return float(max(depth * cosine + self.half_height * sine, self.half_height * cosine + depth * sine))


@dataclass(frozen=True)
class Lesion:
    """How the abnormal body's features look; positions in shares of the half body (-1 to 1)."""

    level: Signal  # factor of the whole body's marrow signal: old fractures turn fatty or sclerotic
    disease: Signal  # factor of that in a diffuse change or oedema
    front_angle: float  # radians; direction of the edge of a diffuse change
    front_offset: float
    oedema_side: int  # 1 under the upper endplate, -1 over the lower
    oedema_edge: float
    band_height: float
    band_slope: float
    patch: tuple[float, float]
    cleft_height: float
    nodules: tuple[tuple[float, float, float, float], ...]  # u, v, w in shares, radius in mm
    nodule: Signal  # factor


@dataclass(frozen=True)
class Anatomy:
    """All that painting needs to know about one patient."""

    features: dict[str, bool]
    vertebrae: tuple[Vertebra, ...]
    lesion: Lesion
    masses: tuple[Ball, ...]
    metastases: tuple[Ball, ...]
    haemangiomas: tuple[Ball, ...]  # harmless bright balls, whatever the class
    marrow: Signal
    marrow_spread: float  # relative difference between vertebrae
    mottle: float  # fatty heterogeneity, grows with age
    tumour: Signal  # factor of the marrow's signal outside the abnormal body
    canal_half_depth: float
    conus: float  # z where the cord ends
    skin: float  # y of the skin of the back
    subcutaneous: float
    vessel_side: float  # x of the great vessel
    vessel_before: float  # its distance in front of the backs of the bodies
    vessel_radius: float
    fine_noise: Floats  # smooth noise of unit variance on a 3 mm lattice around the spine
    coarse_noise: Floats  # on a 12 mm lattice


def draw_anatomy(features: dict[str, bool], generator: np.random.Generator) -> Anatomy:
    """One patient's anatomy; `features` decide which of the drawn abnormalities are kept."""
    uniform = generator.uniform
    age = uniform()  # 0 young, 1 old
    vertebrae = _draw_spine(features, age, generator)
    abnormal = vertebrae[ABNORMAL]
    return Anatomy(
        features=features,
        vertebrae=vertebrae,
        lesion=_draw_lesion(generator),
        masses=_draw_masses(abnormal, generator),
        metastases=_draw_in_other_bodies(vertebrae, int(generator.integers(2, 5)), (7, 10), generator),
        haemangiomas=_draw_in_other_bodies(vertebrae, int(uniform() < 0.15), (4, 7), generator),
        marrow=Signal(uniform(0.5, 0.85), uniform(0.3, 0.5)),
        marrow_spread=uniform(0.02, 0.07),
        mottle=0.04 + 0.14 * age * uniform(),
        tumour=Signal(uniform(0.35, 0.5), uniform(1.5, 1.9)),
        canal_half_depth=uniform(7, 9),
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
    return np.asarray(noise / noise.std(), np.float32)


def _draw_spine(features: dict[str, bool], age: float, generator: np.random.Generator) -> tuple[Vertebra, ...]:
    """Eleven vertebrae from below, the abnormal one in the middle with its collapse."""
    uniform, count = generator.uniform, 2 * ABNORMAL + 1
    level = np.arange(count) - ABNORMAL
    size, slope = uniform(0.88, 1.12), uniform(0.005, 0.025)
    depths = size * 16.5 * (1 - slope * level) * uniform(0.97, 1.03, count)
    heights = depths * uniform(0.74, 0.84) * uniform(0.96, 1.04, count)
    values = {
        "half_depth": depths,
        "half_height": heights,
        "wedge": np.zeros(count),
        "concavity": uniform(0.5, 2, count),
        "bulge_front": np.zeros(count),
        "bulge_back": np.zeros(count),
        "osteophyte": np.where(uniform(size=count) < 0.5 * age, uniform(1.5, 3.5, count), 0),
        "disc": size * uniform(6, 9) * (1 - 0.25 * age) * uniform(0.75, 1.15, count),
        "hydration": np.clip(uniform(0.2, 1.1, count) - 0.5 * age, 0.12, 1),
        "endplate_change": np.where(uniform(size=count) < uniform(0, 0.6), uniform(3, 6, count), 0),
        "tilt": np.radians(uniform(-7, 7) + uniform(1, 5) * level),
    }
    scoliosis = uniform(-4, 4)
    kyphosis = _collapse(values, features, generator)
    values["tilt"] -= kyphosis * np.select([level > 0, level == 0], [0.6, 0.2])
    centres = _stack(heights, values["disc"], values["tilt"])
    centres[:, 0] = scoliosis * (centres[:, 2] / 80) ** 2
    return tuple(
        Vertebra(tuple(centre.tolist()), **{name: float(value[k]) for name, value in values.items()})
        for k, centre in enumerate(centres)
    )


def _collapse(
    values: dict[str, NDArray[np.float64]], features: dict[str, bool], generator: np.random.Generator
) -> float:
    """Deform the abnormal body in `values` as its features say; the angle (radians) that its wedge adds."""
    uniform = generator.uniform
    wedge, crush, dent, bulge = uniform(0.35, 0.55), uniform(0.42, 0.68), uniform(0.25, 0.45), uniform(3.5, 6.5)
    wall = "bulge_back" if uniform() < 0.7 else "bulge_front"
    height = float(values["half_height"][ABNORMAL])
    if features["entire_body_compression"]:
        values["half_height"][ABNORMAL] *= crush
    if features["central_concave_deformity"]:
        values["concavity"][ABNORMAL] = 1.5 + dent * values["half_height"][ABNORMAL]
    if features["body_protrusion"]:
        values[wall][ABNORMAL] = bulge
    if not features["anterior_wedge_deformity"]:
        return 0.0
    values["wedge"][ABNORMAL] = wedge
    return float(np.arctan2(height * wedge, values["half_depth"][ABNORMAL]))


def _stack(heights: NDArray[np.float64], discs: NDArray[np.float64], tilts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres (vertebra, xyz) of bodies piled along the leaning axis, the abnormal one at the origin."""
    pitch, lean = heights[:-1] + heights[1:] + discs[:-1], (tilts[:-1] + tilts[1:]) / 2
    steps = pitch[:, None] * np.stack([np.zeros_like(lean), np.sin(lean), np.cos(lean)], axis=1)
    centres = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return np.asarray(centres - centres[ABNORMAL])


def _draw_lesion(generator: np.random.Generator) -> Lesion:
    uniform = generator.uniform
    return Lesion(
        level=Signal(uniform(0.8, 1.1), uniform(0.85, 1.2)),
        # A fifth of the diseased marrow is dark on T2W too, so that brightness alone tells little.
        disease=Signal(uniform(0.45, 0.7), uniform(0.7, 0.85) if uniform() < 0.2 else uniform(1.2, 1.6)),
        front_angle=uniform(-np.pi, np.pi),
        front_offset=uniform(0.45, 0.9),
        oedema_side=1 if uniform() < 0.7 else -1,
        oedema_edge=uniform(0, 0.3),
        band_height=uniform(-0.3, 0.5),
        band_slope=uniform(-0.25, 0.25),
        patch=(uniform(-0.5, 0.5), uniform(-0.4, 0.4)),
        cleft_height=uniform(0.1, 0.55),
        nodules=tuple(
            (uniform(-0.7, 0.7), uniform(-0.6, 0.6), uniform(-0.35, 0.35), uniform(3, 5.5)) for _ in range(4)
        ),
        nodule=Signal(uniform(0.4, 0.6), uniform(1.3, 1.7)),
    )


def _draw_masses(abnormal: Vertebra, generator: np.random.Generator) -> tuple[Ball, ...]:
    """An epidural mass behind the body, a paraspinal one in front, or both, clear of the tight box."""
    uniform, clear = generator.uniform, 1.1 * abnormal.half_extent()
    behind, before, where = uniform(6, 8), uniform(8, 13), uniform()
    epidural = Ball((uniform(-4, 4), clear + behind, uniform(-6, 6)), (12, behind, uniform(14, 24)))
    paraspinal = Ball((uniform(-6, 6), -clear - before, uniform(-8, 8)), (16, before, uniform(14, 26)))
    return (epidural, paraspinal)[int(where < 0.2) : 2 - int(where > 0.8)]


def _draw_in_other_bodies(
    vertebrae: tuple[Vertebra, ...], count: int, radii: tuple[float, float], generator: np.random.Generator
) -> tuple[Ball, ...]:
    """Balls in `count` other bodies up to three levels away, clear of the tight box."""
    uniform, near = generator.uniform, [0.03, 0.05, 0.42, 0.42, 0.05, 0.03]
    clear = 1.1 * vertebrae[ABNORMAL].half_extent()
    balls = []
    for level in generator.choice([-3, -2, -1, 1, 2, 3], 4, replace=False, p=near):
        body, radius = vertebrae[ABNORMAL + level], uniform(*radii)
        x, y, z = body.centre
        z = max(z, clear + radius) if level > 0 else min(z, -clear - radius)
        place = (x + uniform(-4, 4), y + uniform(-0.5, 0.5) * body.half_depth, z)
        balls.append(Ball(place, (1.3 * radius, radius, radius)))
    return tuple(balls[:count])
