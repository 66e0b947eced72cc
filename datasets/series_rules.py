"""How a series' contrast is told from its headers: the rules that conf/data holds, applied inside the reader."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Weighting = Literal["T1W", "T2W"]
Trait = Literal["contrast-enhanced", "fat-suppressed", "localizer"]
Milliseconds = Annotated[float, Field(ge=0)]

_NO_AGENT = re.compile(r"\W*|(no|non|none|nil|n/?a|without|ohne|keine?|sin|sans)\b.*|0(\.0*)?( ?ml)?")
_DENIED = re.compile(r"(?<![a-z])(non?|w/?o|without|ohne|sin|sans|senza)[\W_]*[a-z]+([\W_]*(sat\w*|supp?\w*))?")
_BEFORE = re.compile(r"(?<![a-z])(pre|vor)[\W_]*(?!post)[a-z]+")


def _within(time: float | None, span: tuple[float, float]) -> bool:
    return time is not None and span[0] <= time <= span[1]


class WeightingRule(BaseModel):
    """Spin-echo times (lowest, highest), and how descriptions name the weighting where the times do not decide."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    repetition_time: tuple[Milliseconds, Milliseconds]
    echo_time: tuple[Milliseconds, Milliseconds]
    description: re.Pattern[str]


class SeriesRules(BaseModel):
    """conf/data holds values that suit 1.5 T and 3 T; the patterns are searched for in the lower-case description.

    Those of the traits are searched for in ScanOptions and ImageType too; what follows "no", "pre" and the like, in
    several languages, is left out of the search.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    t1w: WeightingRule
    t2w: WeightingRule
    neither: re.Pattern[str]
    contrast_enhanced: re.Pattern[str]
    fat_suppressed: re.Pattern[str]
    localizer: re.Pattern[str]
    stir_inversion_time: tuple[Milliseconds, Milliseconds]

    def weighting(self, repetition_time: float | None, echo_time: float | None, description: str) -> Weighting | None:
        """By repetition and echo time (ms); by the description only where they do not decide."""
        description = description.lower()
        if self.neither.search(description):
            return None
        rules: dict[Weighting, WeightingRule] = {"T1W": self.t1w, "T2W": self.t2w}
        for weighting, rule in rules.items():
            if _within(repetition_time, rule.repetition_time) and _within(echo_time, rule.echo_time):
                return weighting
        described = [weighting for weighting, rule in rules.items() if rule.description.search(description)]
        return described[0] if len(described) == 1 else None

    def traits(self, text: str, contrast_agent: str, inversion_time: float | None) -> frozenset[Trait]:
        """By description and scan options, contrast agent, and inversion time (ms) of an inversion recovery."""
        text = _DENIED.sub(" ", text.lower())
        agent = not _NO_AGENT.fullmatch(contrast_agent.lower())
        short_inversion = _within(inversion_time, self.stir_inversion_time)
        found: dict[Trait, object] = {
            "contrast-enhanced": agent or self.contrast_enhanced.search(_BEFORE.sub(" ", text)),
            "fat-suppressed": short_inversion or self.fat_suppressed.search(text),
            "localizer": self.localizer.search(text),
        }
        return frozenset(trait for trait, sign in found.items() if sign)
