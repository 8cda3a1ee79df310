"""Of an erased sample no file of the data folder holds anything."""

import pytest

from service.core import reconcile
from tests.world import World, accepted

STRANGE_OWNER = "owner-ΩΨ-zanzibar-4711"
STRANGE_LABEL = "label-ЖЮ-quetzalcoatl-0815"


@pytest.mark.parametrize("hasty", [False, True], ids=["in turn", "bytes before plan"])
def test_no_file_holds_anything_of_an_erased_sample(world: World, hasty: bool) -> None:
    world.add(14)
    stranger = world.new_sample(STRANGE_LABEL, STRANGE_OWNER)
    (sample,) = map(accepted, world.take_in([stranger]))
    traces = {
        "pixels": stranger.pixels.tobytes()[:96],
        "embedding": stranger.embedding.tobytes(),
        "owner": STRANGE_OWNER.encode(),
        "label": STRANGE_LABEL.encode(),
        "escaped label": STRANGE_LABEL.encode("ascii", "backslashreplace"),
        "digest": stranger.digest.encode(),
    }
    world.settle()
    assert world.found_in_files(traces["pixels"])
    world.erase(sample.id)
    if hasty:  # another process, in the midst of its pass, destroys before anybody has planned
        reconcile.destroy_pending(world.context)
    world.settle()
    world.check()
    assert {name: world.found_in_files(trace) for name, trace in traces.items()} == {name: [] for name in traces}


def test_of_an_erased_owner_only_the_record_of_the_erasure_is_left(world: World) -> None:
    world.add(6)
    world.add(6, owner=STRANGE_OWNER)
    world.settle()
    found = world.erase_owner(STRANGE_OWNER)
    world.settle()
    world.check()
    assert world.erasure(found.id).owner == STRANGE_OWNER
    assert {sample.owner for sample in world.samples()} == {"ann"}
