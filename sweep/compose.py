"""conf/*.yaml and the command line in, one frozen Settings object or one clear line out."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sweep.settings import SEARCHABLE, Data, Range, Settings, SettingsError, Value, flatten, setting_type

# The user's own texts, taken as they stand: Hydra's grammar knows no umlauts, and no "=" or "(" in a path.
OWN_TEXTS = ["output", "cache", "cluster.node_folder", "model.weights", "evaluation.readers", "evaluation.features"]
OWN_TEXTS += ["data.root", "data.annotations", "data.pseudonym_key", "data.labels"]


def load_settings(overrides: Sequence[str]) -> Settings:
    """Compose conf/ with the command line's `key=value` overrides and validate the whole.

    Raises:
        SettingsError: an unknown key, an impossible value, or a file that is missing; always one line.
    """
    settings = _validated(_compose(overrides))
    _check_output(settings.output)
    _check_data(settings.data)
    _check_weights(settings.model.weights)
    _check_space(settings)
    _check_evaluation(settings)
    return settings


def default_settings() -> dict[str, Any]:
    """conf/ as it stands, nested, before anything is overridden."""
    return _compose([])


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    texts = {key: text for key, _, text in (one.partition("=") for one in overrides) if key in OWN_TEXTS}
    try:
        parsed = OverridesParser.create().parse_overrides([o for o in overrides if o.partition("=")[0] not in texts])
        ranges = [o for o in parsed if o.key_or_group.startswith("search.space.") and not o.is_delete()]
        others = [o.input_line or "" for o in parsed if o not in ranges]
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("config", overrides=others)
        for override in ranges:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=True)
        tree: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingConfigException as error:
        options = ", ".join(error.options or ())
        raise SettingsError(f"{error.missing_cfg_file}: there is no such choice; choose one of {options}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SettingsError(_one_line(str(error))) from error
    for key, text in texts.items():
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = _own_text(key, text)
    return dict(tree)


def _own_text(key: str, text: str) -> Any:
    if key != "data.labels":
        return None if text == "null" else text
    try:
        labels = yaml.load(text, yaml.BaseLoader)  # in which yes, no and 1 are texts
    except yaml.YAMLError:
        labels = None
    if not isinstance(labels, dict):
        raise SettingsError(f"data.labels={text}: write your words with 0 (benign) or 1, as {{ben: 0, mal: 1}}")
    return labels


def _one_line(message: str) -> str:
    """Hydra's explanation on one line, with the nearest known setting where a key is unknown."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    unknown = next((line.split("'")[1] for line in lines if line.startswith("Could not override '")), None)
    if unknown is None:
        return "; ".join(line for line in lines if not line.startswith(("full_key", "object_type")))
    return f"{unknown}: there is no such setting{_nearest(unknown)}; `python -m sweep --help` lists all"


def _nearest(name: str) -> str:
    known = list(flatten(default_settings()))
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.endswith(f".{name}")][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _validated(tree: dict[str, Any]) -> Settings:
    if isinstance(space := tree["search"].get("space"), dict | None):
        spans = flatten(space or {}, leaves=Range.model_fields.keys())
        tree["search"]["space"] = {name: span for name, span in spans.items() if span is not None}
    try:
        return Settings(**tree)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_sentence, error.errors()))) from error


def _sentence(error: Any) -> str:
    """'model.learning_rate=-1: should be greater than 0' from one of pydantic's errors."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting{_nearest(name)}"
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}={error['input']}: {problem}"


def _check_output(output: str) -> None:
    scheme, _, place = output.rpartition("://")
    if scheme not in ("", "s3", "gs") or (scheme and "@" in place):  # its text may hold a password
        raise SettingsError("output: write a folder, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER without credentials")


def _check_data(data: Data) -> None:
    if data.source == "phantom":
        for name, value in (("data.root", data.root), ("data.annotations", data.annotations)):
            if value is not None:
                raise SettingsError(f"{name}={value}: the phantom writes its own files; add data=dicom to use yours")
        if data.phantom is None:
            raise SettingsError("data.phantom=null: data=phantom needs data.phantom.patients and data.phantom.seed")
        return
    if data.root is None or not data.root.is_dir():
        raise SettingsError(f"data.root={data.root}: no such folder; name the folder that holds the DICOM files")
    if data.annotations is None or not data.annotations.is_file():
        raise SettingsError(f"data.annotations={data.annotations}: no such file; name the CSV file of lesion slices")


def _check_weights(weights: str) -> None:
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise SettingsError(f"model.weights={weights}: no such file; write none, imagenet, or the path of a state dict")


def _check_space(settings: Settings) -> None:
    """Both ends of every range must be settings that a training accepts, and configuration 0 must lie inside."""
    for name, span in settings.search.space.items():
        if name == "training.early_stopping":
            raise SettingsError(
                f"search.space.{name}: decides how honest a figure is, so it is not searched; write {name}="
            )
        if setting_type(name) is None:
            sections = ", ".join(SEARCHABLE)
            raise SettingsError(f"search.space.{name}: no such setting{_nearest(name)}; ranges may stand in {sections}")
        if setting_type(name) not in (int, float) and span.choices is None:
            raise SettingsError(f"search.space.{name}: has no numbers in between; write {{choices: [...]}}")
        numbers = span.low, span.high, span.step
        if setting_type(name) is int and any(number and number != int(number) for number in numbers):
            raise SettingsError(f"search.space.{name}: takes whole numbers; write whole low, high and step")
        _check_condition(settings, name, span)
    own = settings.own_values()
    for name, span in settings.search.space.items():
        for value in span.ends():
            _check_configuration(settings, name, value)
        if not span.holds(own[name]):
            raise SettingsError(
                f"{name}={own[name]}: lies outside search.space.{name} ({span}); "
                f"configuration 0 takes the setting's own value, so write one inside, e.g. {name}={span.example}"
            )
    _check_configuration(settings, "input.context", settings.input.context)
    if settings.search.max_hours and settings.search.deterministic:
        raise SettingsError("search.max_hours: the clock is no function of the seed; write search.max_folds, or null")
    if settings.search.racing.hopeless_after:
        _check_hopeless(settings)
    if not settings.search.space and settings.search.configurations > 1:
        count = settings.search.configurations
        raise SettingsError(
            f"search.configurations={count}: nothing is searched, so write 1, or give search.space a range"
        )


def _check_hopeless(settings: Settings) -> None:
    told = f"search.racing.hopeless_after={settings.search.racing.hopeless_after}"
    if settings.search.racing.strategy == "none":
        raise SettingsError(f"{told}: ends folds of a race; write search.racing.strategy=posterior, or null")
    if settings.training.early_stopping != "inner":
        raise SettingsError(f"{told}: compares AUCs of inner patients; write training.early_stopping=inner, or null")
    if settings.search.deterministic:
        raise SettingsError(f"{told}: what has finished is no function of the seed; write deterministic=false, or null")


def _check_condition(settings: Settings, name: str, span: Range) -> None:
    space = settings.search.space
    for other, allowed in span.when.items():
        choices = () if other not in space or space[other].when else space[other].choices or ()
        strange = [value for value in allowed if value not in choices]
        if strange or not allowed:
            told = f"search.space.{name}.when: {other} is never {strange}"
            raise SettingsError(f"{told}; write choices of a searched setting without `when`, here {list(choices)}")
    if span.when and settings.search.sampler == "GridSampler":
        raise SettingsError(f"search.space.{name}.when: a grid knows no conditions; write search.sampler=TPESampler")


def _check_evaluation(settings: Settings) -> None:
    evaluation, stopping = settings.evaluation, settings.training.early_stopping
    for name, path in (("readers", evaluation.readers), ("features", evaluation.features)):
        if path is not None and not path.is_file():
            raise SettingsError(f"evaluation.{name}={path}: no such file; name a CSV file by patient_id, or write null")
    if evaluation.threshold != "fixed" and stopping != "inner":
        raise SettingsError(
            f"evaluation.threshold={evaluation.threshold}: is chosen on inner validation patients, of which "
            f"training.early_stopping={stopping} keeps none; write evaluation.threshold=fixed, or early_stopping=inner"
        )
    if evaluation.nested and stopping == "scored_fold":
        raise SettingsError(
            "evaluation=nested: training.early_stopping=scored_fold chooses the epoch on the patients that are scored, "
            "which nesting is there to prevent; write training.early_stopping=inner, or evaluation=corrected"
        )
    if evaluation.repeats and settings.folds.by == "site":
        raise SettingsError(
            f"evaluation.repeats={evaluation.repeats}: sites are dealt to folds in one way only; write "
            "evaluation.repeats=0, or folds=tenfold"
        )


def _check_configuration(settings: Settings, name: str, value: Value) -> None:
    try:
        context = settings.configuration({name: value}).input.context
    except ValidationError as error:
        raise SettingsError(f"search.space.{_sentence(error.errors()[0])}") from error
    if context > settings.data.widest_context:
        raise SettingsError(
            f"input.context={context}: wider than the stored patches; write less, or data.widest_context={context}"
        )
