"""The cut of the public tree: whole, bounded, a function of counts, and hardly moved by one deletion."""

from bisect import bisect_left
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.embedding import embed
from models.partition import Interval, make_partition
from models.partition.tree import BELOW_LEAF, TAIL_BITS, TreePartition
from models.spec import PartitionSpec

LEAVES = 16
LINE = LEAVES << BELOW_LEAF
PROTOTYPES = np.random.default_rng(0).standard_normal((LEAVES, 8)).astype(np.float32)
PROTOTYPES /= np.linalg.norm(PROTOTYPES, axis=1, keepdims=True)


def tree(minimum, cap, prototypes=PROTOTYPES):
    return TreePartition(prototypes, PartitionSpec(cap=cap, min=minimum))


def counter(positions):
    """How many of these positions lie in [lo, hi)."""
    ordered = sorted(positions)
    return lambda lo, hi: bisect_left(ordered, hi) - bisect_left(ordered, lo)


def cut(partition, positions):
    return partition.cut(counter(positions))


def at_leaf(leaf, count):
    """So many positions, evenly below one leaf."""
    return [(leaf << BELOW_LEAF) + (index << BELOW_LEAF) // count for index in range(count)]


specs = st.integers(1, 12).flatmap(lambda least: st.tuples(st.just(least), st.integers(2 * least, 5 * least)))
anywhere = st.integers(0, LINE - 1)


@st.composite
def survivors(draw, max_copies):
    """Positions of many distributions: everywhere, within one leaf, nearly identical, copies, and all of it mixed."""
    near = draw(anywhere)
    leaf = draw(st.integers(0, LEAVES - 1)) << BELOW_LEAF
    kinds = draw(
        st.lists(
            st.sampled_from(
                [
                    anywhere,
                    st.integers(leaf, leaf + (1 << BELOW_LEAF) - 1),
                    st.integers(near, near + 63).map(lambda position: min(position, LINE - 1)),
                    st.just(near),
                    st.sampled_from([0, LINE - 1]),
                ]
            ),
            min_size=1,
            max_size=3,
        )
    )
    piles = draw(st.dictionaries(st.one_of(kinds), st.integers(1, max_copies), max_size=60))
    return [position for position, copies in piles.items() for _ in range(copies)]


@st.composite
def cases(draw):
    partition = tree(*draw(specs))
    return partition, draw(survivors(partition.max_copies))


# -------------------------------------------------------------------------------------------------------- the cut


@given(cases())
def test_regions_cover_the_whole_line_without_gap_or_overlap(case):
    partition, positions = case
    regions = cut(partition, positions)
    if not positions:
        assert regions == []
        return
    assert regions[0].lo == 0
    assert regions[-1].hi == LINE
    assert all(left.hi == right.lo for left, right in pairwise(regions))
    assert all(region.lo < region.hi for region in regions)


@given(cases())
def test_every_cluster_holds_between_min_and_cap(case):
    partition, positions = case
    count = counter(positions)
    sizes = [count(*region) for region in partition.cut(count)]
    assert sum(sizes) == len(positions)
    if len(positions) >= partition.spec.min:
        assert min(sizes) >= partition.spec.min
        assert max(sizes) <= partition.spec.cap
    else:
        assert len(sizes) <= 1


@given(cases(), st.randoms(use_true_random=False))
def test_the_cut_is_a_function_of_counts_alone(case, random):
    partition, positions = case
    before = cut(partition, positions)
    cut(partition, positions[::2])  # a history in between
    random.shuffle(positions)
    assert cut(partition, positions) == before
    assert cut(TreePartition(PROTOTYPES, partition.spec), positions) == before


@given(cases(), st.data())
def test_a_deletion_changes_at_most_one_stretch_of_the_line_around_itself(case, data):
    partition, positions = case
    assume(positions)
    gone = positions.pop(data.draw(st.integers(0, len(positions) - 1)))
    after = set(cut(partition, positions))
    before = set(cut(partition, [*positions, gone]))
    changed = sorted(before - after)
    if changed and after:
        lo, hi = changed[0].lo, changed[-1].hi
        assert lo <= gone < hi
        assert sum(region.hi - region.lo for region in changed) == hi - lo
        assert all(lo <= region.lo < region.hi <= hi for region in after - before)


def test_a_deletion_that_crosses_no_bound_changes_no_region():
    partition = tree(3, 10)
    regions = cut(partition, at_leaf(2, 6) + at_leaf(9, 8))
    assert len(regions) == 2
    for left, right in [(5, 8), (6, 7), (3, 8), (6, 5)]:
        assert cut(partition, at_leaf(2, left) + at_leaf(9, right)) == regions


def test_a_deletion_that_crosses_a_bound_joins_two_regions():
    assert cut(tree(3, 10), at_leaf(2, 2) + at_leaf(9, 8)) == [Interval(0, LINE)]  # 10 = cap in all
    assert cut(tree(3, 10), at_leaf(2, 5) + at_leaf(9, 5)) == [Interval(0, LINE)]


def test_most_deletions_change_no_region_and_the_others_few():
    partition = tree(20, 80)
    positions = np.random.default_rng(1).integers(0, LINE, 2_000).tolist()
    before = cut(partition, positions)
    changes = [
        len(set(before) - set(cut(partition, positions[:index] + positions[index + 1 :])))
        for index in range(0, 2_000, 20)
    ]
    assert changes.count(0) > 80
    assert max(changes) <= 4 < len(before)


def test_all_samples_at_one_leaf_are_divided_below_it():
    regions = cut(tree(5, 20), at_leaf(7, 200))
    assert len(regions) >= 10
    assert all(region.lo >> BELOW_LEAF == 7 for region in regions[1:])


def test_as_many_copies_as_allowed_fit_between_two_full_margins():
    partition = tree(4, 9)
    copies = [99] * partition.max_copies
    assert [counter(copies)(*region) for region in cut(partition, copies)] == [len(copies)]
    crowd = [97] * 3 + [98] * 3 + copies + [100] * 3
    assert [counter(crowd)(*region) for region in cut(partition, crowd)] == [6, 6]


def test_more_copies_than_allowed_are_held_by_one_cluster():
    assert cut(tree(4, 9), [99] * 50) == [Interval(0, LINE)]


def test_one_prototype_makes_a_line_as_well():
    partition = tree(2, 4, PROTOTYPES[:1])
    assert len(cut(partition, at_leaf(0, 16))) >= 4


# ------------------------------------------------------------------------------------------------- where a sample is


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.real)])
def placed(request, images):
    """A partition of a backbone's own prototypes, and embeddings of real images."""
    backbone = request.getfixturevalue(request.param)
    embeddings = embed(backbone, [backbone.preprocessing.resize(pixels) for pixels in images.pixels[:32]])
    return tree(5, 10, backbone.prototypes), embeddings


def digests(count):
    return [f"{index:04x}{'0' * 60}" for index in range(count)]


def test_a_position_depends_on_the_sample_alone(placed):
    partition, embeddings = placed
    names = digests(len(embeddings))
    together = partition.locate(embeddings, names)
    assert together.dtype == np.int64
    for size in (1, 7):
        for start in range(0, len(names), size):
            part = slice(start, start + size)
            assert np.array_equal(partition.locate(embeddings[part], names[part]), together[part])


def test_a_sample_stands_below_its_nearest_prototype(placed):
    partition, embeddings = placed
    positions = partition.locate(embeddings, digests(len(embeddings)))
    nearest = np.argmax(embeddings.astype(np.float64) @ partition._in_order.T.astype(np.float64), axis=1)
    assert (positions >> BELOW_LEAF).tolist() == nearest.tolist()


def test_equal_embeddings_differ_in_the_tail_of_image_and_owner_alone(placed):
    partition, embeddings = placed
    same = np.repeat(embeddings[:1], 5, axis=0)
    cat, dog = digests(2)
    first, again, other, theirs, nobodys = partition.locate(
        same, [cat, cat, dog, cat, cat], ["ann", "ann", "ann", "bob", ""]
    )
    assert first == again
    assert len({int(position) for position in (first, other, theirs, nobodys)}) == 4
    assert len({int(position) >> TAIL_BITS for position in (first, other, theirs)}) == 1
    assert partition.locate(same[:1], [cat]) == [nobodys]  # an image that is asked about


def test_copies_of_many_owners_are_divided_evenly():
    partition = tree(4, 12)
    row = np.repeat(PROTOTYPES[:1], 600, axis=0)
    owners = [f"owner {index // 5}" for index in range(600)]  # five copies each
    positions = partition.locate(row, digests(1) * 600, owners).tolist()
    count = counter(positions)
    sizes = [count(*region) for region in partition.cut(count)]
    assert sum(sizes) == 600
    assert 4 <= min(sizes) <= max(sizes) <= 12


def test_no_samples_have_no_positions():
    assert len(tree(1, 2).locate(np.empty((0, 8), dtype=np.float32), [])) == 0


def test_the_nearest_region_has_the_most_similar_prototype():
    partition = tree(1, 2)
    regions = [Interval(leaf << BELOW_LEAF, (leaf + 1) << BELOW_LEAF) for leaf in range(LEAVES)]
    for sample in PROTOTYPES:
        (position,) = partition.locate(sample[None], digests(1))
        home = partition.nearest(sample, int(position), regions)
        assert regions[home].lo <= position < regions[home].hi
        others = regions[:home] + regions[home + 1 :]
        expected = np.argsort(partition._in_order @ sample)[-2]
        assert others[partition.nearest(sample, int(position), others)].lo >> BELOW_LEAF == expected


def test_of_regions_that_share_a_prototype_the_closest_on_the_line_is_nearest():
    partition = tree(1, 2)
    (position,) = partition.locate(PROTOTYPES[:1], digests(1))
    here = int(position)
    end = ((here >> BELOW_LEAF) + 1) << BELOW_LEAF
    regions = [Interval(here + 900, here + 1000), Interval(here + 20, here + 900), Interval(here + 1000, end)]
    assert partition.nearest(PROTOTYPES[0], here, regions) == 1


# ------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("minimum", "cap"), [(0, 10), (-1, 10), (6, 11), (5, 5)])
def test_sizes_that_cannot_always_be_kept_are_refused(minimum, cap):
    with pytest.raises(ValueError, match="at least twice"):
        tree(minimum, cap)


def test_more_prototypes_than_the_line_can_name_are_refused():
    with pytest.raises(ValueError, match="At most 32767 prototypes"):
        tree(1, 2, np.ones((2**15, 1), dtype=np.float32))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'forest'.*Known: tree"):
        make_partition(PartitionSpec(kind="forest"), PROTOTYPES)


def test_the_digest_names_settings_and_prototypes():
    partitions = [tree(1, 2), tree(1, 3), tree(1, 2, PROTOTYPES[::-1]), make_partition(PartitionSpec(), PROTOTYPES)]
    assert len({partition.digest for partition in partitions}) == 4
    assert tree(1, 2).digest == partitions[0].digest
