"""A prompt on disk is exactly the prompt that was asked for, or it is refused."""

import dataclasses
import hashlib
import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.checkpoint import CheckpointMismatch, Identity, load, save, tensor_digest
from models.prompt import values_shape
from models.spec import PromptSpec, TrainingSpec
from models.training import TrainedPrompt

SPEC = TrainingSpec(prompt=PromptSpec(size=1))
IDENTITY = Identity(backbone_digest="b" * 64, dim=4, shape=(3, 8), training=SPEC)
PROMPT = TrainedPrompt(
    labels=("Katze", "猫"),
    values=torch.arange(24.0).view(3, 8),
    weight=torch.arange(8.0).view(2, 4),
    bias=torch.tensor([0.5, -0.5]),
    members=7,
    sample_epochs=42,
)
DIGEST = tensor_digest(PROMPT)


def saved(prompt=PROMPT, key="key", identity=IDENTITY):
    return save(prompt, key=key, identity=identity, fingerprint={"device": "cpu"}, seconds=1.5)


def loaded(data, key="key", digest=DIGEST, labels=PROMPT.labels, identity=IDENTITY):
    return load(data, key=key, digest=digest, labels=labels, identity=identity)


def header_of(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["oubli"])


def forged(tensors=None, **changes):
    """An artifact with other header entries (None: without) or other tensors."""
    header = {name: value for name, value in (header_of(saved()) | changes).items() if value is not None}
    given_tensors = {"values": PROMPT.values, "weight": PROMPT.weight, "bias": PROMPT.bias} | (tensors or {})
    kept = {name: tensor for name, tensor in given_tensors.items() if tensor is not None}
    return safetensors.torch.save(kept, {"oubli": json.dumps(header)})


def with_header(header):
    """An artifact that consists of this JSON and of no tensor."""
    return len(header).to_bytes(8, "little") + header


def test_a_prompt_comes_back_as_it_was():
    again = loaded(saved())
    for name in ("values", "weight", "bias"):
        assert torch.equal(getattr(again, name), getattr(PROMPT, name))
    assert again.labels == PROMPT.labels
    assert (again.members, again.sample_epochs) == (7, 42)
    assert tensor_digest(again) == DIGEST


def test_a_trained_prompt_comes_back_with_the_same_bits(tiny, spec, trained, bits):
    identity = Identity(backbone_digest=tiny.digest, dim=tiny.dim, shape=values_shape(spec.prompt, tiny), training=spec)
    again = loaded(
        saved(trained, identity=identity), digest=tensor_digest(trained), labels=trained.labels, identity=identity
    )
    assert bits(again) == bits(trained)


def test_the_same_prompt_is_the_same_file():
    assert saved() == saved()


def test_the_header_records_what_the_training_took():
    header = header_of(saved())
    assert header["seconds"] == 1.5
    assert header["fingerprint"] == {"device": "cpu"}
    assert header["training"]["prompt"] == {"kind": "padding", "size": 1}


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"key": "another"}, "key is not the expected one"),
        ({"labels": ("cat", "dog")}, "labels is not the expected one"),
        ({"digest": "0" * 64}, "digest is not the expected one"),
        ({"identity": dataclasses.replace(IDENTITY, backbone_digest="c" * 64)}, "backbone is not the expected one"),
        ({"identity": dataclasses.replace(IDENTITY, training=TrainingSpec())}, "training is not the expected one"),
        ({"identity": dataclasses.replace(IDENTITY, dim=5)}, r"weight is \(2, 4\)"),
        ({"identity": dataclasses.replace(IDENTITY, shape=(3, 9))}, r"values is \(3, 8\)"),
    ],
)
def test_another_prompt_than_the_one_asked_for_is_refused(expected, reason):
    with pytest.raises(CheckpointMismatch, match=reason):
        loaded(saved(), **expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a prompt artifact"),
        (b"garbage" * 99, "not a prompt artifact"),
        (saved()[:-1], "incomplete"),
        (saved()[:100], "not a prompt artifact"),
        (saved() + b"\0", "incomplete"),
        (with_header(b"[]"), "not a prompt artifact"),
        (with_header(b'{"__metadata__": {"oubli": "[]"}}'), "not a prompt artifact"),
        (with_header(b'{"__metadata__": {"oubli": 1}}'), "not a prompt artifact"),
        (with_header(b"[" * 100_000), "not a prompt artifact"),
        (safetensors.torch.save({"values": PROMPT.values}), "not a prompt artifact"),
        (forged(format="oubli-prompt-0"), "format is not"),
        (forged(labels=None), "labels is not"),
        (forged(labels=7), "labels is not"),
        (forged(members="many"), "incomplete"),
        (forged(labels=["Katze"]), "labels is not"),
        (forged(labels=["猫", "Katze"]), "labels is not"),
        (forged({"bias": None}), "incomplete"),
        (forged({"bias": torch.zeros(3)}), r"bias is \(3,\)"),
        (forged({"bias": PROMPT.bias.half()}), r"float16"),
        (forged({"bias": PROMPT.bias + 1}), "recorded digest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_or_forged_bytes_are_refused(data, reason):
    with pytest.raises(CheckpointMismatch, match=reason):
        loaded(data)


@given(st.integers(0, len(saved()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_changes_nothing_learned(place, change):
    damaged = bytearray(saved())
    damaged[place] ^= change
    try:
        prompt = loaded(bytes(damaged))
    except CheckpointMismatch:
        return
    assert tensor_digest(prompt) == DIGEST


def test_a_flipped_bit_in_the_tensors_is_refused():
    damaged = bytearray(saved())
    damaged[-1] ^= 1
    with pytest.raises(CheckpointMismatch, match="recorded digest"):
        loaded(bytes(damaged))


@pytest.mark.parametrize("wrap", [lambda data: data, with_header])
def test_pickles_are_never_opened(wrap, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "opened"),)

    with pytest.raises(CheckpointMismatch):
        loaded(wrap(pickle.dumps(Bomb())))
    assert not (tmp_path / "opened").exists()


def test_the_digest_is_of_the_tensor_bytes_alone():
    artifact = saved()
    header_size = int.from_bytes(artifact[:8], "little")
    assert hashlib.sha256(artifact[8 + header_size :]).hexdigest() == DIGEST
    assert tensor_digest(dataclasses.replace(PROMPT, values=PROMPT.values + 1)) != DIGEST
