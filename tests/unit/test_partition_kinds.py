"""`anchors`, `random` and `pinned`: ordinals for positions, and what each promises of them."""

import hashlib
import io
from bisect import bisect_left
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.partition import KINDS, Interval, layout_digest, make_partition
from models.partition.anchors import AnchorLayout, AnchorPartition
from models.partition.ordinals import ORDINALS, PinnedPartition, RandomPartition, cut_ordinals, read_centroids
from models.spec import PartitionSpec
from service.settings import PartitionSettings
from tests import layouts

DIM = 6
PROTOTYPES = np.eye(DIM, dtype=np.float32)
NO_EMBEDDINGS = np.zeros((0, DIM), dtype=np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)))


def digests(count, seed=0):
    return [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(count)]


def anchors(count=4, **given):
    return AnchorPartition(PartitionSpec(kind="anchors", anchors=count, **given))


def npy(array, *, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def cut(positions):
    ordered = sorted(positions)
    return cut_ordinals(lambda lo, hi: bisect_left(ordered, hi) - bisect_left(ordered, lo))


# ------------------------------------------------------------------------------------------------------ the cut


@given(st.lists(st.integers(0, ORDINALS - 1) | st.integers(0, 20), max_size=40))
def test_every_occupied_ordinal_is_a_cluster_of_its_own_and_the_line_is_covered(positions):
    regions = cut(positions)
    if not positions:
        assert regions == []
        return
    assert (regions[0].lo, regions[-1].hi) == (0, ORDINALS)
    assert all(left.hi == right.lo for left, right in pairwise(regions))
    contents = [{p for p in positions if region.lo <= p < region.hi} for region in regions]
    assert [len(ordinals) for ordinals in contents] == [1] * len(set(positions))


# ------------------------------------------------------------------------------------------------------- random


def test_random_looks_at_the_image_alone_and_uses_every_cluster():
    partition = RandomPartition(PartitionSpec(kind="random", clusters=5))
    names = digests(200)
    positions = partition.locate(vectors(200), names)
    assert np.array_equal(positions, partition.locate(vectors(200, seed=1), names))
    assert np.bincount(positions, minlength=5).min() >= 20
    assert positions.max() == 4


def test_random_answers_for_a_missing_cluster_with_the_next_one_going_round():
    partition = RandomPartition(PartitionSpec(kind="random", clusters=5))
    regions = [Interval(1, 2), Interval(3, 4)]
    assert [partition.nearest(PROTOTYPES[0], position, regions) for position in (0, 2, 4)] == [0, 1, 0]


# ------------------------------------------------------------------------------------------------------- pinned


def test_pinned_takes_the_nearest_centroid_and_its_file_names_it():
    data = npy(np.diag([3.0, 5, 1, 1, 1, 1]))
    partition = make_partition(PartitionSpec(kind="pinned"), PROTOTYPES, centroids=data)
    assert partition.locate(PROTOTYPES[[4, 1]], digests(2)).tolist() == [4, 1]
    assert partition.nearest(PROTOTYPES[2], 2, [Interval(0, 2), Interval(3, ORDINALS)]) == 0
    other = make_partition(PartitionSpec(kind="pinned"), PROTOTYPES, centroids=npy(np.eye(DIM)[::-1]))
    assert partition.digest != other.digest


def test_saved_centroids_are_the_same_partition_to_the_bit():
    rows = np.random.default_rng(3).standard_normal((20, DIM))
    partition = make_partition(PartitionSpec(kind="pinned"), PROTOTYPES, centroids=npy(rows))
    assert isinstance(partition, PinnedPartition)
    again = make_partition(PartitionSpec(kind="pinned"), PROTOTYPES, centroids=partition.save())
    assert again.line_digest == partition.line_digest
    assert np.array_equal(again.fit(NO_EMBEDDINGS).locate(vectors(50), []), partition.locate(vectors(50), []))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a .npy file"),
        (b"\x93NUMPY rubbish", "not a .npy file"),
        (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), "not a .npy file"),
        (npy(np.zeros(3)), "one array of numbers"),
        (npy(np.array([["a"]])), "one array of numbers"),
        (npy(np.ones((2, 5))), "5 features, and the backbone's embeddings 6"),
        (npy(np.zeros((2, DIM))), "zero or not finite"),
        (npy(np.full((2, DIM), np.nan)), "zero or not finite"),
        (npy(np.full((2, DIM), np.inf, dtype=np.float32)), "zero or not finite"),
        (npy(np.zeros((0, DIM))), "must be 1 to"),
    ],
)
def test_files_that_are_no_centroids_are_refused_in_words(data, words):
    with pytest.raises(ValueError, match=words):
        make_partition(PartitionSpec(kind="pinned"), PROTOTYPES, centroids=data)


def test_whole_numbers_are_numbers_too():
    assert read_centroids(npy(2 * np.eye(DIM, dtype=np.int64)), dim=DIM).dtype == np.float32


# ------------------------------------------------------------------------------------------------------ anchors


def test_the_window_is_a_multiple_of_the_anchors_and_doubles():
    partition = anchors(4)
    assert [partition.window(n) for n in (0, 3, 4, 7, 8, 15, 16, 31, 32)] == [0, 0, 4, 4, 8, 8, 16, 16, 32]


def test_anchors_are_a_function_of_the_pictures_in_the_window_and_hardly_of_their_order():
    partition, names = anchors(4), digests(16)
    chosen = {names[i] for i in partition.anchors(names)}
    assert len(chosen) == 4
    assert {names[::-1][i] for i in partition.anchors(names[::-1])} == chosen


def test_copies_of_one_picture_are_chosen_in_order_of_arrival():
    assert anchors(4).anchors(["a" * 64] * 9) == [0, 1, 2, 3]


@given(st.integers(0, 15), st.integers(0, 100))
def test_erasing_one_replaces_at_most_one_anchor(gone, seed):
    partition, names = anchors(4), digests(20, seed)
    before = {names[i] for i in partition.anchors(names[:16])}
    left = names[:gone] + names[gone + 1 :]
    after = {left[i] for i in partition.anchors(left[:16])}
    assert len(before - after) <= 1


def test_groups_far_apart_are_found_whether_by_number_or_by_distance():
    around = np.repeat(np.eye(DIM)[:3], 5, axis=0)
    rows = unit(around + 0.01 * np.random.default_rng(0).standard_normal(around.shape))
    for partition in (anchors(15, clusters=3), anchors(15, distance_threshold=0.5)):
        layout = partition.fit(rows)
        assert layout.locate(rows, digests(15)).tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert layout.points == 15
        assert layout.nearest(PROTOTYPES[2], 2, [Interval(0, 1), Interval(1, ORDINALS)]) == 1


def test_every_sample_is_at_the_start_while_there_are_no_anchors():
    layout = anchors(4).fit(NO_EMBEDDINGS)
    assert layout.save() is None
    assert layout.locate(vectors(3), digests(3)).tolist() == [0, 0, 0]
    assert layout.nearest(PROTOTYPES[0], 0, [Interval(0, ORDINALS)]) == 0
    assert AnchorLayout.load(None, []).points == 0


def test_a_restored_layout_is_the_same_and_without_an_anchor_it_has_no_say():
    partition, rows = anchors(8, clusters=3), vectors(8)
    layout = partition.fit(rows)
    data = layout.save()
    assert data is not None
    queries = vectors(100, seed=5)
    restored = AnchorLayout.load(data, range(8))
    assert np.array_equal(restored.locate(queries, []), layout.locate(queries, []))
    group = layout.locate(rows[:1], [])[0]
    kept = [i for i in range(8) if layout.locate(rows[i : i + 1], [])[0] != group]
    left = AnchorLayout.load(data, kept)
    assert left.points == len(kept)
    assert group not in left.locate(queries, []).tolist()


@pytest.mark.parametrize("data", [b"", b"rubbish", npy(np.eye(2))])
def test_a_damaged_layout_is_refused(data):
    with pytest.raises(ValueError, match="cannot be read"):
        AnchorLayout.load(data, [0])


def test_anchors_that_cancel_out_are_represented_by_the_first():
    rows = np.stack([PROTOTYPES[0], -PROTOTYPES[0]])
    layout = anchors(2, clusters=1).fit(rows)
    assert layout.locate(PROTOTYPES[:1], digests(1)).tolist() == [0]


def test_a_layout_is_named_after_its_anchors_and_the_rule():
    few, more, names = anchors(4), anchors(4, clusters=2), digests(4)
    digest = layout_digest(few, names)
    assert len({digest, few.line_digest, layout_digest(more, names), layout_digest(few, names[::-1])}) == 4
    assert layout_digest(few, []) == few.line_digest


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (PartitionSpec(kind="anchors", anchors=1), "anchors must be 2 to"),
        (PartitionSpec(kind="anchors", anchors=4, clusters=5), "more than partition.anchors"),
        (PartitionSpec(kind="random"), "clusters must be 1 to"),
        (PartitionSpec(kind="random", clusters=ORDINALS), "clusters must be 1 to"),
        (PartitionSpec(kind="pinned"), "needs partition.centroids"),
        (PartitionSpec(kind="forest"), "Known: tree, anchors, random, pinned"),
    ],
)
def test_settings_that_make_no_partition_are_refused_in_words(spec, words):
    with pytest.raises(ValueError, match=words):
        make_partition(spec, PROTOTYPES)


def test_every_kind_can_be_set_and_is_tried_by_contracts_and_histories():
    assert get_args(PartitionSettings.model_fields["kind"].annotation) == KINDS
    assert {settings.get("kind", name) for name, settings in layouts.KINDS.items()} == set(KINDS)
    assert {"tree"} | {settings["kind"] for settings in layouts.MORE_LAYOUTS} == set(KINDS)
