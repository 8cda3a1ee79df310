"""Frozen networks by name: the right weights, one digest for what they are, gradients for images only."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from models.backbone import TIMM_NAMES, Preprocessing, UnknownBackbone, load_backbone

CREATE = timm.create_model


@pytest.fixture
def hub(monkeypatch):
    """hub(create): timm's hub, where `create(name, **options)` stands for every download."""

    def replace(create):
        monkeypatch.setattr(timm, "create_model", create)

    return replace


def unpretrained(name, pretrained, **options):
    return CREATE(name.split(".")[0], pretrained=False, **options)


def seen_by(backbone, pixels):
    """Index of the prototype (ImageNet class) nearest to an image."""
    image = backbone.preprocessing.normalise(backbone.preprocessing.resize(pixels)[None])
    with torch.inference_mode():
        (features,) = backbone.features(image).numpy()
    return int(np.argmax(backbone.prototypes @ features))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownBackbone) as caught:
        load_backbone("resnet-of-mine")
    assert all(name in str(caught.value) for name in ("resnet-of-mine", "efficientnet-lite0", "tiny", *TIMM_NAMES))


# ----------------------------------------------------------------------------------------------------------- tiny


def test_the_tiny_backbone_is_the_same_everywhere(tiny):
    assert load_backbone("tiny").digest == tiny.digest
    state = tiny._network.state_dict()
    np.testing.assert_allclose(
        state["0.bias"][:3], [-0.146207, 0.411150, 0.345228], rtol=1e-4
    )  # the last bits are the processor's
    assert (tiny.dim, tiny.input_size, tiny.prototypes.shape) == (32, 16, (16, 32))


def test_another_input_size_is_another_backbone(tiny):
    larger = load_backbone("tiny", input_size=24)
    assert larger.digest != tiny.digest
    assert larger.weights_digest() == tiny.weights_digest()
    assert larger.preprocessing.resize(np.zeros((9, 9, 3), dtype=np.uint8)).shape == (3, 24, 24)


def test_another_weight_is_another_digest():
    backbone = load_backbone("tiny")
    before = backbone.weights_digest()
    backbone._network[0].bias[0] += 1
    assert backbone.weights_digest() != before


def test_features_are_differentiable_in_the_images_only(tiny):
    images = torch.zeros((2, 3, 16, 16), requires_grad=True)
    tiny.features(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in tiny._network.parameters())
    assert not any(module.training for module in tiny._network.modules())


def test_prototypes_have_length_one(tiny):
    assert np.allclose(np.linalg.norm(tiny.prototypes, axis=1), 1)


# -------------------------------------------------------------------------------------------------- preprocessing


def test_resizing_keeps_what_has_the_right_size_and_interpolates_the_rest(images):
    pixels = images.pixels[0]
    same = Preprocessing(32, (0.5,) * 3, (0.5,) * 3).resize(pixels)
    assert np.array_equal(same.numpy().transpose(1, 2, 0), pixels)
    larger = Preprocessing(48, (0.5,) * 3, (0.5,) * 3).resize(pixels)
    expected = np.asarray(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC))
    assert np.array_equal(larger.numpy().transpose(1, 2, 0), expected)


def test_normalising_treats_each_channel_alone():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = Preprocessing(1, (0.0, 0.2, 0.5), (1.0, 0.5, 0.25)).normalise(images)
    torch.testing.assert_close(normalised.flatten(), torch.tensor([0.0, 0.0, 2.0]))
    assert images.flatten().tolist() == [0, 51, 255]


# ------------------------------------------------------------------------------------------------ efficientnet-lite0


@pytest.mark.real
def test_efficientnet_lite0_has_1280_features_and_1000_public_prototypes(real):
    assert (real.dim, real.input_size, real.prototypes.shape) == (1280, 96, (1000, 1280))
    assert real.weights_digest() == "cfc9acc8e33cf828e8c7cdb4ed0f34ce6c03edea0361fafbaa30200932979f2a"


@pytest.mark.real
def test_efficientnet_lite0_knows_a_flower_and_a_temple():
    backbone = load_backbone("efficientnet-lite0", input_size=224)
    assert seen_by(backbone, load_sample_image("flower.jpg")) == 985  # daisy
    assert seen_by(backbone, load_sample_image("china.jpg")) in {449, 698, 832}  # boathouse, palace, stupa


@pytest.mark.real
def test_weights_of_another_network_are_refused(hub):
    hub(lambda name, **options: CREATE("resnet18", **options))
    with pytest.raises(UnknownBackbone, match="296 tensors where 122 are expected"):
        load_backbone("efficientnet-lite0")


# ----------------------------------------------------------------------------------------------------------- timm


def test_any_timm_model_serves_with_its_own_preprocessing(hub):
    hub(unpretrained)
    backbone = load_backbone("resnet18")
    assert (backbone.name, backbone.dim, backbone.input_size) == ("resnet18", 512, 224)
    assert backbone.preprocessing.mean == (0.485, 0.456, 0.406)
    with torch.inference_mode():
        assert backbone.features(torch.zeros((1, 3, 64, 64))).shape == (1, 512)


def test_the_papers_names_stand_for_timms(hub):
    asked = []

    def create(name, pretrained):
        asked.append(name)
        return unpretrained("resnet18", pretrained)

    hub(create)
    backbones = [load_backbone(name) for name in TIMM_NAMES]
    assert asked == list(TIMM_NAMES.values())
    assert [backbone.name for backbone in backbones] == list(TIMM_NAMES)


def test_weights_that_cannot_be_had_are_named(hub):
    def create(name, pretrained):
        raise OSError("no network")

    hub(create)
    with pytest.raises(UnknownBackbone, match="'vit-b-1k' could not be loaded: no network"):
        load_backbone("vit-b-1k")


def test_an_input_size_that_a_timm_model_does_not_take_is_refused(hub):
    hub(unpretrained)
    with pytest.raises(UnknownBackbone, match="takes images of 224 pixels, not 96"):
        load_backbone("resnet18", input_size=96)


def test_a_network_without_a_linear_classifier_has_no_prototypes(hub):
    hub(lambda name, pretrained: unpretrained(name, pretrained, num_classes=0))
    with pytest.raises(UnknownBackbone, match="no linear classifier"):
        load_backbone("resnet18")
