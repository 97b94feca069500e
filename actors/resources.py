"""What actors ask of the cluster, and whether it has it."""

from typing import Any

import ray

SHARE = 0.001
"""Of a node's custom resource: it marks the node, and a thousand actors may ask for it."""


def resources(cpus: float, gpus: float, node: str | None = None) -> dict[str, float]:
    """State resources in Ray's terms. node: a custom resource of the nodes that will do."""
    return {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) | ({node: SHARE} if node else {})


def visible(gpus: float) -> dict[str, Any]:
    """Return the options of an actor that asks for so many GPUs: Ray leaves all of them visible to one that asked for none."""
    return {} if gpus else {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}


def check_resources(demands: dict[str, list[dict[str, float]]], nodes: list[dict[str, float]]) -> None:
    """Raise ValueError unless all of `demands` (resources of each actor, by role) fit into `nodes` (of each live node).

    What does not fit would wait for ever.
    """

    def size(wish: tuple[str, dict[str, float]]) -> tuple[float, ...]:
        """Put the most particular first, so that others leave them their nodes."""
        return len(wish[1]), wish[1].get("GPU", 0.0), wish[1]["CPU"]

    free = [dict(node) for node in nodes]
    wanted = [(role, need) for role, needs in demands.items() for need in needs]
    for number, (role, need) in enumerate(sorted(wanted, key=size, reverse=True)):
        node = next((n for n in free if all(n.get(name, 0) >= amount for name, amount in need.items())), None)
        if node is None:
            have = {name: sum(node.get(name, 0) for node in nodes) for name in need}
            counts = ", ".join(f"{len(needs)} {name} of {needs[0]}" for name, needs in demands.items())
            raise ValueError(
                f"{counts} do not fit: {len(nodes)} node(s) with {have} in all have no room for {role} after {number} "
                f"of {len(wanted)} actors; lower their number or what each takes (see --help), or add nodes"
            )
        for name, amount in need.items():
            node[name] = round(node[name] - amount, 4)  # Ray counts in ten-thousandths: 1 - 0.4 - 0.2 - 0.2 is 0.2


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each live node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
