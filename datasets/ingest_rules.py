"""What decides which patients make the cohort, and how their images are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from datasets.series_rules import SeriesRules

Leakage = Literal["stop", "merge", "exclude"]
"""What to do about leakage: refuse to go on, make one patient of them, or leave them all out."""


class IngestRules(BaseModel):
    """Part of the settings `data`; conf/data explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    widest_context: float = Field(default=3.0, ge=1, le=10)
    pixels_per_box: int = Field(default=64, ge=8, le=512)
    labels: dict[str, Annotated[Literal[0, 1], BeforeValidator(int)]] = {"benign": 0, "malignant": 1}
    registration: Literal["none", "rigid"] = "none"
    leakage: Leakage = "stop"
    pseudonyms: bool = False
    pseudonym_key: Path = Path("pseudonyms.key")
    series: SeriesRules
