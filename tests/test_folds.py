"""Folds partition the patients, keep both classes in each, and depend on nothing but patients, labels and seed."""

import pandas as pd
import pytest

from datasets.annotations import CohortError
from datasets.folds import inner_validation, make_site_split, make_split, read_split, shuffle_labels, split_digest


def patients(malignant: int = 26, benign: int = 70) -> pd.DataFrame:
    labels = [1] * malignant + [0] * benign
    return pd.DataFrame({"patient_id": [f"{number:04d}" for number in range(len(labels))], "label": labels})


def test_every_patient_is_in_exactly_one_fold() -> None:
    split = make_split(patients(), 10, seed=1)
    assert sorted(split["patient_id"]) == sorted(patients()["patient_id"])
    assert split["patient_id"].is_unique
    assert set(split["fold"]) == set(range(10))


def test_folds_are_stratified() -> None:
    counts = make_split(patients(), 10, seed=1).groupby("fold")["label"].agg(["sum", "size"])
    assert set(counts["sum"]) == {2, 3}
    assert counts["size"].max() - counts["size"].min() <= 2


def test_the_split_ignores_the_order_of_the_patients() -> None:
    shuffled = patients().sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(make_split(patients(), 10, seed=1), make_split(shuffled, 10, seed=1))


def test_another_seed_gives_another_split() -> None:
    assert split_digest(make_split(patients(), 10, seed=1)) != split_digest(make_split(patients(), 10, seed=2))


def test_a_class_with_too_few_patients_is_refused_with_the_remedy() -> None:
    with pytest.raises(CohortError, match=r"folds\.count=10: one class has only 4 patients.*write folds\.count=4"):
        make_split(patients(malignant=4), 10, seed=1)


def test_too_few_patients_to_train_and_stop_early_are_refused() -> None:
    with pytest.raises(CohortError, match="one class has only 2 patients, too few"):
        make_split(patients(malignant=2), 2, seed=1)
    make_split(patients(malignant=3), 3, seed=1)


@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5])
def test_a_rare_class_is_in_every_inner_split_and_every_training_set(fraction: float) -> None:
    split = make_split(patients(malignant=3), 3, seed=1)
    for fold in range(3):
        inner = split["patient_id"].isin(inner_validation(split, fold, fraction, seed=1))
        training = (split["fold"] != fold) & ~inner
        assert split.loc[inner, "label"].nunique() == split.loc[training, "label"].nunique() == 2


@pytest.mark.parametrize("fold", range(10))
def test_inner_validation_never_holds_a_patient_of_the_fold(fold: int) -> None:
    split = make_split(patients(), 10, seed=1)
    inner = inner_validation(split, fold, 0.15, seed=1)
    assert inner and not inner & set(split.loc[split["fold"] == fold, "patient_id"])
    assert split.loc[split["patient_id"].isin(inner), "label"].nunique() == 2


def at_sites(*sites: str) -> pd.DataFrame:
    """96 patients in turn at the sites, a quarter malignant."""
    table = patients()
    return table.assign(site=[sites[number % len(sites)] for number in range(len(table))])


def test_a_fold_is_a_site_and_no_site_is_in_two_folds() -> None:
    table = at_sites("Kaohsiung", "Taipei", "Basel").sample(frac=1, random_state=3)
    split = make_site_split(table)
    assert split.columns.tolist() == ["patient_id", "label", "fold"]
    both = split.merge(table, on=["patient_id", "label"], how="outer")
    assert len(both) == len(table) and both["patient_id"].is_unique
    assert (both.groupby("site")["fold"].nunique() == 1).all() and (both.groupby("fold")["site"].nunique() == 1).all()
    assert both.groupby("fold")["site"].first().tolist() == ["Basel", "Kaohsiung", "Taipei"]
    pd.testing.assert_frame_equal(split, make_site_split(at_sites("Kaohsiung", "Taipei", "Basel")))


def test_the_inner_patients_of_a_site_fold_are_of_other_sites() -> None:
    table = at_sites("A", "B", "C").set_index("patient_id")["site"]
    split = make_site_split(table.reset_index().assign(label=patients()["label"]))
    for fold, site in enumerate("ABC"):
        inner = inner_validation(split, fold, 0.15, seed=1)
        assert inner and site not in set(table[list(inner)])


def test_a_site_of_one_class_is_a_fold_of_its_own() -> None:
    table = at_sites("A", "B", "C")
    table.loc[table["site"] == "B", "label"] = 0
    split = make_site_split(table)
    assert split.groupby("fold")["label"].nunique().tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("sites", "problem"),
    [
        (("",), r"folds\.by=site: 96 of 96 patients have no site; fill the column site of annotations\.csv"),
        (("A", "B", ""), "32 of 96 patients have no site"),
        (("A", "B", "a"), "site stands as 'A' and 'a'; write it alike"),
        (("A",), "1 of 1 sites have both benign and malignant patients, and a mean of AUCs takes at least 2"),
    ],
)
def test_sites_that_cannot_be_folds_are_refused(sites: tuple[str, ...], problem: str) -> None:
    with pytest.raises(CohortError, match=problem):
        make_site_split(at_sites(*sites))


def test_sites_where_one_class_is_missing_or_rare_are_refused() -> None:
    table = at_sites("A", "B", "C")
    with pytest.raises(CohortError, match="1 of 3 sites have both benign and malignant"):
        make_site_split(table.assign(label=((table["site"] == "A") & (table["label"] == 1)).astype(int)))
    rare = table.assign(label=(table["site"] == "A").astype(int))
    rare.loc[[0, 3, 4], "label"] = 0, 0, 1  # a benign patient or two at A, one malignant at B
    with pytest.raises(CohortError, match="without site 'A' one class has only 1 patients, too few to train"):
        make_site_split(rare)


def test_shuffled_labels_stay_with_patients_and_keep_their_number() -> None:
    lesions = pd.concat([patients(), patients()], ignore_index=True)
    shuffled = shuffle_labels(lesions, seed=5)
    assert (shuffled.groupby("patient_id")["label"].nunique() == 1).all()
    assert shuffled["label"].sum() == lesions["label"].sum()
    assert (shuffled["label"] != lesions["label"]).any()


def test_identifiers_survive_the_file_as_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("split") / "split.csv"
    split = pd.DataFrame({"patient_id": ["007", "NA", "1e3"], "label": [0, 1, 0], "fold": [0, 1, 0]})
    split.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_split(path), split)
