"""The table of safeguards stays true: each is where the table says, can be removed, and names tests that exist."""

import ast
from pathlib import Path

import pytest

from tests.safeguards import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_safeguard_is_where_the_table_says(mutant):
    assert mutant.source() != (ROOT / mutant.file).read_text()
    ast.parse(mutant.source())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_safeguard_names_tests_that_exist(mutant):
    assert mutant.tests
    for test in mutant.tests:
        path, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in Path(ROOT, path).read_text()


def test_every_safeguard_has_a_name_and_a_sentence_of_its_own():
    assert len({mutant.name for mutant in MUTANTS}) == len({mutant.safeguard for mutant in MUTANTS}) == len(MUTANTS)
