"""Ray's autoscaler v2 asks for spot machines first and for on-demand ones as cluster.yaml's comments say."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import commands
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import LaunchNodeError
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent, NodeKind

ROOT = Path(__file__).parents[1]
CLUSTERS = ["cluster.yaml", "docs/clusters/gcp.yaml", "docs/clusters/kuberay.yaml"]


def settings(file: str) -> dict[str, Any]:
    """A cluster file as the autoscaler gets it, with one name for the machines on demand."""
    config: dict[str, Any] = yaml.safe_load((ROOT / file).read_text().replace("on-demand\n", "on_demand\n"))
    if config.get("kind") == "RayJob":
        metadata = {"name": "sweep", "namespace": "default"}
        config = _derive_autoscaling_config_from_ray_cr(
            {"metadata": metadata, "spec": config["spec"]["rayClusterSpec"]}
        )
    return config


def launched(config: dict[str, Any], gpus: int = 1, monitor: CloudResourceMonitor | None = None) -> dict[str, int]:
    """Machines by type that a head with no workers asks for, when `gpus` folds wait for a GPU each."""
    known, monitor = AutoscalingConfig(config, skip_content_hash=True), monitor or CloudResourceMonitor()
    kind = known.get_head_node_type()
    head = Instance(instance_id="0", instance_type=kind, status=Instance.ALLOCATED, node_kind=NodeKind.HEAD)
    fold = ResourceRequestUtil.make({"GPU": 1.0, "CPU": 1.0})
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=known.get_node_type_configs(),
        max_num_nodes=known.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([fold] * gpus),
        current_instances=[AutoscalerInstance(cloud_instance_id="0", im_instance=head)],
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    return {one.instance_type: one.count for one in ResourceDemandScheduler().schedule(request).to_launch}


def test_ray_up_takes_autoscaler_v2_unless_told_otherwise() -> None:
    assert 'os.getenv("RAY_UP_enable_autoscaler_v2", "1") == "1"' in inspect.getsource(commands.get_or_create_head_node)


@pytest.mark.parametrize("file", CLUSTERS)
def test_spot_machines_are_asked_for_first_and_no_more_than_the_limit(file: str) -> None:
    assert launched(settings(file)) == {"spot": 1}
    assert launched(settings(file), gpus=5) == {"spot": 2}
    assert launched(settings(file), gpus=100)["spot"] == 4


@pytest.mark.parametrize("file", CLUSTERS[:2])
def test_on_demand_machines_take_the_place_of_spot_machines_that_are_ruled_out(file: str) -> None:
    config = settings(file)
    assert launched(config, gpus=100) == {"spot": 4}, "max_workers counts both types"
    config["available_node_types"]["spot"]["max_workers"] = 1
    assert launched(config, gpus=100) == {"spot": 1, "on_demand": 3}
    config["available_node_types"]["spot"]["max_workers"] = 0
    assert launched(config) == {"on_demand": 1}


@pytest.mark.parametrize("file", CLUSTERS)
def test_a_type_whose_machine_never_joined_ranks_below_the_other(file: str) -> None:
    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(new_instance_status=Instance.ALLOCATION_TIMEOUT, instance_type="spot")])
    assert launched(settings(file), monitor=monitor) == {"on_demand": 1}
    monitor.notify([InstanceUpdateEvent(new_instance_status=Instance.RAY_RUNNING, instance_type="spot")])
    assert launched(settings(file), monitor=monitor) == {"spot": 1}


def test_a_type_whose_launch_the_cloud_refuses_is_asked_for_again() -> None:
    """A limitation of Ray 2.60 that cluster.yaml's comment speaks of: change both together."""
    monitor, key = CloudResourceMonitor(), ("request", "spot")
    instance = Instance(instance_id="1", instance_type="spot", status=Instance.REQUESTED, launch_request_id="request")
    error = LaunchNodeError("spot", 1, "request", 0)
    event = Reconciler._try_resolve_pending_allocation(instance, {}, {key: error}, {key: 1})
    assert event.new_instance_status == Instance.ALLOCATION_FAILED
    monitor.notify([event])
    assert launched(settings("cluster.yaml"), monitor=monitor) == {"spot": 1}
