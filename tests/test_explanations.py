"""Each patient is explained by the model of the fold that held it out; what is kept needs no torch; loss is said."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.patch_store import PatchStore
from lightning_modules.augmentation import identity_affine
from lightning_modules.grad_cam import signed_maps
from sweep.explanations import Explanations
from sweep.report.galleries import explain_best
from sweep.report.summary import patient_table
from sweep.report.tables import read_run
from sweep.run_folder import RunFolder
from sweep.train_fold import finished_classifier


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to spoil; its patch store stays where it is."""
    return Path(shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("explanations")))


def explained(run: Path) -> Explanations:
    tables = read_run(run)
    return explain_best(tables, patient_table(tables))


def move_patches(run: Path) -> None:
    ingested = json.loads((run / "ingest.json").read_text())
    (run / "ingest.json").write_text(json.dumps(ingested | {"patch_store": "/nowhere"}))


def weights_of(run: Path, fold: int) -> Path:
    (file,) = run.glob(f"ledger/*/*/fold-{fold}/weights.pt")
    return file


def by_hand(run: Path, fold: int, rows: np.ndarray[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and maps of rows of the store by one fold's weights, with all six channels."""
    store = Path(json.loads((run / "ingest.json").read_text())["patch_store"])
    patches = torch.from_numpy(PatchStore(store, "").patches()[rows])
    model = finished_classifier(RunFolder(run).saved().configuration({}), weights_of(run, fold))
    return torch.sigmoid(model(patches, identity_affine(len(rows)))).detach(), signed_maps(model, patches)


def test_maps_are_the_held_out_folds_own(run: Path) -> None:
    table = explained(run).table
    assert table["deciding"].sum() == table["patient_id"].nunique() == 24
    for fold, held_out in table[table["deciding"]].groupby("fold"):
        rows, maps = held_out["row"].to_numpy(), torch.tensor(held_out["map"].tolist())
        probability, expected = by_hand(run, int(str(fold)), rows)
        assert np.allclose(probability, held_out["probability"], atol=1e-5)  # so these weights never saw them
        assert torch.allclose(maps, expected, atol=1e-6)
        _, of_another_fold = by_hand(run, (int(str(fold)) + 1) % 3, rows)
        assert not torch.allclose(maps, of_another_fold, rtol=0.1)


def test_other_weights_of_a_fold_change_its_patients_and_nobody_else(run: Path) -> None:
    before = explained(run).table
    shutil.rmtree(run / "explanations")
    written, other = (json.loads((weights_of(run, fold).parent / "DONE").read_text()) for fold in (1, 2))
    shutil.copy(weights_of(run, 2), weights_of(run, 1))
    done = weights_of(run, 1).parent / "DONE"
    done.write_text(json.dumps(written | {"weights.pt": other["weights.pt"]}))
    after = explained(run).table
    same = [first == second for first, second in zip(before["T1W"], after["T1W"], strict=True)]
    assert same == (before["fold"] != 1).tolist()
    deciding = before["deciding"]
    same_maps = [np.array_equal(a, b) for a, b in zip(before["map"][deciding], after["map"][deciding], strict=True)]
    assert same_maps == (before["fold"][deciding] != 1).tolist()


def test_one_sequence_alone_is_the_other_at_zero_after_standardisation(run: Path) -> None:
    table = explained(run).table
    held_out = table[table["fold"] == 0]
    model = finished_classifier(RunFolder(run).saved().configuration({}), weights_of(run, 0))
    store = Path(json.loads((run / "ingest.json").read_text())["patch_store"])
    patches = torch.from_numpy(PatchStore(store, "").patches()[held_out["row"].to_numpy()])
    network = model.network.forward

    def without(channels: slice) -> torch.Tensor:
        def forward(images: torch.Tensor) -> torch.Tensor:
            shown = images.clone()
            shown[:, channels] = 0
            return network(shown)

        model.network.forward = forward  # type: ignore[method-assign]
        return torch.sigmoid(model(patches, identity_affine(len(patches)))).detach()

    assert np.allclose(without(slice(3, 6)), held_out["T1W"], atol=1e-5)
    assert np.allclose(without(slice(0, 3)), held_out["T2W"], atol=1e-5)
    assert not np.allclose(held_out["T1W"], held_out["T2W"], atol=1e-3)


def test_what_was_kept_needs_neither_torch_nor_images_nor_weights(run: Path) -> None:
    first = explained(run)
    shutil.rmtree(run / "ledger")
    move_patches(run)
    again = explained(run)
    assert again.problem is first.problem is None
    assert again.table["T2W"].tolist() == first.table["T2W"].tolist()
    program = "import sys; from sweep.report import write_report; from pathlib import Path; "
    program += "write_report(Path(sys.argv[1])); print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, run], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_another_best_configuration_is_explained_anew(run: Path) -> None:
    explained(run)
    (kept,) = (run / "explanations").iterdir()
    kept.rename(kept.with_name("0123456789abcdef.parquet"))
    assert "map" in explained(run).table
    assert [file.name for file in (run / "explanations").iterdir()] == [kept.name]


def test_without_weights_there_are_pictures_only_and_nothing_is_kept(run: Path) -> None:
    weights_of(run, 1).unlink()
    found = explained(run)
    assert found.problem is not None and "weights of fold 1 are gone" in found.problem
    assert found.table["picture"].notna().sum() == 24 and "map" not in found.table
    assert not (run / "explanations").exists()


def test_weights_that_were_changed_explain_nothing(run: Path) -> None:
    content = bytearray(weights_of(run, 1).read_bytes())
    content[len(content) // 2] ^= 1
    weights_of(run, 1).write_bytes(content)
    found = explained(run)
    assert (
        found.problem is not None and "weights of fold 1" in found.problem and "as they were written" in found.problem
    )
    assert "map" not in found.table and str(run) not in found.problem


def test_without_patches_there_is_a_reason(run: Path) -> None:
    move_patches(run)
    found = explained(run)
    assert found.table.empty and found.problem is not None and "gone from the cache" in found.problem


def test_settings_of_another_version_are_a_reason(run: Path) -> None:
    text = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(text.replace("dropout: 0.0", "dropout: 0.25"))
    assert "not of one run" in str(explained(run).problem)
    (run / "settings.yaml").write_text(text + "unknown: 1\n")
    problem = explained(run).problem
    assert problem is not None and "another version" in problem and str(run) not in problem


def test_patches_of_another_cohort_are_refused(run: Path) -> None:
    predictions = pd.read_parquet(run / "predictions.parquet")
    renamed = predictions["sop_instance_uid"].iloc[0]
    for name in ("predictions.parquet", "cohort.csv"):
        table = pd.read_parquet(run / name) if name.endswith("parquet") else pd.read_csv(run / name, dtype=str)
        table = table.replace({"sop_instance_uid": {renamed: "9.9"}})
        table.to_parquet(run / name, index=False) if name.endswith("parquet") else table.to_csv(run / name, index=False)
    assert "another cohort" in str(explained(run).problem)
