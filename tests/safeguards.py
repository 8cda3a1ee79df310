"""The safeguards that Oubli's promises rest on, and for each how it is removed and which tests must notice.

Read by `tests/mutants.py`. A text that its file no longer holds exactly once fails `tests/unit/test_mutants.py`: who
changes a safeguard changes its row here. Tests are named on SQLite where that shows the fault, on PostgreSQL where
only concurrent writers do.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_CLUSTERS = "service/registry/clusters.py"
_DETERMINISM = "models/determinism.py"
_ENGINE = "service/registry/engine.py"
_ERASURE = "service/core/erasure.py"
_LEASES = "service/registry/leases.py"
_LOG = "service/log.py"
_PROMPTS = "service/registry/prompts.py"
_ROUTER = "models/router.py"
_SERVER = "service/api/server.py"
_SPEC = "models/spec.py"
_TIER = "service/serving/closed_form.py"
_TRAIN = "models/training.py"
_TRAIN_ONE = "service/core/training.py"


@dataclass(frozen=True)
class Mutant:
    """One safeguard removed: `text`, which `file` holds once, becomes `replacement`; one of `tests` must fail."""

    name: str
    safeguard: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def source(self) -> str:
        """The file without the safeguard. Raises ValueError if the text is not there exactly once."""
        before = (ROOT / self.file).read_text()
        if before.count(self.text) != 1:
            raise ValueError(f"{self.name}: {self.file} holds its text {before.count(self.text)} times, not once.")
        return before.replace(self.text, self.replacement)


def _mutant(name: str, safeguard: str, file: str, text: str, replacement: str, *tests: str) -> Mutant:
    return Mutant(name, safeguard, file, text, replacement, tuple(f"tests/{test}" for test in tests))


# fmt: off
LEARNING = [  # a prompt is a pure function of its members
    _mutant("seed-key", "each cluster draws from its own key", _TRAIN,
            '"oubli/epoch/1", self._key, ', '"oubli/epoch/1", ',
            "unit/test_training.py::test_key_and_order_of_members_matter"),
    _mutant("seed-epoch", "each epoch draws anew", _TRAIN,
            "self._key, str(epoch))", "self._key)",
            "unit/test_safeguards.py::test_every_epoch_visits_all_members_in_an_order_of_its_own"),
    _mutant("seed-global", "nothing is drawn from global random state", _TRAIN,
            "torch.randperm(count, generator=random)", "torch.randperm(count)",
            "unit/test_training.py::test_global_random_state_is_neither_used_nor_touched"),
    _mutant("train-shape", "the last training batch is padded to the shape of the others", _TRAIN,
            "padding = -count % size", "padding = 0",
            "unit/test_training.py::test_every_batch_has_the_same_shape_and_every_member_counts_once"),
    _mutant("train-weight", "padding weighs nothing in training", _TRAIN,
            "torch.zeros(padding)", "torch.ones(padding)",
            "unit/test_training.py::test_the_padding_of_the_last_batch_has_no_influence"),
    _mutant("embed-shape", "every batch of embeddings has one shape", "models/embedding.py",
            "torch.zeros((BATCH, *images[0].shape)", "torch.zeros((len(images), *images[0].shape)",
            "unit/test_safeguards.py::test_every_batch_of_embeddings_has_the_same_shape"),
    _mutant("frozen-weights", "the backbone learns nothing", "models/backbone.py",
            "network.eval().requires_grad_(False)", "network.eval()",
            "unit/test_training.py::test_only_prompt_and_head_change"),
    _mutant("frozen-statistics", "the backbone's statistics stand still", "models/backbone.py",
            "network.eval().requires_grad_(False)", "network.requires_grad_(False)",
            "unit/test_safeguards.py::test_a_backbones_statistics_stand_still"),
    _mutant("algorithms", "deterministic algorithms are on", _DETERMINISM,
            "torch.use_deterministic_algorithms(True)", "torch.use_deterministic_algorithms(False)",
            "unit/test_determinism.py::test_configuration_fixes_threads_and_algorithms"),
    _mutant("threads", "the number of threads is fixed", _DETERMINISM,
            "torch.set_num_threads(threads)", "pass",
            "unit/test_safeguards.py::test_the_number_of_threads_is_the_one_asked_for_whatever_the_machine_has"),
    _mutant("tf32", "a GPU rounds nothing to TF32", _DETERMINISM,
            "torch.backends.cudnn.allow_tf32 = False", "pass",
            "unit/test_determinism.py::test_on_a_gpu_nothing_is_rounded_to_tf32_and_cublas_keeps_one_workspace"),
    _mutant("key-label", "a member's digest names its label", _SPEC,
            "image_digest.encode(), label.encode())", "image_digest.encode())",
            "unit/test_spec.py::test_a_member_is_its_image_and_its_label"),
    _mutant("key-order", "a prompt's key names the order of arrival", _SPEC,
            '"\\n".join(members)', '"\\n".join(sorted(members))',
            "unit/test_spec.py::test_a_prompts_key_names_backbone_training_and_members_in_their_order"),
    _mutant("arrival", "members are listed in order of arrival", "service/registry/samples.py",
            "SampleRow.cluster_id == cluster_id).order_by(SampleRow.seq)",
            "SampleRow.cluster_id == cluster_id).order_by(SampleRow.id)",
            "contract/test_safeguards.py::test_members_are_listed_as_they_arrived_whatever_their_ids[sqlite]"),
    _mutant("rerank", "float64 decides among FAISS's candidates", _ROUTER,
            "candidates = np.sort(candidates, axis=1)\n"
            "        scores = exact_dot(embeddings[:, None, :], self._prototypes[candidates])\n"
            "        best = np.argmax(scores, axis=1)",
            "best = np.zeros(len(candidates), dtype=np.int64)",
            "unit/test_safeguards.py::test_float64_decides_where_float32_sees_a_tie"),
    _mutant("exact-dot", "scores are summed in float64", _ROUTER,
            "left.astype(np.float64) * right.astype(np.float64)", "left * right",
            "unit/test_safeguards.py::test_float64_decides_where_float32_sees_a_tie"),
    _mutant("router-ties", "of equal prototypes the first is the nearest", _ROUTER,
            "candidates = np.sort(candidates, axis=1)", "candidates = -np.sort(-candidates, axis=1)",
            "unit/test_router.py::test_ties_go_to_the_lower_index"),
    _mutant("diverged", "a prompt that is not finite is never published", _TRAIN_ONE,
            "if not prompt.is_finite:", "if False:",
            "contract/test_training.py::test_a_training_that_diverges_is_shown_with_its_remedy_and_never_served[sqlite]"),
]

LOADING = [  # what is read is what was written
    _mutant("artifact-digest", "an artifact's tensors have the recorded digest", "models/checkpoint.py",
            "if _data_digest(data) != digest:", "if False:",
            "unit/test_checkpoint.py::test_a_flipped_bit_in_the_tensors_is_refused"),
    _mutant("artifact-identity", "an artifact of another backbone is refused", "models/checkpoint.py",
            '        "backbone": identity.backbone_digest,\n        "training": json', '        "training": json',
            "unit/test_checkpoint.py::test_another_prompt_than_the_one_asked_for_is_refused"),
    _mutant("sample-digest", "a sample's pixels have the recorded digest", "service/core/sample_file.py",
            ' or pixel_digest(pixels) != digest', '',
            "contract/test_erasure.py::test_an_erasure_that_cannot_be_retrained_is_shown_as_failed_and_recovers"
            "[sqlite-one bit]"),
    _mutant("bank-padding", "a head never answers with another's label", "models/bank.py",
            "-torch.inf)", "0.0)",
            "unit/test_bank.py::test_labels_that_a_head_does_not_have_are_impossible"),
]

PUBLISHING = [  # only what is desired, by whoever holds the lease
    _mutant("publish-desired", "what is published is still desired", _LEASES,
            "return _swap(session, claim, values, ClusterRow.desired_key == claim.key)",
            "return _swap(session, claim, values)",
            "contract/test_leases.py::test_a_lease_whose_key_is_no_longer_desired_can_only_be_given_up[sqlite]"),
    _mutant("lease-token", "only the holder of a lease may use it", _LEASES,
            "held = (ClusterRow.id == claim.cluster, ClusterRow.lease_token == claim.token)",
            "held = (ClusterRow.id == claim.cluster,)",
            "contract/test_leases.py::test_an_expired_lease_is_taken_over_and_names_what_it_replaces[sqlite]"),
    _mutant("claim-again", "a claim passes over what another is changing", _LEASES,
            "\n        .with_for_update(key_share=True, skip_locked=True)", "",
            "contract/test_safeguards.py::test_a_claim_that_waited_for_another_does_not_take_its_cluster[postgres]"),
    _mutant("claim-order", "deletions are trained before additions", _LEASES,
            "order_by(ClusterRow.urgent.desc(), ", "order_by(",
            "contract/test_leases.py::test_deletions_are_trained_before_additions[sqlite]"),
    _mutant("quiet", "additions wait for quiet", _LEASES,
            "            ClusterRow.settles_at <= now,", "            sa.true(),",
            "contract/test_training.py::test_additions_are_trained_once_it_is_quiet[sqlite]"),
    _mutant("patience", "additions without end do not wait for ever", _LEASES,
            "            ClusterRow.unsettled_since <= now - patience,\n", "",
            "contract/test_training.py::test_additions_that_never_end_do_not_put_training_off_for_ever[sqlite]"),
    _mutant("quiet-deletions", "deletions wait for no quiet", _LEASES,
            "            ClusterRow.urgent,\n", "",
            "contract/test_training.py::test_an_erasure_waits_for_no_quiet[sqlite]"),
    _mutant("through", "later arrivals let a training under way finish", _TRAIN_ONE,
            "claim.cluster, through=claim.through)", "claim.cluster)",
            "contract/test_crashes.py::test_an_addition_lets_the_training_under_way_finish_and_is_trained_next"
            "[sqlite-build]"),
    _mutant("renewal", "an overtaken worker stops at the end of the epoch", _TRAIN_ONE,
            "            hold(context, claim)\n\n    prompt", "            pass\n\n    prompt",
            "contract/test_training.py::test_a_worker_that_was_overtaken_gives_up_at_the_end_of_the_epoch[sqlite]"),
    _mutant("stored", "a publication that fails takes its bytes along", _TRAIN_ONE,
            "context.store.delete(prompts.unpublished_name(claim.token))", "pass",
            "contract/test_crashes.py::test_a_worker_that_dies_in_an_orderly_way_takes_what_it_stored_along[sqlite]"),
    _mutant("left-behind", "what a dead worker stored goes with its lease", _TRAIN_ONE,
            "prompts.destroy_unpublished(session, [claim.replaced])", "pass",
            "contract/test_crashes.py::test_a_worker_killed_at_any_step_is_replaced_when_its_lease_ends[sqlite-commit]"),
    _mutant("publish-order", "a publication locks its cluster before the epoch", _TRAIN_ONE,
            "clusters.lock(session, [claim.cluster])", "pass",
            "contract/test_safeguards.py::test_a_publication_and_an_erasure_never_wait_for_each_other[postgres]"),
    _mutant("publish-epoch", "a publication moves the serving epoch", _TRAIN_ONE,
            "published_epoch=state.bump_epoch(session)", "published_epoch=state.epoch(session)",
            "contract/test_safeguards.py::test_what_is_published_is_served_from_the_next_batch_on[sqlite]"),
]

ERASING = [  # at once, everywhere, for good
    _mutant("come-back", "an erased sample's object is a difference, however young", "service/core/audit.py",
            "name not in gone and ", "",
            "contract/test_audit.py::test_an_erased_samples_object_is_a_difference_however_young[sqlite]"),
    _mutant("withdrawal", "accepting an erasure withdraws every prompt that has seen the sample", _CLUSTERS,
            ".values(serving_key=None, withdrawn_at=now, urgent=True)", ".values(withdrawn_at=now, urgent=True)",
            "contract/test_erasure.py::test_accepting_withdraws_every_prompt_that_has_seen_the_sample[sqlite]"),
    _mutant("withdrawal-epoch", "a withdrawal moves the serving epoch", _ERASURE,
            "withdrawn:\n        state.bump_epoch(session)", "withdrawn:\n        pass",
            "contract/test_serving.py::test_a_withdrawn_prompt_is_never_used_again[sqlite]"),
    _mutant("versions", "what is destroyed in a bucket is destroyed in all its versions", "service/artifacts/s3.py",
            "            self._destroy_versions(key)\n", "            pass\n",
            "contract/test_s3.py::test_deleting_destroys_every_version_and_every_marker[versioned]"),
    _mutant("versions-asked", "a server that says it has destroyed is asked again", "service/artifacts/s3.py",
            "if versions and versions + markers == before:",
            "if before:\n                return\n            if versions and versions + markers == before:",
            "contract/test_s3.py::test_a_server_that_only_says_it_has_destroyed_is_not_believed"),
    _mutant("parts", "an upload in parts that fails is aborted", "service/artifacts/s3.py",
            "                self._abort(key, upload)\n", "                pass\n",
            "contract/test_s3.py::test_an_upload_in_parts_that_fails_is_aborted"),
    _mutant("doubtful", "a prompt that may yet arrive in the store is owed to destruction", _TRAIN_ONE,
            "doubtful=isinstance(error, OSError)", "doubtful=False",
            "contract/test_store_away.py::test_a_prompt_that_may_yet_arrive_is_owed_to_destruction[sqlite]"),
    _mutant("away-counted", "a store that is away is no cluster's failure", _TRAIN_ONE,
            "_fail(context, claim, str(failure), counted=False)", "_fail(context, claim, str(failure))",
            "contract/test_store_away.py::test_a_training_that_the_store_prevents_is_tried_again_and_is_nobodys_failure"
            "[sqlite-put]"),
    _mutant("away-asked", "a store is asked whether it answers before a publication locks anything", _TRAIN_ONE,
            "        context.store.check()  # while nobody waits for our locks", "        # while nobody waits",
            "contract/test_store_away.py::test_a_store_that_hangs_holds_up_no_writer[sqlite]"),
    _mutant("away-completed", "no erasure is completed while the store does not say what it holds",
            "service/core/advance.py",
            "may_complete=accepted if stored is not None else set()", "may_complete=accepted",
            "contract/test_store_away.py::test_nothing_is_completed_while_the_store_does_not_say_what_it_holds[sqlite]"),
    _mutant("away-late", "an erasure accepted after the look at the store is not completed by it",
            "service/core/advance.py",
            "erasure.id not in may_complete", "not may_complete",
            "contract/test_store_away.py::test_an_erasure_accepted_after_the_look_is_not_completed_by_it[sqlite]"),
    _mutant("foreign-store", "a new registry destroys nothing of another one's", "service/core/context.py",
            "            _require_empty(context)\n", "            pass\n",
            "contract/test_store_away.py::test_a_new_registry_refuses_what_another_one_holds[sqlite]"),
    _mutant("epoch-before", "the serving epoch is checked before a batch", "service/serving/snapshot.py",
            "and previous.epoch == epoch and (previous.complete or time.monotonic() < previous.again):", ":",
            "contract/test_serving.py::test_a_withdrawn_prompt_is_never_used_again[sqlite]"),
    _mutant("epoch-after", "the serving epoch is checked again before answering", "service/serving/engine.py",
            "None if rerouted or _is_withdrawn(vote, snapshot) else vote", "None if rerouted else vote",
            "contract/test_serving.py::test_what_is_withdrawn_while_a_batch_is_computed_is_computed_again[sqlite]"),
    _mutant("fencing", "accepting an erasure ends the lease of a training under way", _CLUSTERS,
            "            urgent=True,\n            **NO_LEASE,", "            urgent=True,",
            "contract/test_safeguards.py::test_a_training_of_an_erased_sample_is_not_published_for_its_double[sqlite]"),
    _mutant("plan-void", "a plan that counts an erased sample in can no longer be claimed", _CLUSTERS,
            "            desired_key=None,\n            urgent=True,", "            urgent=True,",
            "contract/test_safeguards.py::test_a_plan_with_an_erased_sample_is_nobodys_to_claim[sqlite]"),
    _mutant("dropped", "a withdrawn prompt is forgotten by the transaction that withdraws it", _ERASURE,
            "prompts.drop_unserved(session, among=seen_by, erasure_id=erasure_id)", "pass",
            "contract/test_erasure.py::test_accepting_withdraws_every_prompt_that_has_seen_the_sample[sqlite]"),
    _mutant("owed", "accepting an erasure owes the destruction of the sample's object", _ERASURE,
            "prompts.owe_destruction(session, objects, erasure_id=erasure_id)", "pass",
            "contract/test_erasure.py::test_an_erasure_is_completed_only_when_bytes_are_gone_and_a_prompt_without_it_"
            "serves[sqlite]"),
    _mutant("owed-unpublished", "accepting an erasure owes the destruction of what its training stored", _ERASURE,
            "prompts.destroy_unpublished(session, [lease for lease in leases if lease], erasure_id=erasure_id)", "pass",
            "contract/test_crashes.py::test_a_worker_killed_at_any_step_does_not_keep_an_erased_sample[sqlite-commit]"),
    _mutant("owed-order", "bytes are destroyed no sooner than their erasure is planned", _PROMPTS,
            "sa.select(DestructionRow.object_name).where(~unplanned)", "sa.select(DestructionRow.object_name)",
            "contract/test_bytes.py::test_no_file_holds_anything_of_an_erased_sample[sqlite-bytes before plan]"),
    _mutant("raced", "two erasures of one sample are one", _ERASURE,
            "if samples.delete(session, ids) != len(found):", "if samples.delete(session, ids) < 0:",
            "contract/test_concurrent_erasures.py::test_an_erasure_that_is_overtaken_takes_what_is_left[postgres]"),
    _mutant("requests", "digests of an erased sample's requests are forgotten", _ERASURE,
            "idempotency.forget_requests(session, ids)", "pass",
            "contract/test_intake.py::test_a_late_retry_does_not_bring_an_erased_sample_back[sqlite]"),
    _mutant("owners", "an owner goes with their last sample", "service/core/replan.py",
            "samples.prune_owners(session)\n            progress", "progress",
            "contract/test_bytes.py::test_no_file_holds_anything_of_an_erased_sample[sqlite-in turn]"),
    _mutant("one-of-two", "of a request taken for dead and its retry only one makes a sample",
            "service/registry/idempotency.py",
            "IdempotencyRow.key_digest == key_digest, IdempotencyRow.resource_id.is_(None))\n    statement",
            "IdempotencyRow.key_digest == key_digest,)\n    statement",
            "contract/test_intake.py::test_of_a_request_taken_for_dead_and_its_retry_only_one_makes_a_sample[sqlite]"),
    _mutant("leaving", "whoever loses a sample is looked at by the next plan", "service/registry/samples.py",
            "    _note_leaving(session, sorted(set(owners)))\n", "",
            "contract/test_bytes.py::test_no_file_holds_anything_of_an_erased_sample[sqlite-in turn]"),
    _mutant("completion", "no erasure is completed before its bytes are gone", "service/core/advance.py",
            "if failures is None and erasure.ledgered and not", "if erasure.ledgered and not",
            "contract/test_erasure.py::test_an_erasure_does_not_complete_while_its_object_cannot_be_destroyed[sqlite]"),
    _mutant("completion-scrub", "no erasure is completed before the database is scrubbed", "service/core/reconcile.py",
            "prompts.destroyed(session, sorted(gone) if scrubbed else [])", "prompts.destroyed(session, sorted(gone))",
            "contract/test_erasure.py::test_an_erasure_waits_while_a_reader_keeps_old_pages_alive[sqlite]"),
    _mutant("scrub", "deleted rows leave nothing in the database's file", _ENGINE,
            'cursor.execute("VACUUM")', "pass",
            "contract/test_safeguards.py::test_scrubbing_reaches_what_moved_rows_have_left_in_free_space[sqlite]"),
    _mutant("scrub-log", "deleted rows leave nothing in the database's log", _ENGINE,
            "wal_checkpoint(TRUNCATE)", "wal_checkpoint(PASSIVE)",
            "contract/test_bytes.py::test_no_file_holds_anything_of_an_erased_sample[sqlite-in turn]"),
    _mutant("secure-delete", "deleted rows are overwritten where they stood", _ENGINE,
            '"secure_delete=ON"', '"secure_delete=OFF"',  # where SQLite is not built with it
            "contract/test_registry.py::test_every_connection_has_the_pragmas_that_durability_and_erasure_need[sqlite]"),
    _mutant("words", "an error's words hold no label and no owner", _ENGINE,
            "pool_size=20, hide_parameters=True", "pool_size=20",
            "contract/test_safeguards.py::test_an_errors_words_do_not_hold_a_label[sqlite]"),
]

WRITING = [  # several processes, one truth
    _mutant("false-alarm", "others may write after the clock was read", _LEASES,
            "late = now + SKEW", "late = now",
            "contract/test_clocks.py::test_what_others_write_after_the_clock_was_read_is_no_clock_set_back[sqlite]"),
    _mutant("immediate", "on SQLite a write has its lock from the start", _ENGINE,
            '"BEGIN IMMEDIATE" if write else "BEGIN"', '"BEGIN"',
            "contract/test_safeguards.py::test_nobody_writes_beside_an_exclusive_transaction[sqlite]"),
    _mutant("exclusive", "on PostgreSQL nobody writes beside an exclusive transaction", _ENGINE,
            "_ALONE if exclusive else _AMONG_OTHERS", "_AMONG_OTHERS",
            "contract/test_safeguards.py::test_nobody_writes_beside_an_exclusive_transaction[postgres]"),
    _mutant("away", "a database that is gone is no fault of the request", _ENGINE,
            "if _is_away(error, code):", "if False:",
            "contract/test_registry_away.py::test_a_connection_cut_within_a_transaction_is_said_and_undone[postgres]"),
    _mutant("silent", "a silent process holds its locks no longer", _ENGINE,
            '"idle_in_transaction_session_timeout": chosen.idle', '"idle_in_transaction_session_timeout": 0',
            "contract/test_registry_away.py::test_a_process_that_falls_silent_holds_its_locks_no_longer[postgres]"),
    _mutant("plan-alone", "nobody adds or erases while the line is cut anew", "service/core/replan.py",
            "write(exclusive=True, needed=needed if prepared is None else None)", "write()",
            "contract/test_safeguards.py::test_what_comes_while_the_line_is_cut_anew_is_counted[postgres]"),
    _mutant("erase-order", "an erasure locks all its clusters at once, in one order", _ERASURE,
            "clusters.lock(session, list(gone), serving=prompts.containing(session, ids))", "pass",
            "contract/test_safeguards.py::test_erasures_from_heirs_of_one_prompt_never_wait_for_each_other[postgres]"),
    _mutant("intake-order", "an intake locks its clusters in one order", "service/core/intake.py",
            "in sorted(arrivals.items()):", "in arrivals.items():",
            "contract/test_safeguards.py::test_batches_for_the_same_clusters_never_wait_for_each_other[postgres]"),
    _mutant("one-moment", "a reader sees one moment", _ENGINE,
            '({}, {"oubli_write": True}) if self.is_sqlite else ({"isolation_level": "REPEATABLE READ"}, {})',
            '({}, {"oubli_write": self.is_sqlite})',
            "contract/test_registry.py::test_a_read_session_sees_one_moment[postgres]"),
]
DIVIDING = [  # positions mean one thing at a time, and only survivors have a say in it
    _mutant("anchor-say", "an erased anchor routes nobody any more", _ERASURE,
            "if layout_rows.forget_anchors(session, ids) or withdrawn:", "if withdrawn:",
            "contract/test_anchors.py::test_no_answer_is_routed_by_an_anchor_that_has_gone[sqlite]"),
    _mutant("layout-recheck", "what was routed by a layout that has changed is computed again",
            "service/serving/engine.py",
            "snapshot.layout is not routed_by or ", "answers is None or ",
            "contract/test_anchors.py::test_no_answer_is_routed_by_an_anchor_that_has_gone[sqlite]"),
    _mutant("layout-intake", "a sample located by a layout that has changed is located again",
            "service/core/intake.py",
            "if layout_rows.digest(session) != located.layout:", "if False:",
            "contract/test_moves.py::test_a_sample_located_by_the_old_layout_is_located_again[sqlite]"),
    _mutant("layout-overtaken", "a move is carried out only if survivors still imply it", "service/core/move.py",
            "if _wanted(context, held)[0] != move.digest:", "if False:",
            "contract/test_moves.py::test_a_move_that_is_overtaken_by_an_erasure_is_prepared_again[sqlite]"),
    _mutant("layout-alone", "nothing is planned while another layout is wanted", "service/core/replan.py",
            "moving = not layouts.is_in_force(context, session)", "moving = False",
            "contract/test_partitions.py::test_other_settings_on_the_same_data_are_a_move[sqlite-tree-random]"),
    _mutant("layout-checksum", "a layout whose bytes have changed is not used", "service/core/layouts.py",
            "hashlib.sha256(data).hexdigest() != record.checksum", "False",
            "contract/test_anchors.py::test_a_damaged_layout_is_made_again_and_nothing_is_trained_for_it[sqlite-flip]"),
    _mutant("layout-owed", "the layout that knows an erased anchor is destroyed", "service/core/layouts.py",
            "prompts.owe_destruction(session, [replaced])", "pass",
            "contract/test_anchors.py::"
            "test_erasing_an_anchor_fits_anew_and_its_features_are_gone_when_that_is_completed[sqlite]"),
    _mutant("older-debts", "an erasure waits for what was owed before it was planned", "service/registry/progress.py",
            "owed += [self.worst[before - 1]] if before else []", "",
            "contract/test_anchors.py::test_an_erasure_waits_for_an_object_that_another_one_owes[sqlite]"),
    _mutant("rebuilt-owed", "a prompt that is built again leaves nothing behind", _PROMPTS,
            "    owe_destruction(session, [old])\n", "",
            "contract/test_environment.py::"
            "test_rebuilt_prompts_are_served_until_their_successors_are_and_then_destroyed[sqlite]"),
    _mutant("proof", "a worker that does not repeat itself does not start", "service/core/environment.py",
            "if len(trained) > 1 or not", "if False and not",
            "contract/test_environment.py::test_a_training_that_does_not_repeat_is_refused_at_start[sqlite]"),
]

SUBTRACTING = [
    _mutant("feed-count", "a replica that has missed a change starts from the survivors", _TIER,
            "if not changes.complete(self._labels):", "if False:",
            "contract/test_closed_form.py::test_one_long_silent_holds_up_nothing_and_starts_again_when_it_is_back"
            "[sqlite]"),
    _mutant("acknowledged", "a removed sample's object waits for every live replica", _PROMPTS,
            "if applied is not None:", "if False:",
            "contract/test_closed_form.py::test_an_object_stays_until_every_replica_has_reported_and_the_erasure_waits_"
            "for_it[sqlite]"),
    _mutant("silent-replica", "a replica that is not heard from holds nobody up", "service/registry/replicas.py",
            "(r.marks.removals for r in every(session) if r.is_alive(now, fresh))",
            "(r.marks.removals for r in every(session))",
            "contract/test_closed_form.py::test_one_long_silent_holds_up_nothing_and_starts_again_when_it_is_back"
            "[sqlite]"),
    _mutant("registered-first", "a replica is on record before it reads the survivors", _TIER,
            "replicas.register(session, name=self._name, now=self._context.clock())", "pass",
            "contract/test_closed_form.py::test_who_goes_while_a_replica_starts_is_kept_for_it[sqlite]"),
    _mutant("came-and-went", "what has come and gone between two looks is counted", "service/registry/feed.py",
            "len(self.added) + came_and_went ==", "len(self.added) ==",
            "contract/test_closed_form.py::test_a_sample_that_came_and_went_between_two_looks_was_never_there[sqlite]"),
    _mutant("integers", "descriptors are summed as integers", "models/closed_form.py",
            "return np.rint(rows * SCALE)", "return rows * SCALE",
            "unit/test_closed_form.py::test_a_sample_that_was_removed_was_never_there"),
]

RESTORING = [  # what was erased does not come back with a backup
    _mutant("ledgered", "no erasure is completed before its tombstone is in the ledger",
            "service/core/advance.py",
            "and erasure.ledgered and not", "and not",
            "contract/test_ledger.py::test_no_erasure_is_completed_before_its_tombstone_is_written[sqlite]"),
    _mutant("ledgered-noted", "a tombstone counts as written only once it is", "service/core/ledger.py",
            "        return words(error)\n    return None", "        words(error)\n    return None",
            "contract/test_ledger.py::test_no_erasure_is_completed_before_its_tombstone_is_written[sqlite]"),
    _mutant("tombstone-name", "a tombstone is believed under its own name only", "service/core/ledger.py",
            "if object_name(tombstone.erasure) != name:", "if False:",
            "contract/test_ledger.py::test_what_is_no_tombstone_is_never_taken_for_one[another erasure]"),
    _mutant("replay-seen", "a replayed erasure plans anew for who has seen samples that did not come back", _ERASURE,
            "leases += [clusters.removed(session, cluster, 0) for cluster in sorted(set(withdrawn) - set(gone))]",
            "pass",
            "contract/test_restore.py::test_a_prompt_that_has_seen_an_erased_sample_is_withdrawn_though_its_row_did_not_"
            "come_back[sqlite]"),
    _mutant("replay-objects", "objects that came back without their rows are destroyed", "service/core/restore.py",
            "prompts.owe_destruction(session, found.objects)", "pass",
            "contract/test_restore.py::test_objects_without_rows_are_destroyed_at_once[sqlite]"),
    _mutant("replay-alone", "nothing is replayed under a running service", "service/core/restore.py",
            "if running := heard_from(context):", "if running := list[str]():",
            "contract/test_restore.py::test_nothing_is_applied_while_the_service_runs[sqlite]"),
]

TELLING = [  # operators learn how it is doing, and nothing about anybody
    _mutant("quoted-words", "a database's words, which quote values, are not logged", _LOG,
            'return str(code) if isinstance(code, str) else ""', "return str(error)",
            "unit/test_log.py::test_what_led_to_an_exception_is_told_and_a_database_s_words_are_not"),
    _mutant("printed-rows", "libraries that print what they read are not heard", _LOG,
            "level=logging.WARNING, force=True", "level=level, force=True",
            "unit/test_log.py::test_rows_that_a_library_would_print_are_not_heard"),
    _mutant("span-words", "no span holds an exception's words", "service/tracing.py",
            "record_exception=False,", "record_exception=True,",
            "unit/test_tracing.py::test_an_exception_is_told_by_its_kind"),
    _mutant("span-paths", "FastAPI's own telemetry, which records paths, is off", "service/api/app.py",
            '"tracing": False, ', '',
            "unit/test_tracing.py::test_other_libraries_record_nothing"),
    _mutant("tally-done", "a training is counted by the transaction that publishes it", _TRAIN_ONE,
            "tallies.observe(session, tallies.TRAINING, built.seconds)", "pass",
            "contract/test_facts.py::test_counts_are_what_happened[sqlite]"),
    _mutant("one-question", "a registry that hangs holds up one thread of the metrics, not one a scrape",
            "service/api/metrics.py",
            "self._asked is None or (self._asked.done() and ", "self._asked is None or (True and ",
            "unit/test_scrape.py::test_a_question_that_hangs_is_not_asked_again"),
]

STOPPING = [  # who is told to stop is asked nothing more, and owes nothing
    _mutant("drain-wait", "an API that was told to stop answers while proxies notice", _SERVER,
            "self._drain_seconds if served else 0.0", "0.0",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
    _mutant("drain-said", "... and says so", "service/api/routes/health.py",
            "draining = request.app.state.draining", "draining = False",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
    _mutant("drain-finish", "requests under way end before the process does", _SERVER,
            "timeout_graceful_shutdown=settings.serving.finish_seconds", "timeout_graceful_shutdown=0",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
]

WORKING = [  # workers hear, look, and are not killed for ever
    _mutant("tries-taken-over", "a lease that had to expire counts as a failed try", _TRAIN_ONE,
            "        leases.count_try(session, claim, failure=leases.KILLED, retry_at=retry_at)\n", "",
            "contract/test_tries.py::test_a_cluster_that_kills_whoever_trains_it_is_put_aside_and_shown[sqlite]"),
    _mutant("tries-left-behind", "a worker that was killed counts its try when it is back", _LEASES,
            "        row.attempts += 1\n", "",
            "contract/test_tries.py::test_a_worker_that_was_killed_counts_its_try_when_it_comes_back[sqlite]"),
    _mutant("tries-registry", "a registry that is away is no fault of the cluster", _TRAIN_ONE,
            "with suppress(Unavailable):", "with suppress():",
            "contract/test_tries.py::test_a_registry_that_is_away_during_a_training_is_no_failed_try[sqlite]"),
    _mutant("give-back", "a worker told to stop gives its lease back before the batch ends", "workers/trainer.py",
            "self._give_back()  # at once", "pass  # at once",
            "contract/test_trainer.py::test_told_to_stop_it_gives_its_lease_back_before_the_batch_ends[sqlite]"),
    _mutant("deaf-broker", "a broker that takes no ring is not deafness", "workers/hearing.py",
            "            if not taken:\n                self._ringing_since = None\n                return False\n", "",
            "unit/test_hearing.py::test_a_broker_that_takes_no_ring_is_not_deafness"),
    _mutant("deaf-busy", "a training under way is not deafness", "workers/hearing.py",
            "if self._busy or not work_waits:", "if not work_waits:",
            "unit/test_hearing.py::test_a_long_training_is_no_deafness"),
    _mutant("deletions-first", "deletions are heard before additions", "service/core/folder_broker.py",
            "        self.pos = 0\n", "",
            "contract/test_reconciling.py::test_deletions_are_heard_first_by_a_worker_that_listens_to_both"),
    _mutant("deletions-only", "a worker for deletions claims nothing else", _LEASES,
            "        ClusterRow.urgent if urgent else sa.true(),\n", "",
            "contract/test_reconciling.py::test_a_worker_for_deletions_claims_nothing_else[sqlite]"),
    _mutant("garbage", "no message ends a worker", "service/core/redis_broker.py",
            "except (AttributeError, KeyError, TypeError, ValueError) as error:", "except ZeroDivisionError as error:",
            "integration/test_redis_faults.py::test_messages_that_are_none_of_ours_are_dropped"),
    _mutant("bell-thread", "who rings does not wait for the broker", "service/core/doorbell.py",
            "            self._changed.notify_all()\n\n    def flush",
            "        self.ring_now(urgent=urgent)\n\n    def flush",
            "contract/test_reconciling.py::test_a_broker_that_hangs_delays_nobody"),
]
# fmt: on

MUTANTS = [
    *LEARNING,
    *LOADING,
    *PUBLISHING,
    *ERASING,
    *WRITING,
    *DIVIDING,
    *SUBTRACTING,
    *RESTORING,
    *TELLING,
    *STOPPING,
    *WORKING,
]
