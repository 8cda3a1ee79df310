"""Folding changes how a network computes, never what; and never the network it was made from."""

import threading

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from models import folding
from models.backbone import load_backbone
from models.folding import TOLERANCE, fold

EXAMPLE = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def with_statistics(network):
    """Frozen, in eval mode, with statistics and scales that are not those of a new network."""
    random = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data = torch.randn(tensor.shape, generator=random)
            for tensor in (module.running_var, module.weight):
                tensor.data = torch.rand(tensor.shape, generator=random) + 0.5
    return network.eval().requires_grad_(False)


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def seen(network, images=EXAMPLE):
    with torch.no_grad():
        return network(images)


def assert_close(network, folded, images=EXAMPLE):
    expected = seen(network, images)
    torch.testing.assert_close(seen(folded, images), expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


class Branching(nn.Module):
    """A convolution whose output is read by a norm and by something else."""

    def __init__(self, other):
        super().__init__()
        self.convolution, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), other

    def forward(self, images):
        found = self.convolution(images)
        return self.other(found, self.norm(found))


class Twice(nn.Module):
    """One convolution or one norm in two places."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, images):
        first, norm, second, last = self.parts
        return last(second(norm(first(images))))


# ------------------------------------------------------------------------------------------------ what is folded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_after_a_convolution_is_folded(bias, affine):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine), nn.ReLU())
    if affine:
        with_statistics(network)
    network.eval().requires_grad_(False)
    folded = fold(network, EXAMPLE)
    assert (len(norms(network)), len(norms(folded))) == (1, 0)
    assert_close(network, folded, EXAMPLE * 3)


def test_timms_norm_keeps_its_activation():
    norm = BatchNormAct2d(4, act_layer=nn.ReLU, drop_layer=nn.Hardtanh)
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), norm))
    folded = fold(network, EXAMPLE)
    assert not norms(folded)
    assert [type(part) for part in folded[1]] == [nn.Hardtanh, nn.ReLU]
    assert_close(network, folded)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_every_norm_of_a_known_architecture_is_folded(name):
    network = with_statistics(timm.create_model(name, pretrained=False, num_classes=0))
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    for norm in norms(network):  # as after training: what each norm sees is what its statistics say
        norm.reset_parameters()
        norm.momentum = None
        norm.train()
    seen(network, images)
    network.eval()
    folded = fold(network, images)
    assert norms(network)
    assert not norms(folded)
    assert_close(network, folded, images.flip(3))
    assert not any(parameter.requires_grad for parameter in folded.parameters())


# -------------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize(
    "other",
    [
        lambda found, normed: found + normed,
        lambda found, normed: normed + found.flatten(1).mean(),
        lambda found, normed: normed * found[:, :1],
    ],
    ids=["added", "viewed", "sliced"],
)
def test_a_convolution_whose_output_is_read_twice_is_not_folded(other, monkeypatch):
    monkeypatch.setattr(folding, "agree", lambda *outputs: True)  # the watching alone must see it
    network = with_statistics(Branching(other))
    assert fold(network, EXAMPLE) is network


def test_a_convolution_whose_output_is_answered_is_not_folded():
    network = with_statistics(Branching(lambda found, normed: [found, normed]))
    assert folding._watch(network, EXAMPLE)[1] == []


def test_modules_that_are_called_twice_are_not_folded(monkeypatch):
    monkeypatch.setattr(folding, "agree", lambda *outputs: True)
    convolution, norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
    for parts in (
        (convolution, norm, convolution, nn.BatchNorm2d(3)),
        (convolution, norm, nn.Conv2d(3, 3, 3), norm),
    ):
        network = with_statistics(Twice(*parts))
        folded = fold(network, EXAMPLE)
        assert len(norms(folded)) == len(norms(network))
        assert torch.equal(seen(folded), seen(network))


def test_something_in_between_keeps_a_norm():
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    assert fold(network, EXAMPLE) is network


def test_statistics_of_the_batch_cannot_be_folded():
    for network in (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(),
    ):
        assert fold(network, EXAMPLE) is network


def test_weights_that_a_hook_makes_are_left_alone():
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    network[0].register_forward_pre_hook(lambda module, args: module.weight.mul_(1))
    assert fold(network, EXAMPLE) is network


def test_a_folded_network_that_differs_is_not_used(monkeypatch):
    def spoil(convolution, norm):
        convolution.bias = nn.Parameter(torch.ones(4), requires_grad=False)

    monkeypatch.setattr(folding, "_fold_into", spoil)
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert fold(network, EXAMPLE) is network


def test_a_transformer_and_the_tiny_network_have_nothing_to_fold(tiny):
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    assert fold(vit, torch.zeros((1, 3, 224, 224))) is vit
    images = EXAMPLE.clone()
    assert torch.equal(tiny.features_folded(images), tiny.features(images))


# -------------------------------------------------------------------------------------------- the one it came from


@pytest.fixture
def small():
    """Two convolutions, one of them with a norm."""
    return with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)))


def test_weights_that_are_not_changed_are_shared(small):
    folded = fold(small, EXAMPLE)
    assert folded[3].weight is small[3].weight
    assert folded[3].bias is small[3].bias
    assert folded[0].weight is not small[0].weight


def test_the_original_is_not_changed(small):
    before, state = seen(small), {name: tensor.clone() for name, tensor in small.state_dict().items()}
    fold(small, EXAMPLE)
    assert torch.equal(seen(small), before)
    assert small.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    assert not any(folding._is_hooked(module) for module in small.modules())


@pytest.mark.real
def test_the_real_backbone_and_its_embeddings_keep_every_bit(images):
    backbone = load_backbone("efficientnet-lite0")
    batch = torch.stack([backbone.preprocessing.resize(pixels) for pixels in images.pixels[:16]])
    batch = backbone.preprocessing.normalise(batch)
    digest = backbone.weights_digest()
    with torch.inference_mode():
        pooled, depths = backbone.features_by_depth(batch)
        folded = backbone.features_folded(batch)
        again, depths_again = backbone.features_by_depth(batch)
    assert backbone.weights_digest() == digest
    assert torch.equal(pooled, again)
    assert all(torch.equal(*pair) for pair in zip(depths, depths_again, strict=True))
    torch.testing.assert_close(folded, pooled, rtol=0, atol=TOLERANCE * float(pooled.abs().max()))
    assert not torch.equal(folded, pooled)
    assert not norms(backbone._folded)


@pytest.mark.real
def test_threads_that_ask_at_once_get_one_folded_network(monkeypatch):
    backbone = load_backbone("efficientnet-lite0")
    folds = []
    monkeypatch.setattr("models.backbone.fold", lambda *call: folds.append(fold(*call)) or folds[-1])
    images = torch.zeros((1, 3, 96, 96))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(backbone.features_folded(images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folds) == 1
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(answers) == 4


@pytest.mark.real
def test_gradients_reach_the_images_and_no_weight(real):
    images = torch.zeros((1, 3, 96, 96), requires_grad=True)
    real.features_folded(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in real._folded.parameters())


def test_a_network_that_is_being_watched_is_folded_without_the_watchers_hooks(monkeypatch):
    """`features_by_depth` may be under way in another thread: none of its hooks may end in the folded network."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    backbone = load_backbone("mobilenetv3_small_050")
    seen_by_watcher = []
    handle = backbone._network.blocks[1].register_forward_hook(lambda *call: seen_by_watcher.append(call))
    backbone.features_folded(torch.zeros((1, 3, 224, 224)))
    handle.remove()
    assert seen_by_watcher == []
