"""Which imaging features a synthetic patient has and what three simulated readers call it.

Source of every frequency: Yeh et al., European Spine Journal 31(8):2022-2030, 2022, Tables 1 and 2.
"""

import numpy as np

MALIGNANT_PATIENTS, BENIGN_PATIENTS = 50, 140

# Table 1: patients with the feature, (of 140 benign, of 50 malignant): indexed by label.
TABLE_1: dict[str, tuple[int, int]] = {
    "absence_of_collapse": (3, 17),
    "anterior_wedge_deformity": (77, 7),
    "entire_body_compression": (54, 25),
    "central_concave_deformity": (59, 14),
    "homogeneous_marrow_signal": (48, 0),
    "intravertebral_dark_band": (37, 0),
    "marrow_oedema_band": (44, 2),
    "intravertebral_dark_patch": (14, 5),
    "fluid_or_necrotic_cleft": (8, 1),
    "diffuse_signal_change": (31, 44),
    "intravertebral_nodule": (0, 11),
    "body_protrusion": (19, 16),
    "epidural_or_paraspinal_mass": (1, 22),
    "pedicle_or_posterior_element_involvement": (0, 5),
    "coexisting_lesion_in_other_vertebra": (8, 39),
}

# Table 2: (patients called malignant of 50 malignant, patients called benign of 140 benign).
TABLE_2: dict[str, tuple[int, int]] = {
    "msk_radiologist": (47, 139),
    "resident_fourth_year": (47, 135),
    "resident_first_year": (39, 86),
}


MARROW = ("homogeneous_marrow_signal", "marrow_oedema_band", "diffuse_signal_change")
WITHIN_MARROW = ("intravertebral_dark_band", "intravertebral_dark_patch", "fluid_or_necrotic_cleft")
NOT_HOMOGENEOUS = ("absence_of_collapse", *WITHIN_MARROW, "intravertebral_nodule")
SHAPES = ("anterior_wedge_deformity", "entire_body_compression")
CONCAVE = "central_concave_deformity"


def draw_features(label: int, generator: np.random.Generator) -> dict[str, bool]:
    """The 15 features of one patient (label 1 = malignant), each with its class's frequency in Table 1.

    Features are independent, except where two would contradict each other: docs/phantom.md, "Contradictions".
    """
    total = (BENIGN_PATIENTS, MALIGNANT_PATIENTS)[label]
    count = {name: counts[label] for name, counts in TABLE_1.items()}
    uniform = dict(zip(TABLE_1, generator.random(len(TABLE_1)), strict=True))

    def one_of(names: tuple[str, ...], total: int) -> dict[str, bool]:
        """At most one of `names`, each with frequency count/total."""
        chosen = np.searchsorted(np.cumsum([count[name] for name in names]), uniform[names[0]] * total, side="right")
        return {name: index == chosen for index, name in enumerate(names)}

    present = {name: bool(uniform[name] * total < count[name]) for name in TABLE_1} | one_of(MARROW, total)
    for name in NOT_HOMOGENEOUS:
        heterogeneous = total - count[MARROW[0]]
        present[name] = not present[MARROW[0]] and bool(uniform[name] * heterogeneous < count[name])
    collapsed = total - count["absence_of_collapse"]
    present |= one_of(SHAPES, collapsed)
    shaped = sum(count[name] for name in SHAPES)
    also_concave = uniform[CONCAVE] * shaped < count[CONCAVE] - (collapsed - shaped)
    present[CONCAVE] = bool(also_concave) or not any(present[name] for name in SHAPES)
    if present["absence_of_collapse"]:
        present |= dict.fromkeys((*SHAPES, CONCAVE), False)
    return present


def draw_calls(label: int, generator: np.random.Generator) -> dict[str, int]:
    """What each simulated reader calls a patient (1 = malignant), with Table 2's sensitivity and specificity."""
    total = (BENIGN_PATIENTS, MALIGNANT_PATIENTS)[label]
    shares = {reader: right[1 - label] / total for reader, right in TABLE_2.items()}
    return {reader: label if generator.random() < share else 1 - label for reader, share in shares.items()}
