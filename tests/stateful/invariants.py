"""What holds after every step of a history, and in the end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import sqlalchemy as sa
from hypothesis.stateful import RuleBasedStateMachine, invariant

from models.choice import Choice, constants, digest_of
from models.quality import NOTHING
from service.core.intake import WHOLE_LINE
from service.registry import adapted, feed, prompts, replicas, samples
from service.registry.engine import ReadSession
from service.registry.tables import DestructionRow, ErasureSampleRow, PromptMemberRow
from service.serving.adapted import AdaptedTier
from service.serving.closed_form import ClosedFormTier
from service.serving.held_out import HeldOut
from service.serving.quality import Quality
from tests.replicas import findings, known
from tests.world import World

LINE_ENDS = (16 << 48, 1000 << 48, 1 << 15, WHOLE_LINE[1])  # leaves of each backbone; ordinals; before the first cut


class Invariants(RuleBasedStateMachine):
    """A world and the replicas beside it, by name; and the ids of all samples that were ever erased."""

    world: World
    tiers: dict[str, ClosedFormTier]
    qualities: dict[str, Quality]
    held_outs: dict[str, HeldOut]
    adapteds: dict[str, AdaptedTier]

    def __init__(self) -> None:
        super().__init__()
        self.erased: list[str] = []

    def is_right(self, tier: ClosedFormTier) -> bool:
        """Whether it knows the survivors alone, and has chosen what it answers with from survivors alone."""
        summary, solved = tier.summary(), tier.current()
        assert summary is not None
        assert solved is not None
        sums = self.world.accumulators().digest()
        return (
            summary.digest == digest_of(sums, summary.choice)
            and summary.samples == len(self.world.survivors)
            and self.is_of_survivors(summary.choice)
            and self.is_of_survivors(solved.choice)
            and (not summary.settled or summary.digest == self.world.closed_form_digest())
            and (not summary.settled or solved.choice == summary.choice)
        )

    def is_of_survivors(self, choice: Choice) -> bool:
        """Whether those imply it that came first, as many as there were: no sample has been erased since.

        One of them may be alone with its label, and was not compared.
        """
        if not choice.samples:
            return choice == constants(self.world.context.closed_form)
        counts = range(choice.samples, min(choice.samples + 1, len(self.world.survivors)) + 1)
        return choice in [self.world.choice(first=count) for count in counts]

    @contextmanager
    def reading(self) -> Iterator[ReadSession]:
        with self.world.context.registry.read() as session:
            yield session

    @invariant()
    def what_is_held_is_what_was_not_erased(self) -> None:
        assert [sample.id for sample in self.world.samples()] == list(self.world.survivors)
        assert [sample.id for sample in self.world.samples("evaluation")] == list(self.world.held_out)

    @invariant()
    def no_served_prompt_has_seen_an_erased_sample(self) -> None:
        served = self.world.serving_keys()
        with self.reading() as session:
            statement = sa.select(PromptMemberRow.sample_id).where(PromptMemberRow.prompt_key.in_(served))
            assert set(session.execute(statement).scalars()) <= set(self.world.survivors)
            built = prompts.get(session, served)
        assert set(built) == set(served)
        assert {prompt.object_name for prompt in built.values()} <= self.world.objects()

    @invariant()
    def every_erasure_is_on_record_and_completed_ones_have_left_no_object(self) -> None:
        with self.reading() as session:
            rows = session.execute(sa.select(ErasureSampleRow.sample_id, ErasureSampleRow.erasure_id)).all()
        states = {found.id: found.state for found in self.world.erasures()}
        assert sorted(sample for sample, _ in rows) == sorted(self.erased)
        completed = {samples.object_name(sample) for sample, found in rows if states[found] == "completed"}
        assert not completed & self.world.objects()

    @invariant()
    def regions_cover_the_line_and_hold_their_own(self) -> None:
        clusters = self.world.clusters()
        members = Counter(sample.cluster for sample in self.world.samples())
        assert {cluster.id: cluster.samples for cluster in clusters if cluster.samples} == members
        if not clusters:
            return
        assert clusters[0].lo == 0
        assert clusters[-1].hi in LINE_ENDS
        assert all(before.hi == after.lo for before, after in pairwise(clusters))
        regions = {cluster.id: range(cluster.lo, cluster.hi) for cluster in clusters}
        assert all(sample.position in regions[sample.cluster] for sample in self.world.samples())

    @invariant()
    def no_report_of_quality_counts_an_erased_sample(self) -> None:
        """Those that came first are what it counts: no sample has been erased since."""
        for quality in self.qualities.values():
            measured = quality.current()
            if measured is not None:
                assert measured.digest == self.world.closed_form_digest(measured.report.samples)
                assert measured.report.samples <= len(self.world.survivors)

    @invariant()
    def no_report_of_the_evaluation_set_knows_an_erased_sample(self) -> None:
        for held_out in self.held_outs.values():
            measured = held_out.current()
            if measured is not None:
                sums = self.world.accumulators(measured.learned).digest()
                assert measured.digest == digest_of(sums, measured.choice)
                assert measured.report.samples + measured.also_learned <= len(self.world.held_out)

    @invariant()
    def no_adapted_head_knows_an_erased_sample_or_is_of_another_adapter(self) -> None:
        known = {samples.object_name(sample_id) for sample_id in self.world.survivors}
        with self.reading() as session:
            publication, removals = adapted.publication_in_force(session), feed.marks(session).removals
        for tier in self.adapteds.values():
            if tier.current(publication, removals) is not None:
                assert tier._sums is not None
                assert set(tier._sums.labels) <= known

    @invariant()
    def what_a_live_replica_has_not_applied_is_there(self) -> None:
        fresh = self.world.context.settings.worker.fresh
        with self.reading() as session:
            removals = feed.marks(session).removals
            live_replicas = [one for one in replicas.every(session) if one.is_alive(self.world.time(), fresh)]
            row = DestructionRow
            rows = session.execute(sa.select(row.object_name, row.removal, row.evaluation_removal)).all()
        for replica in live_replicas:
            late = {name for name, removal, _ in rows if removal is not None and removal > replica.marks.removals}
            ahead = {name for name in late if name.startswith("samples/")}  # beside them are adapted descriptors
            assert len(ahead) == removals - replica.marks.removals
            assert replica.evaluation_removals is not None
            held = {name for name, _, removal in rows if removal is not None and removal > replica.evaluation_removals}
            assert ahead | held <= self.world.objects()

    # -------------------------------------------------------------------------------------------------- in the end

    def check_at_rest(self) -> None:
        """With lambda and temperature chosen, every replica answers as the survivors alone imply, and has said so."""
        at_rest = self.world.closed_form_digest(), len(self.world.survivors)
        assert {known(tier) for tier in self.tiers.values()} == {at_rest}
        assert findings(self.world) == []

    def check_adapted(self) -> None:
        """Settled, every replica's tier of adapted descriptors is what training and describing from nothing give."""
        expected = self.world.adapted_digest()
        for tier in self.adapteds.values():
            found = tier.accumulated()
            assert found == ((expected, len(self.world.survivors), 0) if expected is not None else None)

    def check_quality(self) -> None:
        """Settled, every replica's report is what the survivors alone give."""
        for quality in self.qualities.values():
            measured = quality.compute()
            assert (measured is None) == (len(self.world.survivors) < 2)
            assert measured is None or measured.report == self.world.quality_report()
        learned = {sample.digest for sample in self.world.survivors.values()}
        counted = [sample for sample in self.world.held_out.values() if sample.digest not in learned]
        for held_out in self.held_outs.values():
            found = held_out.compute()
            assert (found is None) == (not self.world.survivors or not self.world.held_out)
            assert found is None or found.report == (self.world.held_out_report() if counted else NOTHING)
