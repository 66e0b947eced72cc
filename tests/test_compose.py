"""Every bad setting stops with one line that names it, quotes its value and says what to write instead."""

from pathlib import Path

import pytest

from sweep.compose import default_settings, load_settings
from sweep.settings import SettingsError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bogus=1", r"^bogus: there is no such setting"),
        (
            "model.lerning_rate=1",
            r"^model\.lerning_rate: there is no such setting; did you mean model\.learning_rate\?",
        ),
        ("epochs=3", r"^epochs: there is no such setting; did you mean training\.epochs\?"),
        ("model.learning_rate=-1", r"^model\.learning_rate=-1: should be greater than 0$"),
        ("model.learning_rate=fast", r"^model\.learning_rate=fast: should be a valid number"),
        ("search.configurations=0", r"^search\.configurations=0: should be greater than or equal to 1$"),
        ("training.epochs=1.5", r"^training\.epochs=1\.5: should be a valid integer"),
        (
            "training.early_stopping=test",
            r"^training\.early_stopping=test: should be 'inner', 'scored_fold' or 'none'$",
        ),
        ("evaluation.slices=median", r"^evaluation\.slices=median: should be 'max', 'mean', 'top_mean' or 'noisy_or'$"),
        ("evaluation.sensitivity=95", r"^evaluation\.sensitivity=95: should be less than or equal to 1$"),
        ("evaluation.readers=/nowhere.csv", r"^evaluation\.readers=/nowhere\.csv: no such file; name a CSV file"),
        ("evaluation.features=/", r"^evaluation\.features=/: no such file"),
        ("folds=threefold", r"^folds/threefold: there is no such choice; choose one of leave_one_site_out, tenfold$"),
        ("folds.by=site", r"^folds=.*by=site has none; write folds=tenfold or leave_one_site_out$"),
        ("folds.count=null", r"^folds=.*by=patient needs a count"),
        ("name=../elsewhere", r"^name=\.\./elsewhere: "),
        (
            "output=s3://key:secret@bucket/runs",
            r"^output: write a folder, or s3://BUCKET/FOLDER .* without credentials$",
        ),
        ("output=hdfs://host/runs", r"^output: write a folder, or s3://BUCKET/FOLDER"),
        ("cluster.address=10.0.0.1:6379", r"^cluster\.address=10\.0\.0\.1:6379: should be 'auto'$"),
        ("cluster.folds_at_once=0", r"^cluster\.folds_at_once=0: should be greater than or equal to 1$"),
        ("model=alexnet", r"^model/alexnet: there is no such choice; choose one of narrow, resnet50$"),
        ("model.backbone=alexnet", r"^model\.backbone=alexnet: "),
        ("model.weights=/nowhere.pt", r"^model\.weights=/nowhere\.pt: no such file"),
        ("data.root=/nowhere", r"^data\.root=/nowhere: the phantom writes its own files; add data=dicom"),
        ("data.root=/", r"^data\.root=/: the phantom writes its own files; add data=dicom"),
        ("data=dicom", r"^data\.root=None: no such folder"),
        ("input.context=4", r"^input\.context=4\.0: "),
        ("search.space.input.context.high=4", r"^input\.context=4\.0: wider than the stored patches"),
        (
            "search.space.model.dropot={low: 0, high: 0.5}",
            r"^search\.space\.model\.dropot: .*did you mean model\.dropout",
        ),
        (
            "search.space.model.dropout={low: 0, high: 1.5}",
            r"^search\.space\.model\.dropout=1\.5: should be less than 1",
        ),
        ("search.space.model.dropout={low: 0.5, high: 0.1}", r"low 0\.5 must be below high 0\.1"),
        ("search.space.model.dropout={low: 0, high: 0.1, log: true}", r"a log range must start above 0"),
        ("search.space.model.dropout={low: 0}", r"give either low and high, or choices"),
        (
            "search.space.training.batch_size={low: 10, high: 40, step: 10}",
            r"^training\.batch_size=32: lies outside .* \(10 to 40 in steps of 10\)",
        ),
        ("search.space.input.context={low: 2, high: 3}", r"^input\.context=1\.0: lies outside search\.space"),
        ("search.space.model.optimizer={choices: [adam, sgd]}", r"optimizer=sgd: should be 'adam' or 'adamw'"),
        ("search/space=none", r"^search\.configurations=4: nothing is searched"),
        ("model.backbone=[1", r"no viable alternative"),
        ("seed=5000000000", r"^seed=5000000000: should be less than 4294967296$"),
        ("search=null", r"group override must be a string"),
        ("search=5", r"group override must be a string"),
        ("search.space=3", r"^search\.space=3: "),
        (
            "resources.gpus_per_fold=1.5",
            r"^resources\.gpus_per_fold=1\.5: should be a share below 1, or a whole number$",
        ),
        ("search.space.model.dropout={choices: []}", r"^search\.space\.model\.dropout\.choices=\(?\[?\]?\)?: "),
        ("search.space.model.l2_weight={low: 1e-6, high: 1e-2, log: true, step: 0.1}", r"a log range has no step"),
        ("search.space.augmentation.flip={low: 0, high: 1}", r"flip: has no numbers in between; write \{choices"),
        ("search.space.training.batch_size={low: 8, high: 64, step: 0.5}", r"batch_size: takes whole numbers"),
    ],
)
def test_a_bad_setting_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings([override])
    assert "\n" not in str(caught.value)


def test_dicom_needs_files_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^data\.annotations=.*absent\.csv: no such file"):
        load_settings(["data=dicom", f"data.root={tmp_path}", f"data.annotations={tmp_path}/absent.csv"])


def test_any_setting_can_become_a_range() -> None:
    settings = load_settings(
        [
            "search.space.model.dropout={low: 0, high: 0.5}",
            "search.space.training.batch_size={choices: [16, 32]}",
            "search.space.input.sequences={choices: [both, t1w, t2w]}",
            "search.space.input.neighbours={choices: [0, 1]}",
        ]
    )
    chosen = settings.configuration({"input.sequences": "t1w", "input.neighbours": 0}).input
    assert (chosen.sequences, chosen.neighbours) == ("t1w", 0)
    assert settings.search.space["model.dropout"].high == 0.5
    assert settings.search.space["training.batch_size"].choices == (16, 32)


def test_a_range_is_replaced_not_merged_and_null_removes_it() -> None:
    space = load_settings(
        ["search.space.model.learning_rate={choices: [1.0e-4, 1.0e-3]}", "search.space.input.context=null"]
    ).search.space
    assert space["model.learning_rate"].choices == (1e-4, 1e-3) and space["model.learning_rate"].low is None
    assert "input.context" not in space


def test_configuration_0_is_the_settings_own_values() -> None:
    settings = load_settings(["model.learning_rate=5e-4"])
    assert settings.own_values()["model.learning_rate"] == 5e-4
    assert settings.configuration(settings.own_values()) == settings.configuration({})


def test_a_configuration_takes_the_searched_values() -> None:
    settings = load_settings([])
    changed = settings.configuration({"model.learning_rate": 0.003, "input.context": 2.0})
    assert (changed.model.learning_rate, changed.input.context) == (0.003, 2.0)
    assert changed.model.l2_weight == settings.model.l2_weight
    assert changed.digest != settings.configuration({}).digest


def test_the_digest_depends_on_what_decides_the_numbers_alone() -> None:
    own = load_settings([]).digest
    idle = [
        "name=x",
        "output=elsewhere",
        "cache=there",
        "search.configurations=9",
        "resources.gpus_per_fold=0.5",
        "resources.folds_per_pack=2",
    ]
    idle += ["evaluation.threshold=youden", "evaluation.sensitivity=0.9", "evaluation.resamples=500"]
    idle += ["evaluation=nested", "evaluation.repeats=3", "evaluation.permutations=99"]
    assert load_settings(idle).digest == own
    for decisive in (
        "seed=1",
        "training.epochs=9",
        "data.shuffle_labels=true",
        "folds.count=5",
        "evaluation.slices=mean",
    ):
        assert load_settings([decisive]).digest != own


def test_the_studys_protocol() -> None:
    """Yeh et al. 2022: ResNet50 from ImageNet, Adam 1e-4 with beta1 0.5, batch 32, 100 epochs, factors 20 and 40."""
    study = load_settings(["experiment=yeh2022"])
    assert (study.model.backbone, study.model.weights, study.model.optimizer) == ("resnet50", "imagenet", "adam")
    assert (study.model.learning_rate, study.model.beta1) == (1e-4, 0.5)
    assert (study.training.epochs, study.training.batch_size) == (100, 32)
    assert (study.augmentation.benign_factor, study.augmentation.malignant_factor) == (20, 40)
    assert (study.folds.count, study.input.size, study.input.context) == (10, 64, 1.0)
    assert study.training.early_stopping == "scored_fold"


def test_the_studys_protocol_at_a_site_that_it_has_not_seen() -> None:
    study = load_settings(["experiment=yeh2022", "folds=leave_one_site_out"])
    assert (study.folds.by, study.folds.count, study.model.backbone) == ("site", None, "resnet50")


def test_a_threshold_needs_inner_patients_to_be_chosen_on() -> None:
    message = (
        r"^evaluation\.threshold=youden: .*training\.early_stopping=none keeps none; write evaluation\.threshold=fixed"
    )
    with pytest.raises(SettingsError, match=message):
        load_settings(["evaluation.threshold=youden", "training.early_stopping=none"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation=nested", "training.early_stopping=scored_fold"], r"^evaluation=nested: .*early_stopping=inner"),
        (
            ["evaluation.repeats=2", "folds=leave_one_site_out"],
            r"^evaluation\.repeats=2: .*write evaluation\.repeats=0",
        ),
        (["evaluation=twice"], r"choose one of corrected, nested"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(overrides)


def test_nested_is_a_choice_beside_the_other_settings_of_evaluation() -> None:
    evaluation = load_settings(["evaluation=nested", "evaluation.threshold=youden"]).evaluation
    assert evaluation.nested and evaluation.threshold == "youden" and not load_settings([]).evaluation.nested


def test_the_defaults_stop_early_on_an_inner_split() -> None:
    assert default_settings()["training"]["early_stopping"] == "inner"


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("{bösartig: 1, gutartig: 0}", {"bösartig": 1, "gutartig": 0}),
        ("{yes: 1, no: 0}", {"yes": 1, "no": 0}),
        ("{1: 0, 2: 1}", {"1": 0, "2": 1}),
    ],
)
def test_label_words_are_the_users_own(written: str, labels: dict[str, int]) -> None:
    assert load_settings([f"data.labels={written}"]).data.labels == labels


@pytest.mark.parametrize("written", ["mal", "{mal: 2}", "{mal: x}", "{mal"])
def test_label_words_without_a_meaning_are_refused(written: str) -> None:
    with pytest.raises(SettingsError, match=r"data\.labels"):
        load_settings([f"data.labels={written}"])


def test_paths_may_hold_what_folders_hold(tmp_path: Path) -> None:
    folder = tmp_path / "Müller, a=b (1) [x] {y} $z"
    folder.mkdir()
    (folder / "annotations.csv").touch()
    data = load_settings(["data=dicom", f"data.root={folder}", f"data.annotations={folder}/annotations.csv"]).data
    assert (data.root, data.annotations) == (folder, folder / "annotations.csv")


def test_how_honest_a_figure_is_is_not_searched() -> None:
    with pytest.raises(SettingsError, match=r"search\.space\.training\.early_stopping: decides how honest"):
        load_settings(["+search.space.training.early_stopping={choices: [inner, scored_fold]}"])
