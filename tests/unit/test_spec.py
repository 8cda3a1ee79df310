"""Names of what is built: everything that matters changes them, nothing else does."""

import dataclasses

import pytest

from models.spec import PromptSpec, TrainingSpec, canonical_json, member_digest, prompt_key, sha256

MEMBERS = ["a" * 64, "b" * 64]
SPEC = TrainingSpec()


def key(backbone_digest="0" * 64, training=SPEC, members=MEMBERS):
    return prompt_key(backbone_digest=backbone_digest, training=training, members=members)


def test_a_digest_knows_where_its_parts_end():
    assert len({sha256(b"ab", b"c"), sha256(b"a", b"bc"), sha256(b"abc"), sha256(b"abc", b"")}) == 4


def test_one_value_has_one_json():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == b'{"a":"\\u00e9","b":1}'


def test_what_is_no_number_has_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_every_setting_is_part_of_the_training_digest():
    changes = [{field.name: None} for field in dataclasses.fields(TrainingSpec)] + [{"prompt": PromptSpec(size=3)}]
    digests = {
        dataclasses.replace(TrainingSpec(), **change).digest() for change in changes if change != {"prompt": None}
    }
    assert len(digests | {TrainingSpec().digest()}) == len(changes)


def test_a_member_is_its_image_and_its_label():
    digests = {member_digest("ab", "c"), member_digest("a", "bc"), member_digest("ab", "d")}
    assert len(digests) == 3
    assert member_digest("ab", "c") in digests


def test_a_prompts_key_names_backbone_training_and_members_in_their_order():
    others = [
        key(backbone_digest="1" * 64),
        key(training=TrainingSpec(epochs=7)),
        key(members=MEMBERS[::-1]),
        key(members=MEMBERS[:1]),
        key(members=MEMBERS * 2),
    ]
    assert len({key(), *others}) == 6
    assert key(members=iter(MEMBERS)) == key()


def trained_with(prompt):
    return TrainingSpec(prompt=prompt)


def test_settings_that_came_later_leave_older_keys_as_they_were():
    assert TrainingSpec().digest() == "113be250c2c42dba89fd88f7f9aa62f9347fbe4abd69fbeee052d8e042bb98e8"
    prompts = [PromptSpec(init_std=1.0), PromptSpec(start="0" * 64), PromptSpec(kind="fixed_patch")]
    later = [TrainingSpec(label_smoothing=0.1), TrainingSpec(prompt_decay=0.1)]
    assert len({spec.digest() for spec in [TrainingSpec(), *map(trained_with, prompts), *later]}) == 6
