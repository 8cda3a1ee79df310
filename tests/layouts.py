"""Partitions of every kind to try things on, and what is known of a world's layout."""

from typing import Any

from service.core.intake import Newcomer
from service.registry import layouts as layout_rows
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


def record(world: World) -> LayoutInForce:
    with world.context.registry.read() as session:
        return layout_rows.current(session)


def anchors(world: World) -> list[str]:
    """Ids of the samples that the layout was fitted on."""
    with world.context.registry.read() as session:
        return [sample_id for _, sample_id in layout_rows.anchors(session)]


def no_anchor(world: World) -> str:
    """A sample beyond the window."""
    return next(sample_id for sample_id in reversed(world.held) if sample_id not in anchors(world))


def predict(world: World, engine: Engine, newcomer: Newcomer | None = None) -> Any:
    newcomer = newcomer or world.newcomer()
    resized = world.context.backbone.preprocessing.resize(newcomer.picture.pixels)
    (answer,) = engine.run([Query(resized, newcomer.picture.digest)])
    return answer
