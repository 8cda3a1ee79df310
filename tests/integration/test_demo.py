"""`oubli demo` tells its story and proves it, with real services on the tiny backbone."""

from __future__ import annotations

import re

import pytest

from tests.integration.harness import oubli

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]  # seconds; two services, 1,200 digits each


def test_the_demo_ends_with_its_proof() -> None:
    env = {"OUBLI_BACKBONE": "tiny", "OUBLI_TRAINING__PROMPT_SIZE": "2", "OUBLI_TRAINING__EPOCHS": "2"}
    done = oubli("demo", "--exit", "--port", "0", env=env, seconds=500)
    assert done.code == 0, done.out + done.err
    words = " ".join(done.out.replace("│", " ").split())
    retrained = re.search(r"prompts retrained (\d+) of (\d+); the others are byte for byte as before", words)
    assert retrained is not None, done.out
    assert 0 < int(retrained.group(1)) < int(retrained.group(2))
    assert "sample-epochs" not in words
    assert f"All {retrained.group(2)} prompts and the closed-form sums of the two have equal SHA-256 digests" in words
    assert "which never saw hana, was given the other 1,192 digits in the same order" in words
    assert "her samples left in the service 0" in words
