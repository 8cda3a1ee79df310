"""That no report of the model's quality counts an erased sample, and that nothing of one outlives its erasure."""

from tests.safeguards.mutant import mutant

_QUALITY = "service/serving/quality.py"
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
