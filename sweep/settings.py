"""Typed settings: what a sweep can be told, what a single training depends on, and the digests of both."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from datasets.ingest_rules import IngestRules

Fraction = Annotated[float, Field(ge=0, le=1)]
Value = float | int | str | bool


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, quotes its value and says what to write instead."""


def flatten(tree: Mapping[str, Any], prefix: str = "", leaves: Collection[str] = ()) -> dict[str, Any]:
    """Nested settings by dotted name; a mapping that has one of the keys `leaves` stays as it is."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value.keys().isdisjoint(leaves)
        flat |= flatten(value, f"{prefix}{name}.", leaves) if nested else {prefix + name: value}
    return flat


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Phantom(Section):
    patients: int = Field(ge=8)
    seed: int = Field(ge=0)


class Data(IngestRules):
    source: Literal["phantom", "dicom"]
    root: Path | None
    annotations: Path | None
    max_excluded: Fraction
    shuffle_labels: bool
    phantom: Phantom | None


class Folds(Section):
    by: Literal["patient", "site"]
    count: int | None = Field(ge=2)
    inner_fraction: float = Field(gt=0, le=0.5)

    @model_validator(mode="after")
    def _count_of_patients_folds(self) -> Folds:
        if (self.count is None) != (self.by == "site"):
            raise ValueError("by=patient needs a count, by=site has none; write folds=tenfold or leave_one_site_out")
        return self


class Model(Section):
    backbone: str = Field(pattern=r"^(narrow|resnet(18|34|50|101|152)|timm/[\w.]+)$")
    stem: Literal["7x7", "3x3"]
    weights: str
    dropout: float = Field(ge=0, lt=1)
    optimizer: Literal["adam", "adamw"]
    learning_rate: float = Field(gt=0, le=10)
    beta1: float = Field(ge=0, lt=1)
    l2_weight: float = Field(ge=0)


class Input(Section):
    context: float = Field(ge=0.25)
    size: int = Field(ge=16, le=1024)
    sequences: Literal["both", "t1w", "t2w"]
    neighbours: Literal[0, 1]


class Augmentation(Section):
    benign_factor: int = Field(ge=1)
    malignant_factor: int = Field(ge=1)
    translation: Fraction
    scaling: float = Field(ge=0, lt=1)
    rotation_degrees: float = Field(ge=0, le=180)
    flip: bool


class Training(Section):
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=3)
    patience: int = Field(ge=1)
    early_stopping: Literal["inner", "scored_fold", "none"]
    precision: Literal["32-true", "tf32", "bf16-mixed", "64-true"]
    channels_last: bool
    fused_optimizer: bool
    compile: bool
    cuda_graphs: bool


class Range(Section):
    """Where a searched setting may lie: an interval (low, high; optionally log, step) or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    choices: tuple[Value, ...] | None = Field(default=None, min_length=1)
    when: dict[str, tuple[Value, ...]] = {}
    """Other searched settings, each with the choices under which this one is searched, too."""

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        interval = self.low is not None and self.high is not None
        if interval == (self.choices is not None):
            raise ValueError("give either low and high, or choices")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and (self.low or 0) <= 0:
            raise ValueError("a log range must start above 0")
        if self.log and self.step is not None:
            raise ValueError("a log range has no step")
        return self

    def holds(self, value: Value) -> bool:
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None or not self.low <= float(value) <= self.high:
            return False
        steps = (float(value) - self.low) / (self.step or 1)
        return self.step is None or math.isclose(steps, round(steps), abs_tol=1e-8)  # as Optuna has it

    def applies(self, values: Mapping[str, Value]) -> bool:
        return all(values.get(name) in allowed for name, allowed in self.when.items())

    def __str__(self) -> str:
        steps = f" in steps of {self.step:g}" if self.step else ""
        return f"one of {list(self.choices)}" if self.choices is not None else f"{self.low:g} to {self.high:g}{steps}"

    @property
    def example(self) -> str:
        return str(self.choices[0]) if self.choices is not None else f"{self.low:g}"

    def ends(self) -> tuple[Value, ...]:
        return self.choices if self.choices is not None else tuple(v for v in (self.low, self.high) if v is not None)


class Racing(Section):
    strategy: Literal["posterior", "paired", "lossless", "wilcoxon", "forgiving", "halving", "none"]
    alpha: float = Field(gt=0, lt=1)
    hopeless_after: int | None = Field(ge=1)


class Search(Section):
    configurations: int = Field(ge=1)
    max_folds: int | None = Field(ge=1)
    max_hours: float | None = Field(gt=0)
    min_expected_improvement: float | None = Field(gt=0, lt=1)
    sampler: str
    racing: Racing
    deterministic: bool
    space: dict[str, Range]


class Evaluation(Section):
    slices: Literal["max", "mean", "top_mean", "noisy_or"]
    threshold: Literal["fixed", "youden", "sensitivity"]
    sensitivity: float = Field(gt=0, le=1)
    readers: Path | None
    features: Path | None
    resamples: int = Field(ge=100)
    nested: bool
    repeats: int = Field(ge=0)
    permutations: int = Field(ge=0)


class Resources(Section):
    cpus_per_fold: int = Field(ge=1)
    gpus_per_fold: float | None = Field(ge=0)
    folds_per_pack: int | None = Field(ge=1, le=64)
    tries: int = Field(ge=1)
    saving_share: float = Field(gt=0, le=1)
    stall_minutes: float = Field(gt=0)

    @field_validator("gpus_per_fold")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError("should be a share below 1, or a whole number")
        return gpus


class Cluster(Section):
    address: Literal["auto"] | None
    folds_at_once: int | None = Field(ge=1)
    node_folder: Path | None


SEARCHABLE: Mapping[str, type[Section]] = {
    "model": Model,
    "input": Input,
    "augmentation": Augmentation,
    "training": Training,
}


def setting_type(name: str) -> object | None:
    """Type of a setting that a range may stand for, by dotted name; None where there is no such setting."""
    section, _, key = name.partition(".")
    field = SEARCHABLE[section].model_fields.get(key) if section in SEARCHABLE else None
    return field.annotation if field else None


class Configuration(Section):
    """What one training depends on besides the data: the unit (configuration, fold) is a function of it."""

    model: Model
    input: Input
    augmentation: Augmentation
    training: Training
    widest_context: float
    inner_fraction: float
    cpus_per_fold: int
    seed: int

    @cached_property  # asked for with every look at a unit
    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


class Settings(Section):
    name: str | None = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    output: str
    cache: Path
    seed: int = Field(ge=0, lt=2**32)
    data: Data
    folds: Folds
    model: Model
    input: Input
    augmentation: Augmentation
    training: Training
    search: Search
    evaluation: Evaluation
    resources: Resources
    cluster: Cluster

    def configuration(self, values: Mapping[str, Value]) -> Configuration:
        """The configuration in which the searched settings `values` (dotted names) replace the settings' own."""
        tree = self.model_dump(include=set(SEARCHABLE))
        for name, value in values.items():
            section, key = name.split(".")
            tree[section][key] = value
        return Configuration(
            **tree,
            widest_context=self.data.widest_context,
            inner_fraction=self.folds.inner_fraction,
            cpus_per_fold=self.resources.cpus_per_fold,
            seed=self.seed,
        )

    def own_values(self) -> dict[str, Value]:
        """The searched settings at the settings' own values: configuration 0."""
        values = flatten(self.model_dump(include=set(SEARCHABLE)))
        return {name: values[name] for name in self.search.space}

    def decisive(self) -> dict[str, Any]:
        """Settings that decide which numbers a run yields: not where it runs, how many configurations it has, or
        how it is evaluated. `evaluation.slices` decides: the search maximises the AUC of patients.
        """
        idle = ["name", "output", "cache", "resources.gpus_per_fold", "resources.tries"]
        idle += ["search.configurations", "search.max_folds", "search.max_hours", "search.min_expected_improvement"]
        idle += ["data.max_excluded", "data.pseudonym_key", *(f"cluster.{name}" for name in Cluster.model_fields)]
        idle += ["resources.folds_per_pack", "resources.stall_minutes", "resources.saving_share"]
        idle += [f"evaluation.{name}" for name in Evaluation.model_fields if name != "slices"]
        return {name: value for name, value in flatten(self.model_dump(mode="json")).items() if name not in idle}

    @property
    def digest(self) -> str:
        return digest(self.decisive())

    @property
    def run_folder(self) -> str:
        """Path or URL."""
        backbone = self.model.backbone.replace("/", "-")
        return below(self.output, self.name or f"{self.data.source}-{backbone}-{self.digest[:6]}")


def is_url(place: str) -> bool:
    return "://" in place


def below(place: str, name: str) -> str:
    """A name in a folder; a URL may end in `?…`, which says how to reach it."""
    folder, mark, query = place.partition("?") if is_url(place) else (place, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def digest(tree: object) -> str:
    """Sixteen hexadecimal digits that stand for a JSON-like value."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
