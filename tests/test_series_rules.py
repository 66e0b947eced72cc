"""Contrast told from times and descriptions, as hospitals write them."""

import pytest
from pydantic import ValidationError

from datasets.series_rules import SeriesRules
from tests.mr_files import SERIES_RULES


@pytest.mark.parametrize(
    ("repetition_time", "echo_time", "description", "expected"),
    [
        (400, 15, "", "T1W"),
        (3200, 90, "", "T2W"),
        (400, 15, "SAG T2 misnamed", "T1W"),
        (3200, 90, "t1", "T2W"),
        (None, 15, "COL RACHIS SAG_T1", "T1W"),
        (2000, 10, "sag T1w FLAIR", "T1W"),
        (2200, 24, "T1 FLAIR SAG", "T1W"),
        (2000, 30, "PD", None),
        (8000, 900, "", None),  # myelography
        (600, 18, "T2* SAG", None),
        (500, 20, "t2_medic_sag", None),
    ],
)
def test_timing_decides_before_description(
    repetition_time: float | None, echo_time: float | None, description: str, expected: str | None
) -> None:
    assert SERIES_RULES.weighting(repetition_time, echo_time, description) == expected


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("SAG T1", "T1W"),
        ("t1_tse_sag", "T1W"),
        ("sT1W_TSE", "T1W"),
        ("SAGT1", "T1W"),
        ("T1WI sag", "T1W"),
        ("T1w SE sagittal nativ", "T1W"),
        ("RACHIS LOMBAIRE SAG T1 SE", "T1W"),
        ("矢状断 T1強調", "T1W"),
        ("4-T1_SAG", "T1W"),
        ("SAG MPRAGE 220 FOV", "T1W"),
        ("Sag T2 FSE", "T2W"),
        ("sT2W_TSE", "T2W"),
        ("T2FRFSE SAG", "T2W"),
        ("t2_tse_sag_384", "T2W"),
        ("SAG FSE T2", "T2W"),
        ("Columna lumbar SAG T2 TSE", "T2W"),
        ("C7-T1 T2 SAG", "T2W"),
        ("T1 and T2", None),
        ("at1 T10 T12 level", None),
        ("T1-T12 SAG", None),
        ("T2* GRE SAG", None),
        ("t2 star", None),
        ("T2 map", None),
        ("ADC T2", None),
        ("t2_tse_dixon_sag_F", None),
        ("", None),
    ],
)
def test_descriptions_tell_the_weighting_where_times_are_missing(description: str, expected: str | None) -> None:
    assert SERIES_RULES.weighting(None, None, description) == expected


CONTRAST, FAT, LOCALIZER = "contrast-enhanced", "fat-suppressed", "localizer"


TEXTS = [
    (set(), "SAG T1; t2_tse_sag FC; T2 FSE SAG; T2 FRFSE; T1 pre Gd; T1 nativ; T1 w/o contrast; SAG T1 NON FAT SAT"),
    (set(), "T1 ohne KM; T1 sans injection; T2 post op; AX T2 T+C SPINE; SAG T1 no fs; T1 NORM DIS2D; SAG T2 Lateral"),
    ({CONTRAST}, "T1 post Gd; SAG T1 +C; T1 tse sag KM; t1_tse_sag_post; T1 GADO SAG; SAG T1 C+; T1 nach Kontrast"),
    (
        {CONTRAST},
        "T1 con contraste; T1 CE sag; 造影T1; SAG T1 pre/post; T1+C; SAG T1 apres injection; T1 Post Contrast",
    ),
    ({FAT}, "T2_TSE_SAG_FS; SAG T2 FAT SAT; T2fs sag; SAG STIR; t2_tirm_sag; T2 SPAIR; sT2W_SPIR; T1 fatsat; FS"),
    ({FAT}, "SAG T2 sat graisse; t2_tse_dixon_sag_W; T2 脂肪抑制; Ax T2 IDEAL Water; T1 pre FS; T2 fat suppressed"),
    ({FAT}, "T2 supr grasa"),
    ({CONTRAST, FAT}, "SAG T1 FS +C; t1_tse_fs_sag_km; T1 FS POST GAD; T1 STIR post Gd"),
    (
        {LOCALIZER},
        "LOC; 3-PL LOC; haste_loc; Localizer; Lokalizer; Survey; Scout; localizador; AASpine_Scout; repérage",
    ),
    ({LOCALIZER}, "M LOCALIZER; SmartSurvey"),
]


@pytest.mark.parametrize(("text", "expected"), [(text, kind) for kind, texts in TEXTS for text in texts.split("; ")])
def test_descriptions_tell_the_traits(text: str, expected: set[str]) -> None:
    assert SERIES_RULES.traits(text, "", None) == expected


@pytest.mark.parametrize(
    ("agent", "expected"),
    [("Gadovist 7 ml", True), ("DOTAREM", True), ("", False), ("NONE", False), ("no contrast", False), ("0 ml", False)],
)
def test_a_named_agent_is_contrast(agent: str, expected: bool) -> None:
    assert (SERIES_RULES.traits("SAG T1", agent, None) == {CONTRAST}) is expected


@pytest.mark.parametrize(("inversion_time", "expected"), [(160, {FAT}), (220, {FAT}), (900, set()), (None, set())])
def test_a_short_inversion_time_suppresses_fat(inversion_time: float | None, expected: set[str]) -> None:
    assert SERIES_RULES.traits("", "", inversion_time) == expected


def test_rules_can_be_changed_and_broken_patterns_are_named() -> None:
    rules = SeriesRules(**(SERIES_RULES.model_dump() | {"localizer": r"\bebene\b"}))
    assert rules.traits("Ebene 1", "", None) == {LOCALIZER}
    assert rules.traits("LOC", "", None) == set()
    with pytest.raises(ValidationError, match=r"localizer[\s\S]*regular expression"):
        SeriesRules(**(SERIES_RULES.model_dump() | {"localizer": "("}))
