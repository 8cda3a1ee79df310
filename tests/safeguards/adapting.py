"""That the core's adapter is of the core's survivors, and that nothing it has described answers or stays without it."""

from tests.safeguards.mutant import mutant

_ERASURE = "service/core/erasure.py"
_TIER = "service/serving/adapted.py"
_FEED = "service/registry/adapted.py"
_DESCRIBER = "service/core/adapted_describer.py"
_RECONCILE = "service/core/reconcile.py"
_CORE = "contract/test_core.py"
_DESCRIBED = "contract/test_adapted.py"
_ANSWERS = "contract/test_adapted_tier.py"

# fmt: off
ADAPTING = [
    mutant("core-plan-void", "erasing a core sample voids the adapter's plan, and ends its training", _ERASURE,
            "        gone[adapter.id] = in_core\n", "        pass\n",
            f"{_CORE}::test_a_worker_that_dies_while_it_trains_the_adapter_leaves_nothing[sqlite-build]",
            f"{_CORE}::test_erasing_a_core_sample_withdraws_the_adapter_in_the_same_transaction[sqlite]"),
    mutant("core-alone", "the adapter is trained on core samples alone", "service/registry/samples.py",
            "where(SampleRow.role == CORE).order_by(SampleRow.seq)", "where(learned()).order_by(SampleRow.seq)",
            f"{_CORE}::test_the_adapter_is_what_the_core_alone_implies[sqlite]"),
    mutant("core-blind", "an adapter with which the backbone sees nothing is not published",
            "service/core/training.py",
            " or (claim.is_adapter and not adapting.says_something(context, prompt, members))", "",
            f"{_CORE}::test_an_adapter_with_which_the_backbone_sees_nothing_is_not_published[sqlite]"),
    mutant("adapted-destroyed", "an erasure destroys the sample's adapted descriptor", _ERASURE,
            "[*objects, *described]", "objects",
            f"{_DESCRIBED}::test_an_erasure_destroys_the_samples_descriptor_and_no_other[sqlite]"),
    mutant("adapted-kept", "... once every replica has subtracted it", _ERASURE,
            "undescribed=len(undescribed), beside=described", "undescribed=len(undescribed)",
            f"{_ANSWERS}::test_an_erasure_waits_for_a_tier_that_still_knows_its_sample"),
    mutant("adapted-with-adapter", "an adapter's object goes after all that the adapter has described", _RECONCILE,
            "name for name in names if name not in left and name not in gone", "name for name in names",
            f"{_DESCRIBED}::test_the_erasure_of_a_core_sample_destroys_all_descriptors_before_it_is_completed[sqlite]"),
    mutant("adapted-first", "... even if its first portion was never recorded", "service/core/training.py",
            "                adapted.note_publication(session)\n", "                pass\n",
            f"{_DESCRIBED}::test_what_a_worker_left_that_was_killed_in_its_first_portion_goes_with_the_adapter[sqlite]"),
    mutant("adapted-late", "nothing is described for an adapter that was withdrawn meanwhile", _DESCRIBER,
            "if adapted.publication_in_force(session) != publication:", "if False:",
            f"{_DESCRIBED}::test_an_adapter_that_is_withdrawn_while_it_describes_leaves_nothing[sqlite]"),
    mutant("adapted-erased", "nothing is described for a sample that was erased meanwhile", _DESCRIBER,
            "waiting = sorted(adapted.among(session, ids, publication))", "waiting = sorted(ids)",
            f"{_DESCRIBED}::test_a_sample_that_is_erased_while_it_is_described_leaves_nothing[sqlite]"),
    mutant("adapted-left", "what a killed worker left of an adapter is deleted", "service/core/tidy.py",
            "return count + _destroy_adapted(context) + ", "return count + ",
            f"{_DESCRIBED}::test_what_a_killed_worker_left_of_a_sample_or_an_adapter_is_destroyed[sqlite]"),
    mutant("adapted-in-force", "a head is of the adapter in force", _TIER,
            "solved.publication == publication and ", "",
            f"{_ANSWERS}::test_an_old_publication_of_the_same_key_never_answers"),
    mutant("adapted-removed", "... and knows no removed sample", _TIER,
            " and solved.marks.removals == removals:", ":",
            f"{_ANSWERS}::test_a_removed_sample_is_out_of_the_next_answer_and_the_tier_is_exact_again"),
    mutant("adapted-meanwhile", "an answer that used a withdrawn adapter is computed again", "service/serving/votes.py",
            " and self.moment.removals == now.removals and is_current", " and self.moment.removals == now.removals",
            f"{_ANSWERS}::test_an_answer_that_was_computed_before_the_adapter_was_withdrawn_is_computed_again"),
    mutant("adapted-complete", "sums that miss a change are given up", _TIER,
            "if not changes.complete(known):", "if False:",
            f"{_ANSWERS}::test_sums_that_miss_a_removal_are_given_up"),
    mutant("adapted-let-go", "no erasure is completed while a replica's adapted sums know its sample", _TIER,
            "            elif self.is_behind():\n                self._subtract()\n", "",
            f"{_ANSWERS}::test_an_erasure_waits_for_a_tier_that_still_knows_its_sample"),
    mutant("adapted-few", "with less than half of the samples described frozen features answer alone",
            "service/serving/engine.py",
            "2 * found.samples >= solved.samples", "True",
            f"{_ANSWERS}::test_while_fewer_than_half_are_described_frozen_features_answer_alone"),
    mutant("adapted-numbered", "a removed sample that was not described counts as one that came and went", _ERASURE,
            "    adapted.note_removals(session, undescribed=len(unadapted))\n", "",
            f"{_ANSWERS}::test_a_sample_that_is_removed_before_it_is_described_loses_no_sums"),
    mutant("adapted-audit", "an audit finds other sums of adapted descriptors", "service/core/adapted_audit.py",
            "elif replica.adapted_digest != expected:", "elif False:",
            f"{_ANSWERS}::test_the_audit_notices_other_sums[sums]"),
]
