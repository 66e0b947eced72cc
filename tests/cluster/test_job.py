"""The sweep of docs/clusters/kuberay.yaml, submitted to a head as KubeRay submits it."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.hosts import CHECKOUT, Hosts, hosts
from tests.cluster.test_ray_up import BIN, HEAD
from tests.test_cluster_files import KUBERAY, read
from tests.test_main import TINY

pytest.importorskip("aiohttp_cors", reason="jobs are submitted to Ray's dashboard, which ray[default] brings")
PACKAGES = f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"
RAY = f"env PATH={BIN}:$PATH PYTHONPATH={PACKAGES} RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0123456789abcdef' * 4} ray"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Hosts]:
    """One host with logical GPUs, a shared folder and Ray's dashboard."""
    with hosts(1, tmp_path) as group:
        address = f"--port=6379 --node-ip-address={group.address(HEAD)}"
        group.run(HEAD, f"{RAY} start --head {address} --num-cpus=2 --num-gpus=2 --disable-usage-stats")
        yield group


def test_the_job_leaves_its_report_in_the_shared_folder(head: Hosts) -> None:
    job = read(KUBERAY)["spec"]
    environment = json.dumps(yaml.safe_load(job["runtimeEnvYAML"].replace("/shared", str(head.shared))))
    submit = f"{RAY} job submit --address http://127.0.0.1:8265 --runtime-env-json {shlex.quote(environment)}"
    done = head.run(HEAD, f"{submit} -- {job['entrypoint']} {shlex.join([*TINY, 'search.configurations=1'])}")
    assert "succeeded" in done.stdout + done.stderr
    assert (head.shared / "runs" / "mine" / "report.html").exists()
