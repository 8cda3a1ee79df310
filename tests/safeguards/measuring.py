"""That no report of the model's quality counts an erased sample, and that nothing of one outlives its erasure."""

from tests.safeguards.mutant import mutant

_QUALITY = "service/serving/quality.py"
_TIER = "service/serving/closed_form.py"
_CHOICE = "models/choice.py"
_CHOOSING = "contract/test_choice.py"
_CHOSEN = "unit/test_choice.py"
_LIKELIEST = (
    f"{_CHOSEN}::test_lambda_is_the_likeliest_at_the_constant_temperature_then_the_temperature_at_it[0.3-0]",
    f"{_CHOSEN}::test_lambda_is_the_likeliest_at_the_constant_temperature_then_the_temperature_at_it[1.0-1]",
    f"{_CHOSEN}::test_lambda_is_the_likeliest_at_the_constant_temperature_then_the_temperature_at_it[3.0-2]",
)
_TESTS = "contract/test_quality.py"

# fmt: off
MEASURING = [
    mutant("report-erased", "an erasure ends the report of quality with its transaction", _QUALITY,
            "return measured if measured is not None and measured.marks.removals == now.removals else None",
            "return measured",
            f"{_TESTS}::test_every_way_to_erase_ends_the_report_with_its_transaction[sqlite]"),
    mutant("report-outdated", "a report is not computed on without a sample that was removed meanwhile", _QUALITY,
            "self.marks().removals != marks.removals:", "False:",
            f"{_TESTS}::test_an_object_destroyed_meanwhile_is_no_fault[sqlite]"),
    mutant("report-later", "a report lists no sample that came after its sums were taken", "service/registry/feed.py",
            "_described(kind).where(SampleRow.addition <= additions)", "_described(kind)",
            f"{_TESTS}::test_samples_that_come_between_the_sums_and_the_list_are_not_counted[sqlite]"),
    mutant("report-held", "an erasure is completed only once no computation holds its samples", _QUALITY,
            "        with self._computing:  # it looks for that", "        if now:  # it looks for that",
            f"{_TESTS}::test_a_replica_reports_an_erasure_only_after_the_computation_has_let_go[sqlite]"),
    mutant("report-forgotten", "... and the old report has left the memory", _QUALITY,
            "            if self.current(now) is None:\n                self._measured = None\n", "",
            f"{_TESTS}::test_once_a_replica_has_reported_nothing_of_the_removed_is_in_its_memory[sqlite]"),
    mutant("report-let-go", "the application asks for that before it reports an erasure", "service/api/app.py",
            "            quality.quality.forget()\n", "            pass\n",
            "contract/test_quality_answers.py::"
            "test_it_is_of_the_samples_on_record_and_an_erasure_ends_it_at_once"),
    mutant("report-scrape", "no scrape repeats what was said a moment before an erasure", "service/api/metrics.py",
            "_figures(measured()), kept=0.0)", "_figures(measured()), kept=60.0)",
            "contract/test_quality_answers.py::"
            "test_it_is_of_the_samples_on_record_and_an_erasure_ends_it_at_once"),
    mutant("report-order", "the order of ids and arrival is in no report", _QUALITY,
            "sorted(survivors, key=lambda one: (one.digest, one.label))", "survivors",
            f"{_TESTS}::test_every_replica_counts_in_the_same_order[sqlite]"),
]

CHOOSING = [
    mutant("choice-erased", "a choice of lambda and temperature dies with a sample that it knows", _TIER,
            "                    self._chosen = None  # it knows them\n", "",
            f"{_CHOOSING}::test_from_the_transaction_of_any_erasure_on_the_constants_answer[sqlite]"),
    mutant("choice-late", "... also one that was being made", _TIER,
            "if self._sums is None or marks.removals != self._sums.marks.removals:", "if self._sums is None:",
            f"{_CHOOSING}::test_a_choice_that_an_erasure_overtakes_is_never_used[sqlite]"),
    mutant("choice-head", "the head that answers is solved with the choice in force", _TIER,
            "head = solve(copy, ridge=choice.ridge, overwrite=True)",
            "head = solve(copy, ridge=self._context.closed_form.ridge, overwrite=True)",
            f"{_CHOOSING}::test_it_is_what_the_survivors_imply_and_the_head_is_solved_with_it[sqlite]"),
    mutant("choice-answer", "... and answers with its temperature", "service/serving/votes.py",
            "solved.choice.temperature", "0.1",
            f"{_CHOOSING}::test_a_prediction_has_the_temperature_that_was_chosen_and_after_an_erasure_the_constant"
            "[sqlite]"),
    mutant("choice-report", "the quality that is reported is of the head that answers", _QUALITY,
            "head = LeaveOneOut(state, ridge=choice.ridge, temperature=choice.temperature)",
            "head = LeaveOneOut(state, ridge=0.1, temperature=0.1)",
            f"{_CHOOSING}::test_the_report_of_quality_is_of_the_head_that_answers[sqlite]"),
    mutant("choice-again", "a replica without the choice that its samples imply makes it", _QUALITY,
            "is not None) and self._tier.is_settled(now)", "is not None)",
            f"{_CHOOSING}::test_a_replica_that_has_lost_its_sums_chooses_again[sqlite]"),
    mutant("choice-unsettled", "a replica vouches for no closed form that is yet to change", _TIER,
            "summary.digest if summary.settled else None", "summary.digest",
            f"{_CHOOSING}::test_it_is_what_the_survivors_imply_and_the_head_is_solved_with_it[sqlite]"),
    mutant("choice-digest", "the digest of a closed form names its lambda and temperature", _CHOICE,
            "settings = [choice.ridge, choice.temperature, choice.samples]", "settings: list[float] = []",
            f"{_CHOOSING}::test_an_audit_finds_a_replica_that_answers_with_another_choice[sqlite]"),
    mutant("choice-audit", "an audit makes the choice anew", "service/core/implied.py",
            "choose(self._sums, rows, labels, spec=self._spec)", "constants(self._spec)",
            f"{_CHOOSING}::test_an_audit_finds_a_replica_that_answers_with_another_choice[sqlite]"),
    mutant("choice-grid", "lambda is chosen from the public grid", _CHOICE,
            "RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)", "RIDGES = (0.02, 0.05, 0.1, 0.2, 0.5)", *_LIKELIEST),
    mutant("choice-apart", "lambda first, then the temperature, never both together", _CHOICE,
            "ridge: found[spec.temperature] for", "ridge: max(found.values()) for", *_LIKELIEST),
    mutant("choice-few", "the constants hold below 200 samples", _CHOICE,
            " and comparable >= FEWEST", "", f"{_CHOSEN}::test_constants_hold_below_two_hundred_samples"),
    mutant("choice-alone", "a sample that is the only one of its label chooses nothing", _CHOICE,
            "if counts[sample.label] > 1]", "]", *_LIKELIEST),
    mutant("choice-ties", "of equals the constant wins", _CHOICE,
            "return [constant, *(value for value in grid if value != constant)]",
            "return sorted({constant, *grid})", f"{_CHOSEN}::test_of_equals_the_constants_win"),
    mutant("choice-order", "the order of arrival is in no choice", _CHOICE,
            "return sorted(comparable, key=lambda sample: (sample.digest, sample.label))[:MOST]",
            "return comparable[:MOST]",
            f"{_CHOSEN}::test_at_most_so_many_are_compared_the_first_by_digest"),
]
