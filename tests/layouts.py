"""Partitions of every kind to try things on, and what is known of a world's layout."""

from collections.abc import Mapping
from typing import Any

from service.core.intake import NewSample
from service.registry import layout_state
from service.registry.records import LayoutInForce
from service.serving.engine import Engine, Query
from tests.world import World

KINDS: dict[str, dict[str, Any]] = {
    "tree": {"cap": 12, "min": 4},
    "anchors": {"kind": "anchors", "anchors": 16, "clusters": 4},
    "anchors by distance": {"kind": "anchors", "anchors": 8, "distance_threshold": 0.6},
    "random": {"kind": "random", "clusters": 4},
    "pinned": {},  # and a file of centroids
}
MORE_LAYOUTS: list[dict[str, Any]] = [  # that random histories try, beside trees of several sizes
    {"kind": "anchors", "anchors": 4, "clusters": 2},
    {"kind": "anchors", "anchors": 10, "clusters": 4},
    {"kind": "anchors", "anchors": 12, "distance_threshold": 0.5},
    {"kind": "random", "clusters": 1},
    {"kind": "random", "clusters": 5},
    {"kind": "pinned"},
]


def as_variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a partition as environment variables."""
    return {f"OUBLI_PARTITION__{name.upper()}": str(value) for name, value in settings.items()}


def record(world: World) -> LayoutInForce:
    with world.context.registry.read() as session:
        return layout_state.current(session)


def anchors(world: World) -> list[str]:
    """Ids of the samples that the layout was fitted on."""
    with world.context.registry.read() as session:
        return [sample_id for _, sample_id in layout_state.anchors(session)]


def no_anchor(world: World) -> str:
    """A sample beyond the window."""
    return next(sample_id for sample_id in reversed(world.survivors) if sample_id not in anchors(world))


def predict(world: World, engine: Engine, new_sample: NewSample | None = None) -> Any:
    new_sample = new_sample or world.new_sample()
    resized = world.context.backbone.preprocessing.resize(new_sample.pixels)
    (answer,) = engine.run([Query(resized, new_sample.digest)])
    return answer
