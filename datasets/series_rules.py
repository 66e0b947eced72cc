"""How a series' contrast is told from its headers: the rules that conf/data holds, applied inside the reader."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Weighting = Literal["T1W", "T2W"]
Trait = Literal["contrast-enhanced", "fat-suppressed", "localizer"]
Milliseconds = Annotated[float, Field(ge=0)]

_NO_AGENT = re.compile(r"\W*|(no|non|none|nil|n/?a|without|ohne|keine?|sin|sans)\b.*|0(\.0*)?( ?ml)?")
_DENIED = re.compile(r"(?<![a-z])(non?|w/?o|without|ohne|sin|sans|senza)[\W_]*[a-z]+([\W_]*(sat\w*|supp?\w*))?")
_BEFORE = re.compile(r"(?<![a-z])(pre|vor)[\W_]*(?!post)[a-z]+")


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_regular_expression)]
"""A regular expression that is searched for in lower-case text."""


class WeightingRule(BaseModel):
    """Spin-echo times (lowest, highest), and how descriptions name the weighting where the times do not decide."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    repetition_time: tuple[Milliseconds, Milliseconds]
    echo_time: tuple[Milliseconds, Milliseconds]
    description: Pattern

    def holds(self, repetition_time: float, echo_time: float) -> bool:
        return (
            self.repetition_time[0] <= repetition_time <= self.repetition_time[1]
            and self.echo_time[0] <= echo_time <= self.echo_time[1]
        )


class SeriesRules(BaseModel):
    """conf/data holds values that suit 1.5 T and 3 T; the patterns are searched for in the lower-case description.

    Those of the traits are searched for in ScanOptions and ImageType too; what follows "no", "pre" and the like, in
    several languages, is left out of the search.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    t1w: WeightingRule
    t2w: WeightingRule
    neither: Pattern
    contrast_enhanced: Pattern
    fat_suppressed: Pattern
    localizer: Pattern
    stir_inversion_time: tuple[Milliseconds, Milliseconds]

    def weighting(self, repetition_time: float | None, echo_time: float | None, description: str) -> Weighting | None:
        """By repetition and echo time (ms); by the description only where they do not decide."""
        description = description.lower()
        if re.search(self.neither, description):
            return None
        if repetition_time is not None and echo_time is not None:
            if self.t1w.holds(repetition_time, echo_time):
                return "T1W"
            if self.t2w.holds(repetition_time, echo_time):
                return "T2W"
        t1, t2 = (bool(re.search(rule.description, description)) for rule in (self.t1w, self.t2w))
        if t1 == t2:
            return None
        return "T1W" if t1 else "T2W"

    def traits(self, text: str, contrast_agent: str, inversion_time: float | None) -> frozenset[Trait]:
        """By description and scan options, contrast agent, and inversion time (ms) of an inversion recovery."""
        text = _DENIED.sub(" ", text.lower())
        found: set[Trait] = set()
        if not _NO_AGENT.fullmatch(contrast_agent.lower()) or re.search(self.contrast_enhanced, _BEFORE.sub(" ", text)):
            found.add("contrast-enhanced")
        shortest, longest = self.stir_inversion_time
        short_inversion = inversion_time is not None and shortest <= inversion_time <= longest
        if short_inversion or re.search(self.fat_suppressed, text):
            found.add("fat-suppressed")
        if re.search(self.localizer, text):
            found.add("localizer")
        return frozenset(found)
