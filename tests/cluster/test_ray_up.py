"""`ray up`, a sweep on its hosts, `ray down`: the predictions of one host, and nobody joins without the token."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from sweep.settings import below
from sweep.storage import at_hand
from tests import buckets
from tests.cluster.hosts import CHECKOUT, Hosts, hosts
from tests.failures.sweeps import SECONDS
from tests.test_main import TINY, sweep

BIN = Path(sys.prefix, "bin")
CREDENTIALS = " ".join(f"{name}={value}" for name, value in buckets.CREDENTIALS.items())
RAY = f"PYTHONPATH={CHECKOUT} RAY_AUTH_MODE=token {CREDENTIALS} {BIN}/ray"
HEAD, WORKERS, OUTSIDER = 1, (2, 3), 4
GPUS_PER_WORKER, FOLDS_PER_GPU = 2, 2
# Workers start seconds apart, and are to train side by side.
LONGER = [*TINY, "training.epochs=30", "training.patience=30"]
FILES = ["data=dicom", "data.root=PATIENTS", "data.annotations=PATIENTS/annotations.csv"]
DICOM = [*FILES, *(setting for setting in LONGER if "phantom" not in setting)]
NODE_FOLDER = "/dev/shm/sweep"  # a disk of the host's own
ALIVE = """
import json, ray
ray.init("auto", log_to_driver=False)
print(json.dumps([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]))
"""


def cluster_file(group: Hosts) -> Path:
    """A cluster with logical GPUs on the workers and none on the head."""
    token = group.private / "token"
    token.write_text(os.urandom(32).hex())
    head, *workers = (group.address(host) for host in (HEAD, *WORKERS))
    config = {
        "cluster_name": f"test-{group.network}",
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": {"ssh_user": "root", "ssh_private_key": str(group.key)},
        "min_workers": len(workers),
        "max_workers": len(workers),
        "file_mounts": {"/root/.ray/auth_token": str(token)},
        # For what users type, and `ray down`.
        "setup_commands": [
            f"echo 'export PATH={BIN}:$PATH RAY_AUTH_MODE=token PYTHONPATH={CHECKOUT} OMP_NUM_THREADS=1' >~/.bashrc"
        ],
        "head_start_ray_commands": [
            f"{RAY} start --head --port=6379 --node-ip-address={head} --num-cpus=4 --num-gpus=0 "
            "--include-dashboard=false --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            f"{RAY} start --address=$RAY_HEAD_IP:6379 --num-cpus=3 --num-gpus={GPUS_PER_WORKER}"
        ],
    }
    file = group.private / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def ray(*arguments: str) -> str:
    """A `ray` command as from the user's own machine."""
    # Autoscaler v2 counts the head of a local provider among the workers and would leave one host out.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "0"}
    command = [BIN / "ray", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, f"ray {arguments}: {done.stdout[-5000:]}{done.stderr[-5000:]}"
    return done.stdout


def alive(group: Hosts) -> set[str]:
    """Addresses of the cluster's nodes, as the head knows them."""
    out = group.run(HEAD, f"RAY_AUTH_MODE=token {BIN}/python -c '{ALIVE}'").stdout
    return set(json.loads(out.splitlines()[-1]))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if not shutil.which("tmux"):
        pytest.skip("sweeps are started detached by tmux, which is not installed")
    with hosts(4, tmp_path_factory.mktemp("hosts")) as group:
        yield group


@pytest.fixture(scope="module")
def cluster(group: Hosts) -> Iterator[Path]:
    """The file of a cluster that is up with all its nodes."""
    file = cluster_file(group)
    everyone = {group.address(host) for host in (HEAD, *WORKERS)}
    try:
        ray("up", "-y", "--no-config-cache", str(file))
        assert any(alive(group) == everyone for _ in range(60)), f"only {alive(group)} joined"
        yield file
        ray("down", "-y", str(file))
        assert group.run(HEAD, "pgrep raylet", check=False).stdout == "", "`ray down` left the head running"
    finally:
        for state in Path("/tmp/ray").glob(f"cluster-test-{group.network}.*"):
            state.unlink()


@pytest.fixture(scope="module")
def runs(cluster: Path, group: Hosts) -> Path:
    """The folder of the same sweep twice: `alone` on this machine, `together` by the commands of docs/clusters.md."""
    written = sweep(group.private, "phantom", "PATIENTS", "patients=24")
    assert written.returncode == 0, written.stderr
    ray("rsync-up", str(cluster), f"{group.private}/PATIENTS/", f"{group.shared}/PATIENTS/")
    alone = sweep(group.shared, "name=alone", *DICOM)
    assert alone.returncode == 0, alone.stderr
    settings = [f"resources.gpus_per_fold={1 / FOLDS_PER_GPU}", f"cluster.node_folder={NODE_FOLDER}"]
    together = shlex.join(["name=together", *DICOM, "cluster.address=auto", *settings])
    ray("exec", "--tmux", str(cluster), f"cd {group.shared} && python -m sweep {together} >printed 2>&1")
    return group.shared / "runs"


@pytest.fixture(scope="module")
def together(runs: Path, cluster: Path, group: Hosts) -> Path:
    """The folder of the sweep on the cluster, after its end; `ray exec --tmux` has left before its begin."""
    finished = f"cd {group.shared} && python -m sweep status runs/together || cat printed; true"
    limit = time.monotonic() + SECONDS
    while not (runs / "together" / "report.html").exists():
        told = ray("exec", str(cluster), finished)
        assert time.monotonic() < limit, told
        time.sleep(2)
    assert "6 of 6 folds finished" in ray("exec", str(cluster), finished)
    return runs / "together"


def joining_sweep(folder: Path | str, *settings: str) -> str:
    python = f"PYTHONPATH={CHECKOUT} RAY_AUTH_MODE=token {CREDENTIALS} {BIN}/python"
    return f"cd {folder} && {python} -m sweep cluster.address=auto {shlex.join([*LONGER, *settings])}"


def files(run: Path, name: str) -> dict[str, bytes]:
    """A file of every finished fold, by configuration and fold."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob(f"ledger/*/*/fold-?/{name}"))}


@pytest.mark.parametrize("name", ["predictions.parquet", "inner_predictions.parquet", "curve.csv", "weights.pt"])
def test_every_fold_has_the_bytes_it_has_on_one_host(runs: Path, together: Path, name: str) -> None:
    alone = files(runs / "alone", name)
    assert len(alone) == 6 and files(together, name) == alone


def test_the_report_is_fetched_from_the_head(together: Path, cluster: Path, group: Hosts) -> None:
    fetched = group.private / "report.html"
    ray("rsync-down", str(cluster), str(together / "report.html"), str(fetched))
    assert fetched.read_bytes() == (together / "report.html").read_bytes()


def test_tensorboard_is_seen_through_ray_attach(together: Path, cluster: Path) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [BIN / "ray", "attach", "-p", str(port), str(cluster)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as attach:
        assert attach.stdin is not None
        attach.stdin.write(f"tensorboard --port {port} --logdir {together.parent}\n".encode())
        attach.stdin.flush()
        try:
            assert awaited("together/", f"http://localhost:{port}/data/runs", attach)
        finally:
            os.killpg(attach.pid, signal.SIGKILL)


def awaited(text: str, url: str, attach: subprocess.Popen[bytes]) -> bool:
    """Whether the text is in what the url answers before `ray attach` ends."""
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit and attach.poll() is None:
        with suppress(OSError):  # nobody listens yet
            if text in urllib.request.urlopen(url, timeout=60).read().decode():
                return True
        time.sleep(0.5)
    return False


def test_a_sweep_at_a_url_needs_no_shared_folder(
    runs: Path, cluster: Path, group: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with buckets.bucket(group.address(254)) as url:
        settings = ["name=from-hosts", f"output={url}", "cache=cache", f"cluster.node_folder={NODE_FOLDER}-from-url"]
        ray("exec", str(cluster), joining_sweep("~", *settings, "resources.gpus_per_fold=0"))
        with at_hand(below(url, "from-hosts")) as far:
            assert (far / "report.html").exists()
            assert files(far, "predictions.parquet") == files(runs / "alone", "predictions.parquet")


class Placed(NamedTuple):
    """Where and when a fold was trained."""

    host: str
    gpus: str
    begin: float
    end: float


@pytest.fixture(scope="module")
def placed(together: Path) -> list[Placed]:
    folds = []
    for path in together.glob("ledger/*/*/fold-?/result.json"):
        result, end = json.loads(path.read_text()), path.stat().st_mtime
        folds.append(Placed(result["host"], result["gpus"], end - result["seconds"], end))
    return sorted(folds)


def test_a_fold_sees_its_own_gpu_alone(placed: Sequence[Placed], group: Hosts) -> None:
    assert {fold.host for fold in placed} == {f"ray{group.network}-{host}" for host in WORKERS}
    assert {fold.gpus for fold in placed} == {str(gpu) for gpu in range(GPUS_PER_WORKER)}


def test_as_many_folds_share_a_gpu_as_their_shares_say(placed: Sequence[Placed]) -> None:
    at_once = [
        max(sum(fold.begin <= other.begin < fold.end for fold in folds) for other in folds)
        for folds in (list(folds) for _, folds in groupby(placed, key=lambda fold: (fold.host, fold.gpus)))
    ]
    assert max(at_once) == FOLDS_PER_GPU, placed


@pytest.mark.parametrize("identity", ["RAY_AUTH_MODE=disabled", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64}"])
@pytest.mark.usefixtures("cluster")
def test_a_host_without_the_token_is_refused(group: Hosts, identity: str) -> None:
    join = f"{identity} {BIN}/ray start --address={group.address(HEAD)}:6379 --num-cpus=1"
    joined = group.run(OUTSIDER, join, check=False)
    assert joined.returncode != 0, joined.stdout
    assert group.address(OUTSIDER) not in alive(group)
    assert "token" in (joined.stdout + joined.stderr).lower()


@pytest.mark.usefixtures("cluster")
def test_a_sweep_that_finds_no_cluster_says_so(group: Hosts) -> None:
    refused = group.run(OUTSIDER, joining_sweep(group.shared, "name=nowhere"), check=False)
    assert refused.returncode == 2 and "cluster.address=auto: no Ray runs on this machine" in refused.stderr


@pytest.mark.usefixtures("together")
def test_every_worker_has_one_copy_of_the_patches(group: Hosts) -> None:
    (patches,) = (group.shared / "cache").glob("patches/*/patches.npy")
    for host in WORKERS:
        copies = group.run(host, f"cd {NODE_FOLDER}/patches && sha256sum */patches.npy").stdout.split()
        assert copies == [sha256(patches.read_bytes()).hexdigest(), f"{patches.parent.name}/patches.npy"]
    assert group.run(HEAD, f"test -e {NODE_FOLDER}", check=False).returncode != 0, "the head trains nothing"
