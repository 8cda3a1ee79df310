"""The paper's checkpoint files, written in each one's real layout with random weights; wrong ones are refused."""

import hashlib
import re

import pytest
import timm
import torch

from models import published
from models.backbone import UnknownBackbone, load_backbone
from models.published import CHECKPOINTS, HALF, IMAGENET_MEAN, IMAGENET_STD

SMALL = {  # the same modules and names, narrower and with fewer classes: the real ones are 350 MB each
    "vit_base_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "swin_base_patch4_window7_224": {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
}
CREATE = timm.create_model


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def create(name, pretrained, num_classes):
        torch.manual_seed(0)
        return CREATE(name, pretrained=pretrained, num_classes=min(num_classes, 70), **SMALL[name])

    monkeypatch.setattr(timm, "create_model", create)


def original(name):
    """(weights as the authors' file names them, features [2, dim] that they give two images, the images)."""
    architecture = CHECKPOINTS[name].architecture
    network = timm.create_model(architecture, pretrained=False, num_classes=CHECKPOINTS[name].classes).eval()
    random = torch.Generator().manual_seed(1)
    state = {key: torch.randn(value.shape, generator=random) * 0.1 for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    images = torch.randn((2, 3, 224, 224), generator=random)
    with torch.no_grad():
        features = network.forward_head(network.forward_features(images), pre_logits=True)
    if architecture.startswith("swin"):
        return _original_swin(state), features, images
    if name == "vit-b-22k":
        weight, bias = torch.randn((32, 32), generator=random), torch.randn(32, generator=random)
        state |= {"pre_logits.fc.weight": weight, "pre_logits.fc.bias": bias}
        features = torch.tanh(features @ weight.T + bias)
    return state, features, images


def _original_swin(state):
    """Microsoft's names: reduction at the end of a stage, `head`, and buffers that timm works out by itself."""
    renamed = {}
    for key, value in state.items():
        moved = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
        renamed[moved.replace("head.fc.", "head.")] = value
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros((49, 49), dtype=torch.int64)
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros((64, 49, 49))
    return renamed


@pytest.fixture
def save(tmp_path):
    """save(content): a file and its MD5."""

    def write(content):
        path = tmp_path / "backbone.pth"
        torch.save(content, path)
        return path, hashlib.md5(path.read_bytes()).hexdigest()

    return write


@pytest.mark.parametrize("wrapped", [None, "model", "state_dict", "module"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_each_file_gives_the_features_that_its_authors_model_gives(name, wrapped, save):
    state, features, images = original(name)
    path, md5 = save(state if wrapped is None else {wrapped: state, "epoch": 300})
    backbone = load_backbone(name, checkpoint=path, md5=md5)
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(images), features, rtol=1e-4, atol=1e-5)
    rows = state["head.weight"].double()
    torch.testing.assert_close(
        torch.from_numpy(backbone.prototypes).double(), rows / rows.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_each_file_has_its_authors_normalisation(save):
    found = {}
    for name in CHECKPOINTS:
        path, md5 = save(original(name)[0])
        preprocessing = load_backbone(name, checkpoint=path, md5=md5).preprocessing
        found[name] = (preprocessing.input_size, preprocessing.mean, preprocessing.std)
    imagenet = (224, IMAGENET_MEAN, IMAGENET_STD)
    assert found == {
        "vit-b-1k": imagenet,
        "vit-b-22k": (224, HALF, HALF),
        "swin-b-1k": imagenet,
        "swin-b-22k": imagenet,
    }


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_file_with_another_sum_is_refused_before_it_is_read(name, save, monkeypatch):
    path, md5 = save({"harmless": torch.zeros(1)})
    monkeypatch.setattr(published.torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UnknownBackbone, match=f"MD5 {md5}, not {CHECKPOINTS[name].md5}"):
        load_backbone(name, checkpoint=path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"head.weight": torch.zeros((2, 2))}, "does not hold the weights of vit-b-1k"),
        ([torch.zeros(1)], "something else than weights by name"),
        ({"state_dict": {"epoch": 3}}, "something else than weights by name"),
    ],
)
def test_what_is_not_that_network_is_refused(content, said, save):
    path, md5 = save(content)
    with pytest.raises(UnknownBackbone, match=said):
        load_backbone("vit-b-1k", checkpoint=path, md5=md5)


def test_one_networks_weights_are_not_anothers(save):
    path, md5 = save(original("vit-b-1k")[0])
    with pytest.raises(UnknownBackbone, match="does not hold the weights of swin-b-1k"):
        load_backbone("swin-b-1k", checkpoint=path, md5=md5)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return (print, ("this was run",))

    path = tmp_path / "backbone.pth"
    torch.save({"head.weight": Code()}, path)
    with pytest.raises(UnknownBackbone, match="not a file of tensors"):
        load_backbone("vit-b-1k", checkpoint=path, md5=hashlib.md5(path.read_bytes()).hexdigest())
    assert "this was run" not in capsys.readouterr().out


def test_what_is_not_there_or_not_known_is_said(tmp_path):
    with pytest.raises(UnknownBackbone, match="cannot be read: No such file"):
        load_backbone("vit-b-1k", checkpoint=tmp_path / "none.pth")
    with pytest.raises(UnknownBackbone, match=r"'resnet'.*Known: vit-b-1k, vit-b-22k, swin-b-1k, swin-b-22k"):
        load_backbone("resnet", checkpoint=tmp_path / "none.pth")


def test_another_input_size_is_refused(save):
    path, md5 = save(original("vit-b-1k")[0])
    with pytest.raises(UnknownBackbone, match="takes images of 224 pixels, not 96"):
        load_backbone("vit-b-1k", checkpoint=path, md5=md5, input_size=96)
