"""How a series' contrast is told from its headers: the rules that conf/data holds, applied inside the reader."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Weighting = Literal["T1W", "T2W"]
Trait = Literal["contrast-enhanced", "fat-suppressed", "localizer"]
Milliseconds = Annotated[float, Field(ge=0)]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_regular_expression)]
"""A regular expression that is searched for in the lower-case series description."""


class WeightingRule(BaseModel):
    """Spin-echo times (lowest, highest), and how descriptions name the weighting where the times are missing."""

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
    """The defaults suit 1.5 T and 3 T spin echo; conf/data/dicom.yaml repeats them to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    t1w: WeightingRule = WeightingRule(
        repetition_time=(200, 1000), echo_time=(0, 30), description="(?<![a-z0-9])t1(?![0-9])"
    )
    t2w: WeightingRule = WeightingRule(
        repetition_time=(1500, 100_000), echo_time=(60, 1000), description="(?<![a-z0-9])t2(?![0-9])"
    )
    contrast_enhanced: Pattern = r"\bgd\b"
    fat_suppressed: Pattern = r"\bfs\b"
    localizer: Pattern = r"\bloc"

    def weighting(self, repetition_time: float | None, echo_time: float | None, description: str) -> Weighting | None:
        """By repetition and echo time (ms); by the description only where they do not decide."""
        if repetition_time is not None and echo_time is not None:
            if self.t1w.holds(repetition_time, echo_time):
                return "T1W"
            if self.t2w.holds(repetition_time, echo_time):
                return "T2W"
        t1, t2 = (bool(re.search(rule.description, description.lower())) for rule in (self.t1w, self.t2w))
        if t1 == t2:
            return None
        return "T1W" if t1 else "T2W"
