"""That what is held under a name is found under it, and that what one owner holds is no one else's business."""

from tests.safeguards.mutant import mutant

_MIGRATION = "migrations/versions/0008_one_spelling.py"

# fmt: off
NAMING = [
    mutant("one-spelling", "a text has one spelling", "service/core/text.py",
            'unicodedata.normalize("NFC", text).strip()', "text.strip()",
            "unit/test_text.py::test_a_text_has_one_spelling"),
    mutant("relabelled-prompts", "no prompt is served that knows a label by another spelling", _MIGRATION,
            "serving_key=None, ", "",
            "contract/test_spelling.py::test_two_spellings_of_a_label_become_one_for_prompts_and_replicas[sqlite]"),
    mutant("relabelled-replicas", "no replica goes on with a label by another spelling", _MIGRATION,
            "removals=_state.c.removals + 1", "removals=_state.c.removals",
            "contract/test_spelling.py::test_two_spellings_of_a_label_become_one_for_prompts_and_replicas[sqlite]"),
    mutant("copies-of-others", "copies are counted for each owner", "service/core/intake.py",
            "return new_sample.owner, new_sample.digest", 'return "ann", new_sample.digest',
            "contract/test_spelling.py::test_copies_are_counted_for_each_owner_and_tell_nothing_of_others[sqlite]"),
    mutant("copies-apart", "copies of one picture are told apart by their owners", "models/partition/tree.py",
            "image_digest.encode(), owner.encode())", "image_digest.encode())",
            "unit/test_partition.py::test_copies_of_many_owners_are_divided_evenly"),
]
