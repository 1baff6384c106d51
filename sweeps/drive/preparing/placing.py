"""Where Ray is to put a task."""

from typing import Any


def on(node: str) -> dict[str, Any]:
    """Return Ray's options for a task on a node, by its id, as long as that lives; "": wherever there is room."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)} if node else {}
