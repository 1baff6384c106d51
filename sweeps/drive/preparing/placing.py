"""Where Ray is to put a task."""

from typing import Any


def on(node: str) -> dict[str, Any]:
    """Return Ray's options for a task on a node, by its id; "": wherever there is room.

    TaskUnschedulableError if the node is gone: elsewhere no GPU is lent to it.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}
