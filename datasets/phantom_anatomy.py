"""What one synthetic patient's spine is like: every random decision, drawn apart from painting.

Lengths are mm, in DICOM patient coordinates about the abnormal vertebra: x to the left, y to the back, z to the head.
Every number is drawn whether the patient has the feature or not, so a feature changes the picture only where it shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]
Signal = tuple[float, float]
"""Relative signal on T1W and on T2W, or a factor of it."""
Vertebra = SimpleNamespace
"""Its centre, and the numbers of `_draw_spine`."""
Place = tuple[Triple, Triple]
"""Centre and radii of an ellipsoid along the patient axes."""
ABNORMAL = 5  # index of the abnormal vertebra among the eleven drawn
MASS = (0.3, 0.55)

# Each number lies between lowest and highest and is drawn in this order; of two the first is T1W's, the second T2W's.
LESION = {  # of the abnormal body; places in shares of the half body (-1 to 1)
    "level": ((0.8, 0.85), (1.1, 1.2)),  # factor of the whole body's marrow: old fractures turn fatty or sclerotic
    "disease_t1": (0.45, 0.7),  # factor of that in a diffuse change or oedema
    "darkness": (0, 1),
    "disease_t2": (0, 1),
    "front_angle": (-np.pi, np.pi),  # radians; direction of the edge of a diffuse change
    "front_offset": (0.45, 0.9),
    "oedema_side": (0, 1),
    "oedema_edge": (0, 0.3),
    "band_height": (-0.3, 0.5),
    "band_slope": (-0.25, 0.25),
    "patch": ((-0.5, -0.4), (0.5, 0.4)),  # u, v
    "cleft_height": (0.1, 0.55),
    "nodules": ([(-0.7, -0.6, -0.35, 3)] * 4, [(0.7, 0.6, 0.35, 5.5)] * 4),  # u, v, w, and the radius in mm
    "nodule": ((0.4, 1.3), (0.6, 1.7)),  # factor
}
BODY = {
    "marrow": ((0.5, 0.3), (0.85, 0.5)),
    "marrow_spread": (0.02, 0.07),  # relative difference between vertebrae
    "mottle": (0, 1),  # fatty heterogeneity
    "tumour": ((0.35, 1.5), (0.5, 1.9)),  # factor of the marrow's signal outside the abnormal body
    "canal_half_depth": (7, 9),
    "conus": (-40, 60),  # z where the cord ends
    "skin": (75, 100),  # y of the skin of the back
    "subcutaneous": (6, 22),
    "vessel_side": (-14, 14),  # x of the great vessel
    "vessel_before": (48, 58),  # its distance in front of the backs of the bodies
    "vessel_radius": (5, 9),
}


class Ball(NamedTuple):
    """An ellipsoid along the patient axes (mm), all of one signal."""

    centre: Triple
    radii: Triple
    signal: Signal


@dataclass(frozen=True)
class Anatomy:
    """All that painting needs to know about one patient."""

    features: dict[str, bool]
    vertebrae: tuple[Vertebra, ...]
    lesion: SimpleNamespace  # the numbers of LESION
    body: SimpleNamespace  # and of BODY
    balls: list[Ball]  # in other bodies and in soft tissue, in the order of painting
    fine_noise: Floats  # smooth noise of unit variance on a 3 mm lattice around the spine
    coarse_noise: Floats  # on a 12 mm lattice


def draw_anatomy(features: dict[str, bool], generator: np.random.Generator) -> Anatomy:
    """One patient's anatomy; `features` decide which of the drawn abnormalities are kept."""
    age = generator.uniform()  # 0 young, 1 old
    vertebrae = _draw_spine(features, age, generator)
    lesion = _draw_numbers(LESION, generator)
    # A fifth of the diseased marrow is dark on T2W too, so that brightness alone tells little.
    darkest, brightest = (0.7, 0.85) if lesion.darkness < 0.2 else (1.2, 1.6)
    lesion.disease = (lesion.disease_t1, darkest + (brightest - darkest) * lesion.disease_t2)
    masses = _draw_masses(vertebrae[ABNORMAL], generator)
    metastases = _draw_in_other_bodies(vertebrae, int(generator.integers(2, 5)), (7, 10), generator)
    haemangiomas = _draw_in_other_bodies(vertebrae, int(generator.uniform() < 0.15), (4, 7), generator)
    body = _draw_numbers(BODY, generator)
    body.mottle = 0.04 + 0.14 * age * body.mottle
    (t1, t2), (dark, bright) = body.marrow, body.tumour
    balls = [Ball(*place, (max(1.2 * t1, 0.72), max(1.2 * t2, 0.72))) for place in haemangiomas]  # whatever the class
    if features["epidural_or_paraspinal_mass"]:
        balls += [Ball(*place, MASS) for place in masses]
    if features["coexisting_lesion_in_other_vertebra"]:
        balls += [Ball(*place, (t1 * dark, t2 * bright)) for place in metastases]
    noise = [_draw_noise(shape, generator) for shape in ((32, 80, 100), (8, 20, 25))]
    return Anatomy(features, vertebrae, lesion, body, balls, *noise)


def half_extent(body: Vertebra) -> float:
    """Half the side of the smallest square around the body on a sagittal slice."""
    cosine, sine = np.cos(body.tilt), abs(np.sin(body.tilt))
    depth = body.half_depth + max(body.bulge_front, body.bulge_back) / 2
    return float(max(depth * cosine + body.half_height * sine, body.half_height * cosine + depth * sine))


def _draw_numbers(spans: Mapping[str, tuple[Any, Any]], generator: np.random.Generator) -> SimpleNamespace:
    return SimpleNamespace(**{name: np.asarray(generator.uniform(*span)).tolist() for name, span in spans.items()})


def _draw_noise(shape: tuple[int, int, int], generator: np.random.Generator) -> Floats:
    noise = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), 0.7)
    return np.asarray(noise / noise.std(), np.float32)


def _draw_spine(features: dict[str, bool], age: float, generator: np.random.Generator) -> tuple[Vertebra, ...]:
    """Eleven vertebrae from below, the abnormal one in the middle with its collapse.

    In their own axes u points to the back (depth), v to the head (height), w to the left (width).
    """
    uniform, count = generator.uniform, 2 * ABNORMAL + 1
    level = np.arange(count) - ABNORMAL
    size, slope = uniform(0.88, 1.12), uniform(0.005, 0.025)
    depths = size * 16.5 * (1 - slope * level) * uniform(0.97, 1.03, count)
    heights = depths * uniform(0.74, 0.84) * uniform(0.96, 1.04, count)
    values = {
        "half_depth": depths,
        "half_height": heights,
        "half_width": 1.25 * depths,
        "concavity": uniform(0.5, 2, count),  # depth of the dent in either endplate
        "osteophyte": np.where(uniform(size=count) < 0.5 * age, uniform(1.5, 3.5, count), 0),  # radius, 0 for none
        "disc": size * uniform(6, 9) * (1 - 0.25 * age) * uniform(0.75, 1.15, count),  # height of the disc above
        "hydration": np.clip(
            uniform(0.2, 1.1, count) - 0.5 * age, 0.12, 1
        ),  # T2 signal of its nucleus: 1 young, 0 black
        # Thickness of degenerated marrow along the upper endplate, 0 for none.
        "endplate_change": np.where(uniform(size=count) < uniform(0, 0.6), uniform(3, 6, count), 0),
        "tilt": np.radians(uniform(-7, 7) + uniform(1, 5) * level),  # about x; positive leans the head end back
        **{name: np.zeros(count) for name in ("wedge", "bulge_front", "bulge_back")},  # wedge: share of the height
    }
    scoliosis = uniform(-4, 4)
    collapse = _draw_collapse(float(heights[ABNORMAL]), features, generator)
    kyphosis = np.arctan2(heights[ABNORMAL] * collapse.get("wedge", 0.0), depths[ABNORMAL])
    for name, value in collapse.items():
        values[name][ABNORMAL] = value
    values["tilt"] -= kyphosis * np.select([level > 0, level == 0], [0.6, 0.2])
    centres = _stack(heights, values["disc"], values["tilt"])
    centres[:, 0] = scoliosis * (centres[:, 2] / 80) ** 2
    return tuple(
        Vertebra(centre=tuple(centre.tolist()), **{name: float(value[k]) for name, value in values.items()})
        for k, centre in enumerate(centres)
    )


def _draw_collapse(height: float, features: dict[str, bool], generator: np.random.Generator) -> dict[str, float]:
    """What the features change of the abnormal body of this half height."""
    uniform = generator.uniform
    wedge, crush, dent, bulge = uniform(0.35, 0.55), uniform(0.42, 0.68), uniform(0.25, 0.45), uniform(3.5, 6.5)
    wall = "bulge_back" if uniform() < 0.7 else "bulge_front"
    left = height * crush if features["entire_body_compression"] else height
    changes = {
        "entire_body_compression": ("half_height", left),
        "anterior_wedge_deformity": ("wedge", wedge),
        "central_concave_deformity": ("concavity", 1.5 + dent * left),
        "body_protrusion": (wall, bulge),
    }
    return dict(change for feature, change in changes.items() if features[feature])


def _stack(heights: NDArray[np.float64], discs: NDArray[np.float64], tilts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres (vertebra, xyz) of bodies piled along the leaning axis, the abnormal one at the origin."""
    pitch, lean = heights[:-1] + heights[1:] + discs[:-1], (tilts[:-1] + tilts[1:]) / 2
    steps = pitch[:, None] * np.stack([np.zeros_like(lean), np.sin(lean), np.cos(lean)], axis=1)
    centres = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return np.asarray(centres - centres[ABNORMAL])


def _draw_masses(abnormal: Vertebra, generator: np.random.Generator) -> list[Place]:
    """An epidural mass behind the body, a paraspinal one in front, or both, clear of the tight box."""
    uniform, clear = generator.uniform, 1.1 * half_extent(abnormal)
    behind, before, where = uniform(6, 8), uniform(8, 13), uniform()
    epidural = (uniform(-4, 4), clear + behind, uniform(-6, 6)), (12.0, behind, uniform(14, 24))
    paraspinal = (uniform(-6, 6), -clear - before, uniform(-8, 8)), (16.0, before, uniform(14, 26))
    return [epidural, paraspinal][int(where < 0.2) : 2 - int(where > 0.8)]


def _draw_in_other_bodies(
    vertebrae: tuple[Vertebra, ...], count: int, radii: tuple[float, float], generator: np.random.Generator
) -> list[Place]:
    """Balls in `count` other bodies up to three levels away, clear of the tight box."""
    uniform, near = generator.uniform, [0.03, 0.05, 0.42, 0.42, 0.05, 0.03]
    clear = 1.1 * half_extent(vertebrae[ABNORMAL])
    balls: list[Place] = []
    for level in generator.choice([-3, -2, -1, 1, 2, 3], 4, replace=False, p=near):
        body, radius = vertebrae[ABNORMAL + level], uniform(*radii)
        x, y, z = body.centre
        z = max(z, clear + radius) if level > 0 else min(z, -clear - radius)
        place = (x + uniform(-4, 4), y + uniform(-0.5, 0.5) * body.half_depth, z)
        balls.append((place, (1.3 * radius, radius, radius)))
    return balls[:count]
