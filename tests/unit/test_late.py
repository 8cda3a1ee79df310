"""A network in two parts is the network itself, and each row of a batch is adapted by its own prompt."""

import copy
import threading
import weakref

import pytest
import timm
import torch
from torch import nn

from models.backbone import load_backbone
from models.cuts import _Tap
from models.embedding import Keep, describe
from models.folding import TOLERANCE
from models.late import CannotCut, LatePart, default_cut
from tests.unit.test_folding import with_statistics

KINDS = {  # of timm, as small as they can be made
    "cnn": ("resnet18", 32, {}),
    "mobile": ("mobilenetv3_small_050", 32, {}),
    "vit": ("vit_tiny_patch16_224", 32, {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        32,
        {"img_size": 32, "window_size": 2, "embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)},
    ),
}


def network_of(kind):
    """With random weights and random statistics, and images for it."""
    name, size, options = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    images = torch.randn((4, 3, size, size), generator=torch.Generator().manual_seed(4))
    return with_statistics(network), images.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module", params=KINDS)
def divided(request, deterministic):
    network, images = network_of(request.param)
    return network, LatePart(network, None, images[:2]), images


def prompts_of(late, count, seed=5):
    return 0.3 * torch.randn((count, 2, late.width), generator=torch.Generator().manual_seed(seed))


def assert_close(actual, expected):
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_prompts_of_zeros_give_what_the_frozen_network_gives(divided):
    network, late, images = divided
    with torch.no_grad():
        expected = network(images)
        for rows in (1, len(images)):
            assert_close(late.late(late.early(images), torch.zeros((rows, 2, late.width))), expected)


def test_without_batchnorm_they_give_its_very_bits(deterministic):
    for kind in ("vit", "swin"):
        network, images = network_of(kind)
        late = LatePart(network, None, images[:2])
        with torch.no_grad():
            assert torch.equal(late.late(late.early(images), torch.zeros((1, 2, late.width))), network(images))


def test_each_row_is_adapted_by_its_own_prompt_whatever_its_neighbours(divided):
    _, late, images = divided
    with torch.no_grad():
        activations, prompts = late.early(images), prompts_of(late, len(images))
        mixed = late.late(activations, prompts)
        for row in range(len(images)):
            same = late.late(activations[row : row + 1], prompts[row : row + 1])
            assert_close(mixed[row : row + 1], same)
            changed = prompts.clone()
            changed[torch.arange(len(images)) != row] = 0.7
            assert torch.equal(late.late(activations, changed)[row], mixed[row])
            assert not torch.equal(late.late(activations, changed)[row - 1], mixed[row - 1])


def test_a_scale_and_a_shift_change_every_site(divided):
    _, late, images = divided
    activations = late.early(images)
    values = torch.zeros((1, 2, late.width), requires_grad=True)
    late.late(activations, values).square().sum().backward()
    scales, shifts = values.grad[0]
    assert (scales != 0).float().mean() > 0.3  # a ReLU may be silent for four images
    assert (shifts != 0).float().mean() > 0.3


def test_the_recorded_pass_has_the_bits_of_the_eager_one(divided):
    _, late, images = divided
    with torch.no_grad():
        for count in (1, 3, 1):
            activations, prompts = late.early(images[:count]), prompts_of(late, count)
            assert torch.equal(late.inference(activations, prompts)[0], late.late(activations, prompts))


def test_the_network_keeps_its_weights_its_modules_and_its_bits(deterministic):
    for kind in KINDS:
        network, images = network_of(kind)
        before, modules = copy.deepcopy(network.state_dict()), [type(module) for module in network.modules()]
        with torch.no_grad():
            expected = network(images)
            late = LatePart(network, None, images[:2])
            late.late(late.early(images), prompts_of(late, 1))
            assert torch.equal(network(images), expected)
        assert [type(module) for module in network.modules()] == modules
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_sites_of_a_network_with_batchnorm_are_its_norms_after_the_cut(deterministic):
    network, images = network_of("cnn")
    for cut in (1, 2, 3, 4):
        names = tuple(f"layer{stage}." for stage in range(cut, 5))
        norms = [m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and n.startswith(names)]
        late = LatePart(network, cut, images[:2])
        assert late.width == sum(norm.num_features for norm in norms)
        with torch.no_grad():
            assert_close(late.late(late.early(images), torch.zeros((1, 2, late.width))), network(images))


def test_a_vits_sites_are_the_norms_and_linear_layers_of_its_last_blocks(deterministic):
    network, images = network_of("vit")
    late = LatePart(network, 3, images[:2])
    # norm1, qkv, proj, norm2, fc1, fc2 of one block, and the last norm
    assert late.width == 24 * (1 + 3 + 1 + 1 + 4 + 1) + 24


def test_threads_do_not_see_each_others_prompts(divided):
    _, late, images = divided
    activations = late.early(images).detach()
    prompts = [prompts_of(late, 1, seed) for seed in range(4)]
    with torch.no_grad():
        expected = [late.late(activations, prompt) for prompt in prompts]
    found = [[] for _ in prompts]

    def ask(number):
        with torch.no_grad():
            found[number] += [late.late(activations, prompts[number]) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in enumerate(found):
        assert len(answers) == 5
        assert all(torch.equal(answer, expected[number]) for answer in answers)


@pytest.mark.parametrize("cut", [0, 4, -1, 40])
def test_a_cut_that_is_not_there_is_refused(cut):
    network, images = network_of("vit")
    with pytest.raises(CannotCut, match="must be 1 to 3"):
        LatePart(network, cut, images[:2])


class Shortcut(nn.Sequential):
    """What comes last also looks at the image itself."""

    def forward(self, images):
        return self[1](self[0](images)).flatten(1) + images.mean((1, 2, 3))[:, None]


def test_a_network_that_cannot_be_divided_is_refused():
    images = torch.randn((2, 3, 8, 8))
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 8)).eval().requires_grad_(False)
    with pytest.raises(CannotCut, match="what the blocks of this backbone are"):
        LatePart(plain, None, images)
    shortcut = Shortcut(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 8)).eval().requires_grad_(False)
    shortcut.feature_info = [{"module": "0"}, {"module": "1"}]
    with pytest.raises(CannotCut, match="more than the activations"):
        LatePart(shortcut, None, images)


def test_three_sevenths_lie_before_the_default_cut():
    assert {blocks: default_cut(blocks) for blocks in (2, 4, 5, 7, 12, 24)} == {2: 1, 4: 2, 5: 2, 7: 3, 12: 5, 24: 10}


def test_describing_images_keeps_what_the_early_part_computes(tiny, images):
    pictures = [tiny.preprocessing.resize(pixels) for pixels in images.pixels[:11]]
    late, keep = tiny.cuts.at(None), Keep(None)
    described = describe(tiny, pictures, keep=keep)
    plain = describe(tiny, pictures)
    assert (described.embeddings == plain.embeddings).all()
    assert (described.descriptors == plain.descriptors).all()
    assert len(keep.activations) == 11
    with torch.no_grad():
        expected = late.early(tiny.preprocessing.normalise(torch.stack(pictures)))
    torch.testing.assert_close(torch.stack(keep.activations), expected)


def test_a_tap_keeps_nothing_of_a_pass(deterministic):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).eval().requires_grad_(False)
    tap, images, computed = _Tap(network[0]), torch.ones((1, 3, 2, 2)), []
    network[0].register_forward_hook(lambda _module, _inputs, output: computed.append(weakref.ref(output)))
    result, seen = tap.read(lambda: network(images))
    assert torch.equal(network[1](seen), result)
    del seen
    network(images)
    assert [kept() for kept in computed] == [None, None]


@pytest.mark.real
def test_the_default_backbone_is_cut_before_its_fourth_stage():
    backbone = load_backbone("efficientnet-lite0")
    late = backbone.cuts.at(None)
    assert (late.cut, late.width, late.shape) == (3, 19_552, (40, 12, 12))
