"""That evaluation samples are never learned from, and that no report counts an erased one."""

from tests.safeguards.mutant import mutant

_INTAKE = "service/core/intake.py"
_SAMPLES = "service/registry/samples.py"
_HELD_OUT = "service/serving/held_out.py"
_ROLES = "contract/test_roles.py"
_REPORTS = "contract/test_held_out.py"

# fmt: off
HOLDING_OUT = [  # never learned from
    mutant("held-out-cluster", "an evaluation sample is in no cluster", _INTAKE,
            "(None if new_sample.role == EVALUATION else 0)", "0",
            f"{_ROLES}::test_they_are_recorded_with_their_role_and_listed_by_it[sqlite]"),
    mutant("held-out-table", "... and the table refuses one that is in some", "migrations/versions/0014_roles.py",
            'batch_op.create_check_constraint(op.f("ck_samples_learned_or_held_out"), _LEARNED_OR_HELD_OUT)', "pass",
            f"{_ROLES}::test_the_table_refuses_one_that_is_in_a_cluster_and_another_that_is_in_none[sqlite]"),
    mutant("held-out-sums", "a closed form that starts from the survivors adds no evaluation sample",
            "service/registry/feed.py",
            "where(learned(), sa.func.coalesce(", "where(sa.func.coalesce(",
            f"{_ROLES}::test_a_service_that_was_given_none_learns_the_same[sqlite-tree]"),
    mutant("held-out-anchors", "no layout is fitted on an evaluation sample", _SAMPLES,
            "where(learned()).order_by(SampleRow.seq).limit(limit)", "order_by(SampleRow.seq).limit(limit)",
            f"{_ROLES}::test_erasing_them_is_quoted_as_free[sqlite]"),
    mutant("held-out-copies", "evaluation samples take no one's place among the copies of a picture", _SAMPLES,
            "SampleRow.owner_id.in_(refs), learned())", "SampleRow.owner_id.in_(refs))",
            f"{_ROLES}::test_copies_of_an_evaluation_picture_count_for_no_limit[sqlite]"),
    mutant("held-out-labels", "a label that only evaluation samples have does not exist", _SAMPLES,
            "sa.func.count()).where(learned())\n    statement = counted", "sa.func.count())\n    statement = counted",
            f"{_ROLES}::test_contributing_and_erasing_them_changes_nothing_that_is_learned[sqlite-tree]"),
    mutant("held-out-twice", "an evaluation picture that comes at once from two sides is recorded once", _INTAKE,
            "    evaluation.note_additions(session, len(accepted) - len(learned))\n", "",
            "contract/test_duplicates.py::test_what_two_requests_have_both_found_to_be_new_is_recorded_once"
            "[evaluation-postgres]"),
    mutant("held-out-seen", "an audit finds a prompt that has seen an evaluation sample", "service/core/audit.py",
            "for sample_id in sorted(learned_from):", "for sample_id in []:",
            f"{_ROLES}::test_an_audit_finds_their_damaged_files_and_prompts_that_have_seen_one[sqlite]"),
    # no report of an erased one
    mutant("held-out-erased", "an erasure from the evaluation set ends its report", _HELD_OUT,
            "learned.removals + held_out.removals)", "learned.removals)",
            f"{_REPORTS}::test_an_erasure_of_either_kind_ends_it_with_its_transaction[sqlite]"),
    mutant("held-out-head", "... and so does one of a sample that the measured head had learned from", _HELD_OUT,
            "learned.removals + held_out.removals)", "held_out.removals)",
            f"{_REPORTS}::test_an_erasure_of_either_kind_ends_it_with_its_transaction[sqlite]"),
    mutant("held-out-moment", "head and evaluation set are of one moment", _HELD_OUT,
            "_sum(now) != marks or not solved.whole or solved.marks != now.learned", "not solved.whole",
            f"{_REPORTS}::test_changes_between_the_look_and_the_head_end_the_computation[sqlite]"),
    mutant("held-out-independent", "a picture that is learned from does not count as independent", _HELD_OUT,
            "if one.digest not in learned]", "if learned is not None]",
            f"{_REPORTS}::test_a_picture_that_is_learned_as_well_is_counted_apart_while_it_is[sqlite-True]"),
    mutant("held-out-waited", "an evaluation sample's object stays until every live replica has let go",
            "service/registry/destructions.py",
            "(applied.removals, applied.evaluation_removals)", "(applied.removals, None)",
            f"{_REPORTS}::test_an_erasure_is_completed_once_every_live_replica_has_let_go[sqlite]"),
    mutant("held-out-new", "a replica that has just started has let go of nothing", "service/registry/replicas.py",
            "evaluation_removals=0,", "evaluation_removals=None,",
            f"{_REPORTS}::test_one_that_has_just_started_has_let_go_of_nothing_yet[sqlite]"),
    mutant("held-out-let-go", "a replica lets go of what it has computed before it says so", _HELD_OUT,
            "        self.forget()\n", "",
            f"{_REPORTS}::test_once_a_replica_has_reported_nothing_of_the_removed_is_in_its_memory[sqlite]"),
    mutant("held-out-asked", "the application asks for that before it reports such an erasure", "service/api/app.py",
            "        tier.let_go = held_out.quality.let_go\n", "        pass\n",
            "contract/test_evaluation_answers.py::"
            "test_the_evaluation_set_is_measured_and_an_erasure_ends_the_report_at_once"),
    mutant("held-out-owner", "the owner of evaluation samples alone is deleted with them", "service/core/replan.py",
            " or erasures.is_any_unplanned(session)", "",
            f"{_ROLES}::test_the_owner_of_evaluation_samples_alone_is_deleted_though_nothing_is_to_be_trained[sqlite]"),
    mutant("held-out-back", "no earlier release is given evaluation samples to learn from",
            "migrations/versions/0014_roles.py",
            "if op.get_bind().execute(others).scalar_one():", "if False:",
            "contract/test_migrations.py::test_no_way_back_while_there_are_evaluation_samples[sqlite]"),
]
