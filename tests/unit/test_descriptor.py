"""Descriptors: a function of the image and its kind, for every architecture; embeddings keep their bits beside them."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from models.backbone import Backbone, Preprocessing, load_backbone
from models.closed_form import accumulate, quantise, solve, summarise
from models.depths import MOST, SUMMARY, Depths
from models.descriptor import SCALE, is_descriptor
from models.descriptor_kind import QUICK, DescriptorKind
from models.embedding import BATCH, DegenerateEmbedding, check, describe, embed

KINDS = [
    DescriptorKind("quick"),
    DescriptorKind("rich"),
    DescriptorKind("rich", mirrored=False),
    DescriptorKind("richest"),
]
HALF = (0.5, 0.5, 0.5)

# Pixels of the input, and entries of rich and richest descriptors of random weights: what is read of each architecture.
ARCHITECTURES = {
    "mobilenetv3_small_050": (64, {}, 984, 2_584),
    "resnet18": (64, {}, 2_880, 6_720),
    "resnet50": (64, {}, 4_096, 7_680),
    "convnext_atto": (64, {}, 2_360, 4_600),
    "vit_tiny_patch16_224": (32, {"img_size": 32}, 1_152, 3_456),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56}, 2_784, 8_160),
    "deit_tiny_distilled_patch16_224": (32, {"img_size": 32}, 1_152, 3_456),
}


def untrained(name: str, kind: DescriptorKind) -> Backbone:
    size, options, *_ = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    rows = torch.randn((4, network.num_features))
    return Backbone(
        name=name,
        network=network,
        classifier=rows,
        preprocessing=Preprocessing(size, HALF, HALF),
        device="cpu",
        kind=kind,
    )


def noise(backbone, count, seed=0):
    size = backbone.input_size
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(count)]


def mirrored(images):
    return [image.flip(2) for image in images]


# -------------------------------------------------------------------------------------------------------------- kinds


def test_every_kind_has_a_name_of_its_own_and_that_of_earlier_releases_is_kept():
    assert [kind.name for kind in KINDS] == [QUICK, "rich+mirror/1", "rich/1", "richest+mirror/1"]
    assert QUICK == "every block but the first/1"
    assert [kind.views for kind in KINDS] == [1, 2, 1, 2]
    assert DescriptorKind("quick", mirrored=False).name == QUICK


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_embeddings_keep_their_bits_beside_any_descriptor(tiny, kind):
    """Clusters and keys depend on them: they are what the network alone says of a full batch."""
    backbone = load_backbone("tiny", kind=kind)
    images = noise(backbone, BATCH + 3)
    with torch.inference_mode():
        batch = backbone.preprocessing.normalise(torch.stack(images[:BATCH]))
        alone = backbone._unwatched(batch.to(memory_format=torch.channels_last)).double().numpy()
    expected = (alone / np.linalg.norm(alone, axis=1, keepdims=True)).astype(np.float32)
    found = describe(backbone, images).embeddings
    assert backbone.digest == tiny.digest
    assert np.array_equal(found[:BATCH], expected)
    assert np.array_equal(found, embed(tiny, images))


@pytest.mark.real
def test_the_real_embeddings_keep_their_bits_too(images):
    backbones = [load_backbone("efficientnet-lite0", kind=kind) for kind in KINDS]
    resized = [backbones[0].preprocessing.resize(pixels) for pixels in images.pixels[:9]]
    first, *others = [describe(backbone, resized).embeddings for backbone in backbones]
    assert all(np.array_equal(first, other) for other in others)
    assert [backbone.descriptor_width for backbone in backbones] == [768, 2_560, 2_560, 5_536]
    assert {len(entries) for backbone in backbones if (entries := backbone.depths.summary) is not None} == {768}


# ----------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("features", ["rich", "richest"])
def test_a_descriptor_of_any_architecture_is_a_function_of_the_image(deterministic, name, features):
    backbone = untrained(name, DescriptorKind(features))
    images = noise(backbone, 9)
    found = describe(backbone, images).descriptors
    *_, rich, richest = ARCHITECTURES[name]
    assert (found.dtype, found.shape) == (np.int16, (9, {"rich": rich, "richest": richest}[features]))
    assert found.shape[1] <= MOST[features]
    assert is_descriptor(found.astype(np.float64))
    assert np.array_equal(describe(backbone, images[4:5]).descriptors[0], found[4])
    assert np.array_equal(describe(backbone, mirrored(images)).descriptors, found)
    assert len({row.tobytes() for row in found}) == 9
    last = backbone.depths.parts[-1].stage.channels or 0
    assert 0 < len(backbone.depths.summary) <= max(SUMMARY, last)


def test_tokens_for_the_class_are_no_part_of_the_statistics(deterministic):
    """The means of a ViT's maps are over patches: those of the last block, worked out by hand."""
    backbone = untrained("vit_tiny_patch16_224", DescriptorKind("rich", mirrored=False))
    batch = backbone.preprocessing.normalise(torch.stack(noise(backbone, 2)))
    seen = []
    handle = backbone._network.blocks[11].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        _, parts = backbone.features_by_depth(batch)
    handle.remove()
    patches = seen[0][:, 1:]  # [2, 4, 192]
    assert torch.allclose(parts[2], patches.mean(1), atol=1e-6)
    assert torch.allclose(parts[5], patches.std(1, correction=0), atol=1e-6)


def test_maps_with_channels_last_are_read_as_maps(deterministic):
    backbone = untrained("swin_tiny_patch4_window7_224", DescriptorKind("rich", mirrored=False))
    batch = backbone.preprocessing.normalise(torch.stack(noise(backbone, 2)))
    seen = []
    handle = backbone._network.layers[3].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        _, parts = backbone.features_by_depth(batch)
    handle.remove()
    assert torch.allclose(parts[-1], seen[0].std((1, 2), correction=0), atol=1e-6)  # [2, h, w, 768]


def test_a_network_whose_blocks_nobody_knows_is_described_by_its_features(deterministic):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(8, HALF, HALF)
    backbone = Backbone(
        name="own", network=network, classifier=torch.eye(8), preprocessing=preprocessing, device="cpu", kind=KINDS[2]
    )
    found = describe(backbone, noise(backbone, 3))
    assert backbone.depths.parts == []
    assert backbone.descriptor_width == 8
    assert np.array_equal(found.descriptors, np.rint(found.embeddings * np.float32(SCALE)))


def test_an_account_that_names_what_is_not_there_is_passed_over(deterministic):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.feature_info = [{"module": "9"}, {"num_chs": 3}, {"module": "0"}, {"module": "1"}, {"module": "3"}]
    depths = Depths(network, "rich", torch.zeros((1, 3, 8, 8)))
    assert depths.widths == [8, 8]  # of "1": "3" gives no maps, and "0" is the first


# ----------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_is_the_same_in_every_chunking_and_at_any_number_of_threads(kind):
    backbone = load_backbone("tiny", kind=kind)
    images = noise(backbone, BATCH + 3)
    together = describe(backbone, images).descriptors
    for size in (1, 5, BATCH):
        parts = [describe(backbone, images[start : start + size]) for start in range(0, len(images), size)]
        assert np.array_equal(np.concatenate([part.descriptors for part in parts]), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(describe(backbone, images).descriptors, together)
    finally:
        torch.set_num_threads(threads)


def test_left_and_right_are_told_apart_where_no_mirror_image_is_seen():
    backbone = load_backbone("tiny", kind=DescriptorKind("rich", mirrored=False))
    images = noise(backbone, 3)
    assert not np.array_equal(*(describe(backbone, these).descriptors for these in (images, mirrored(images))))


def test_a_small_batch_of_queries_is_described_as_a_full_one_is_but_for_rounding(tiny):
    images = noise(tiny, 3)
    quick, full = (describe(tiny, images, exact=exact).descriptors.astype(int) for exact in (False, True))
    assert np.abs(quick - full).max() <= 1


def test_a_part_without_any_deviation_stays_silent_and_the_rest_speaks(deterministic):
    """A picture of one colour, behind a layer that sees no borders."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.feature_info = [{"module": "1"}, {"module": "2"}]
    backbone = Backbone(
        name="flat", network=network, classifier=torch.eye(8), preprocessing=Preprocessing(8, HALF, HALF), device="cpu"
    )
    ((embedding,), (descriptor,)) = describe(backbone, [torch.full((3, 8, 8), 90, dtype=torch.uint8)])
    check(embedding, descriptor)
    assert backbone.depths.widths == [8, 8]
    assert descriptor[:8].any()
    assert not descriptor[8:].any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0])
def test_features_that_say_nothing_make_a_descriptor_that_is_refused(deterministic, broken):
    class Broken(nn.Module):
        def forward(self, maps):
            return maps * broken

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), Broken(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.feature_info = [{"module": "1"}, {"module": "2"}]
    backbone = Backbone(
        name="broken",
        network=network,
        classifier=torch.eye(8),
        preprocessing=Preprocessing(8, HALF, HALF),
        device="cpu",
    )
    ((embedding,), (descriptor,)) = describe(backbone, noise(backbone, 1))
    assert not descriptor.any()
    for says_nothing in (embedding, np.ones_like(embedding)):
        with pytest.raises(DegenerateEmbedding):
            check(says_nothing, descriptor)


# ------------------------------------------------------------------------------------------------------- closed form


def test_a_descriptor_counts_as_the_integers_that_it_is_made_of(tiny):
    rows = describe(tiny, noise(tiny, 6)).descriptors
    assert np.array_equal(quantise(rows), rows)
    with pytest.raises(ValueError, match="not a unit vector"):
        quantise(rows * 2)


def test_kinds_of_equal_width_have_different_digests(tiny):
    rows = describe(tiny, noise(tiny, 6)).descriptors
    digests = {accumulate(rows.shape[1], [(rows, "aabbcc")], kind=kind.name).digest() for kind in KINDS}
    assert len(digests) == len(KINDS)


def test_a_head_for_the_meantime_is_that_of_its_entries_alone(tiny):
    """As if descriptors had no other entries, and these were unit vectors; they nearly are, times a constant."""
    rows = describe(tiny, noise(tiny, 40)).descriptors
    labels = [str(i % 4) for i in range(40)]
    entries = tiny.depths.summary
    assert entries.tolist() == list(range(32))
    head = summarise(accumulate(64, [(rows, labels)], kind=tiny.kind.name), entries)
    chosen = rows[:, entries] / SCALE
    units = (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)
    alone = solve(accumulate(32, [(units, labels)]), ridge=0.3)
    assert head.labels == alone.labels
    assert np.allclose(head.scores(rows, 0.1), alone.scores(units, 0.1), atol=0.05)
