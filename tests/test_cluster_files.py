"""Every cluster file means to Ray and Kubernetes what its comments say."""

import copy
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private.runtime_env.packaging import get_local_dir_uri_path
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.runtime_env.runtime_env import _validate_no_local_paths

from sweep.compose import load_settings

ROOT = Path(__file__).parents[1]
CLUSTER_FILES = [ROOT / "cluster.yaml", *(ROOT / "docs/clusters" / f"{name}.yaml" for name in ("gcp", "on-premises"))]
HOMES = {"cluster": "/home/ubuntu", "gcp": "/home/ubuntu", "on-premises": "/home/sweep"}
CONSTRAINTS = ROOT / "docs/clusters/constraints.txt"
KUBERAY = ROOT / "docs/clusters/kuberay.yaml"


def read(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    return config


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """A cluster file as `ray up` fills it in, before it asks a cloud for anything."""
    whole: dict[str, Any] = prepare_config(copy.deepcopy(dict(config)))
    validate_config(whole)
    return whole


@pytest.mark.parametrize("file", CLUSTER_FILES, ids=lambda file: file.stem)
def test_rays_own_schema_accepts_it(file: Path) -> None:
    prepared(read(file))
    with pytest.raises(Exception, match="Additional properties"):
        prepared({**read(file), "idle_timeout": 5})


@pytest.mark.parametrize("file", CLUSTER_FILES, ids=lambda file: file.stem)
def test_every_command_is_its_own_and_pinned_and_carries_the_token(file: Path) -> None:
    config = prepared(read(file))
    own = {"head_start_ray_commands", "worker_start_ray_commands", "setup_commands", "initialization_commands"}
    assert own <= read(file).keys(), "the packaged defaults install a nightly Ray"
    installs = [command for command in config["worker_setup_commands"] if "pip install" in command]
    assert installs and all(" -c ~/sweep/docs/clusters/constraints.txt " in command for command in installs)
    assert config["file_mounts"][f"{HOMES[file.stem]}/sweep"] == "." and "docs" not in config["rsync_exclude"]
    assert config["head_setup_commands"] == config["worker_setup_commands"]
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token ~/venv/bin/ray " in command
    assert any(place.endswith("/.ray/auth_token") for place in config["file_mounts"])


def pinned() -> dict[str, Requirement]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def version(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "==" and "+" not in only.version, "a build for CPUs alone would reach GPU machines"
    return only.version


def test_every_dependency_is_pinned_within_the_projects_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = pinned()
    for needed in map(Requirement, project["dependencies"]):
        assert needed.specifier.contains(version(pins[canonicalize_name(needed.name)])), needed


def test_what_pinned_packages_need_is_pinned() -> None:
    """As far as this environment has the same versions; a newer one may need other packages."""
    pins, compared = pinned(), set[str]()
    for name, pin in pins.items():
        with suppress(PackageNotFoundError):
            package = distribution(name)
            if package.version.partition("+")[0] != version(pin):
                continue
            needs = [Requirement(one) for one in package.requires or []]
            needs = [one for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
            assert {canonicalize_name(one.name) for one in needs} <= pins.keys(), name
            compared.add(name)
    if len(compared) < len(pins) / 4:
        pytest.skip(f"only {len(compared)} of {len(pins)} pinned packages are installed here in the pinned version")


def test_rays_version_is_the_same_everywhere() -> None:
    ray = version(pinned()["ray"])
    assert read(KUBERAY)["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert f"rayproject/ray:{ray}-" in KUBERAY.read_text()
    assert f"'ray[default,tune]=={ray}'" in (ROOT / "docs/clusters.md").read_text()


@pytest.mark.parametrize("file", CLUSTER_FILES[:2], ids=lambda file: file.stem)
def test_spot_machines_come_first_and_none_is_kept(file: Path) -> None:
    config = prepared(read(file))
    head, spot, on_demand = (config["available_node_types"][name] for name in ("head", "spot", "on_demand"))
    assert config["head_node_type"] == "head" and head["resources"]["GPU"] == 0
    assert spot["priority"] > on_demand["priority"]
    # Ray compares how well a demand fills a node before it looks at the priority.
    assert spot["resources"] == on_demand["resources"] and spot["resources"]["GPU"] > 1
    assert (spot["min_workers"], on_demand["min_workers"]) == (0, 0)
    assert not config["provider"]["cache_stopped_nodes"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """EC2 and IAM of moto's server, spoken to over HTTP as the clouds are."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield
    server.stop()


@pytest.mark.usefixtures("aws")
def test_aws_gets_spot_machines_of_the_pinned_image_behind_the_closed_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key pair to ~/.ssh
    text = (ROOT / "cluster.yaml").read_text()
    region = yaml.safe_load(text)["provider"]["region"]
    ec2 = boto3.client("ec2", region_name=region)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="sweep", Description="closed", VpcId=vpc)["GroupId"]
    groups = {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]}
    text = text.replace("ami-0123456789abcdef0", image).replace("sg-0123456789abcdef0", group)
    config = prepared(yaml.safe_load(text))
    config["available_node_types"]["head"]["node_config"]["IamInstanceProfile"] = {"Name": "made before"}
    config = bootstrap_aws(config)

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name in ("spot", "on_demand"):
        provider.create_node(config["available_node_types"][name]["node_config"], {"ray-node-name": name}, 1)
    machines = [one for page in ec2.describe_instances()["Reservations"] for one in page["Instances"]]
    assert [machine.get("InstanceLifecycle") for machine in machines] == ["spot", None]
    for machine in machines:
        assert machine["ImageId"] == image and [one["GroupId"] for one in machine["SecurityGroups"]] == [group]
    assert {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]} == groups, "an open group"


def test_kuberays_autoscaler_reads_the_job() -> None:
    job = read(KUBERAY)
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "sweep", "namespace": "default"}}
    config = _derive_autoscaling_config_from_ray_cr({**cluster, "spec": job["spec"]["rayClusterSpec"]})
    validate_config(config)
    types = config["available_node_types"]
    assert (types["spot"]["priority"], types["on-demand"]["priority"]) == (10, 1)
    assert types["spot"]["resources"]["GPU"] == 4 and config["idle_timeout_minutes"] == 5
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


# https://docs.ray.io/en/master/cluster/kubernetes/references/api.html, fields of KubeRay v1.6.2 as far as they are used
KUBERAY_FIELDS = {
    "RayJobSpec": "entrypoint runtimeEnvYAML submissionMode shutdownAfterJobFinishes ttlSecondsAfterFinished",
    "RayClusterSpec": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    "HeadGroupSpec": "rayStartParams template",
    "WorkerGroupSpec": "groupName priority minReplicas maxReplicas rayStartParams template",
}


def test_the_job_has_known_fields_only() -> None:
    job = read(KUBERAY)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"].pop("rayClusterSpec")
    parts = [("RayJobSpec", job["spec"]), ("RayClusterSpec", cluster), ("HeadGroupSpec", cluster["headGroupSpec"])]
    parts += [("WorkerGroupSpec", group) for group in cluster["workerGroupSpecs"]]
    for kind, part in parts:
        assert set(part) <= set(KUBERAY_FIELDS[kind].split()), kind


def test_kubernetes_own_models_accept_the_pods() -> None:
    client = pytest.importorskip("kubernetes.client", reason="the Kubernetes client is not installed")
    cluster = read(KUBERAY)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        _check_model(client, "V1PodTemplateSpec", group["template"])
    with pytest.raises(AssertionError, match="volumeMount"):
        _check_model(client, "V1PodTemplateSpec", {"spec": {"containers": [{"name": "a", "volumeMount": []}]}})


def _check_model(client: Any, kind: str, value: Any) -> None:
    """Keys and nesting of a value, down a model of the Kubernetes client."""
    if kind.lower().startswith("list["):
        assert isinstance(value, list), value
        for item in value:
            _check_model(client, kind[5:-1], item)
    elif kind.startswith("V1"):
        model = getattr(client, kind)
        names = {model.attribute_map[name]: name for name in model.openapi_types}
        assert value.keys() <= names.keys(), f"{kind} has no {value.keys() - names.keys()}"
        for key, inner in value.items():
            _check_model(client, model.openapi_types[names[key]], inner)
    elif kind == "str":
        assert isinstance(value, str), value


def test_the_jobs_command_has_good_settings() -> None:
    _python, _m, _sweep, *overrides = shlex.split(read(KUBERAY)["spec"]["entrypoint"])
    assert load_settings(overrides).cluster.address == "auto"


def test_the_jobs_folder_is_taken_as_it_is_where_the_submitter_does_not_have_it(tmp_path: Path) -> None:
    text = read(KUBERAY)["spec"]["runtimeEnvYAML"]
    absent = tmp_path / "shared"  # a machine that runs this test may have /shared
    environment = yaml.safe_load(text.replace("/shared", str(absent)))
    upload_working_dir_if_needed(environment, include_gitignore=True, upload_fn=_refuse_upload)
    _validate_no_local_paths(RuntimeEnv(**environment))
    assert get_local_dir_uri_path(environment["working_dir"]) == absent
    cluster = read(KUBERAY)["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    mounted = {mount["mountPath"] for pod in pods for one in pod["containers"] for mount in one["volumeMounts"]}
    assert mounted == {str(get_local_dir_uri_path(yaml.safe_load(text)["working_dir"]))}


def _refuse_upload(*_: Any, **__: Any) -> None:
    raise AssertionError("the submitter would upload the folder")


MOUNT_OPTIONS = {"lookupcache=none", "acdirmin=0", "acdirmax=0"}


@pytest.mark.parametrize("file", CLUSTER_FILES[:2], ids=lambda file: file.stem)
def test_no_node_remembers_that_a_file_was_not_there(file: Path) -> None:
    mounts = re.findall(r"\bmount -t nfs4? -o (\S+) ", "\n".join(read(file)["setup_commands"]))
    assert len(mounts) == file.read_text().count("mount -t ") == 1
    assert {*MOUNT_OPTIONS, "hard"} <= set(mounts[0].split(","))


@pytest.mark.parametrize("name", ["clusters.md", "clusters/on-premises.yaml", "clusters/slurm.sh"])
def test_who_mounts_storage_by_hand_is_told_the_same(name: str) -> None:
    assert set(re.findall(r"lookupcache=\w+|acdir\w+=\d+", (ROOT / "docs" / name).read_text())) == MOUNT_OPTIONS
