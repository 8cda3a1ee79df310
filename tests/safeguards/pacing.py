"""That a client that deletes, or contributes, without measure does not keep the model down."""

from tests.safeguards.mutant import mutant

_BACKOFF = "service/registry/backoff.py"
_BACKING_OFF = "contract/test_backoff.py"
_BUDGETS = "contract/test_budgets.py"

# fmt: off
PACING = [
    mutant("apart", "an erasure is completed whether or not its clusters serve again",
            "service/core/erasure_progress.py",
            "if failures is None and erasure.ledgered:",
            "if failures is None and erasure.ledgered and not erasure.unsettled:",
            f"{_BACKING_OFF}::test_every_erasure_is_completed_meanwhile_and_restored_in_the_end[sqlite]"),
    mutant("setback-prompt", "the loss of a young prompt is a setback", _BACKOFF,
            "setbacks = 0 if served >= backoff.probation(setbacks) else setbacks + 1", "pass",
            f"{_BACKING_OFF}::test_deleting_whenever_the_prompt_is_back_makes_it_come_back_later_each_time[sqlite]"),
    mutant("setback-training", "so is the loss of a training under way", _BACKOFF,
            "elif lease is not None and cluster_id in losing_samples:", "elif False:",
            f"{_BACKING_OFF}::test_deletions_that_come_faster_than_a_training_are_waited_out_together[sqlite]"),
    mutant("setback-waiting", "what waits already is not set back", _BACKOFF,
            "        else:\n            continue\n", "        else:\n            setbacks += 1\n",
            f"{_BACKING_OFF}::test_deletions_that_come_faster_than_a_training_are_waited_out_together[sqlite]"),
    mutant("setback-claim", "no worker claims a cluster that pauses", "service/registry/leases.py",
            "sa.or_(ClusterRow.retrain_at.is_(None), ClusterRow.retrain_at <= now),\n", "",
            f"{_BACKING_OFF}::test_deleting_whenever_the_prompt_is_back_makes_it_come_back_later_each_time[sqlite]"),
    mutant("setback-heirs", "a pause goes with the samples when clusters are cut anew", "service/core/rebalance.py",
            "        retrain_at=max((c.retrain_at for c in givers if c.retrain_at), default=None),\n", "",
            f"{_BACKING_OFF}::test_the_pause_goes_with_the_samples_when_clusters_are_cut_anew[sqlite]"),
    mutant("setback-clock", "a clock that was set back prolongs no pause", "service/registry/leases.py",
            "        ClusterRow.retrain_at > late + backoff.longest,\n", "",
            f"{_BACKING_OFF}::test_a_clock_that_was_set_back_does_not_prolong_a_pause[sqlite]"),
    mutant("budget-erasures", "a key's erasures are counted", "service/core/erasure.py",
            "budgets.spend(context, session, key_id, budgets.ERASURES)", "pass",
            f"{_BUDGETS}::test_an_erasure_over_budget_is_not_accepted_and_one_that_runs_already_costs_nothing[sqlite]"),
    mutant("budget-images", "a key's images are counted", "service/core/intake.py",
            "budgets.spend(context, session, key_id, budgets.IMAGES, len(recorded))", "pass",
            f"{_BUDGETS}::test_images_over_budget_leave_nothing_behind[sqlite]"),
    mutant("budget-together", "requests that come together do not spend the same twice",
            "service/registry/budgets.py", ".with_for_update()", "",
            f"{_BUDGETS}::test_requests_that_come_together_do_not_spend_the_same_twice[postgres]"),
    mutant("budget-before", "images over budget are not decoded", "service/api/routes/samples.py",
            "    budgets.require(service.context, key_id(request), budgets.IMAGES, len(images))\n", "",
            f"{_BUDGETS}::test_over_http_images_are_refused_before_they_are_decoded_and_a_repeated_request_is_answered"),
]
