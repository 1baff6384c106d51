"""Which kinds of nodes a cluster's autoscaler may bring."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import ray
import yaml

from data_pipeline.errors import RequestError

TOLD = "CELLSKEW_NODE_TYPES"  # a JSON list of resources, where they can't be looked up: [{"CPU": 8, "GPU": 1}]
OPTION = "--autoscaling-config="


def node_types() -> list[dict[str, float]]:
    """Return the resources of a node of each kind that the cluster's autoscaler, if it has one, may bring.

    They are what the variable TOLD says, else what stands in the file that the autoscaler on this machine was started
    with, else what Ray knows of, which it does on some hosted clusters alone.
    """
    if os.environ.get(TOLD):
        return _told(os.environ[TOLD])
    here = ray.get_runtime_context().gcs_address
    for path in _started_with(here):
        return _in_file(path)
    return _in_ray()


def _told(text: str) -> list[dict[str, float]]:
    try:
        return [{name: float(amount) for name, amount in kind.items()} for kind in json.loads(text)]
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f'{TOLD} must be a JSON list like [{{"CPU": 8, "GPU": 1}}], not {text!r}: {error}'
        ) from error


def _started_with(gcs: str, processes: Path = Path("/proc")) -> Iterator[Path]:
    """Yield the file that the autoscaler of the cluster at `gcs` was started with, if it runs on this machine."""
    for entry in processes.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if f"--gcs-address={gcs}" in words:
            yield from (Path(word.removeprefix(OPTION)).expanduser() for word in words if word.startswith(OPTION))


def _in_file(path: Path) -> list[dict[str, float]]:
    kinds = yaml.safe_load(path.read_text(encoding="utf-8")).get("available_node_types", {}).values()
    return [
        {name: float(amount) for name, amount in kind["resources"].items()}
        for kind in kinds
        if kind.get("max_workers") and kind.get("resources")
    ]


def _in_ray() -> list[dict[str, float]]:
    from ray._private.state import state

    config = state.get_cluster_config()  # as Ray Data asks for it; there is no public way
    groups = [] if config is None else config.node_group_configs
    return [{name: float(amount) for name, amount in group.resources.items()} for group in groups if group.max_count]
