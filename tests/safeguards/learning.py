"""What a prompt is made of, and that what is read is what was written."""

from tests.safeguards.mutant import mutant

_DESCENT = "models/descent.py"
_DETERMINISM = "models/determinism.py"
_ROUTER = "models/router.py"
_SPEC = "models/spec.py"
_TRAIN_ONE = "service/core/training.py"

# fmt: off
LEARNING = [  # a prompt is a pure function of its members
    mutant("seed-key", "each cluster draws from its own key", _DESCENT,
            '"oubli/epoch/1", self._key, ', '"oubli/epoch/1", ',
            "unit/test_training.py::test_key_and_order_of_members_matter"),
    mutant("seed-epoch", "each epoch draws anew", _DESCENT,
            "self._key, str(epoch))", "self._key)",
            "unit/test_safeguards.py::test_every_epoch_visits_all_members_in_an_order_of_its_own"),
    mutant("seed-global", "nothing is drawn from global random state", _DESCENT,
            "torch.randperm(count, generator=random)", "torch.randperm(count)",
            "unit/test_training.py::test_global_random_state_is_neither_used_nor_touched"),
    mutant("train-shape", "the last training batch is padded to the shape of the others", _DESCENT,
            "padding = -count % size", "padding = 0",
            "unit/test_training.py::test_every_batch_has_the_same_shape_and_every_member_counts_once"),
    mutant("train-weight", "padding weighs nothing in training", _DESCENT,
            "torch.zeros(padding)", "torch.ones(padding)",
            "unit/test_training.py::test_the_padding_of_the_last_batch_has_no_influence"),
    mutant("embed-shape", "every batch of embeddings has one shape", "models/embedding.py",
            "BATCH if exact else padded_size(views * len(chunk))", "padded_size(views * len(chunk))",
            "unit/test_safeguards.py::test_every_batch_of_embeddings_has_the_same_shape"),
    mutant("frozen-weights", "the backbone learns nothing", "models/backbone.py",
            "network.eval().requires_grad_(False)", "network.eval()",
            "unit/test_training.py::test_only_prompt_and_head_change"),
    mutant("frozen-statistics", "the backbone's statistics stand still", "models/backbone.py",
            "network.eval().requires_grad_(False)", "network.requires_grad_(False)",
            "unit/test_safeguards.py::test_a_backbones_statistics_stand_still"),
    mutant("algorithms", "deterministic algorithms are on", _DETERMINISM,
            "torch.use_deterministic_algorithms(True)", "torch.use_deterministic_algorithms(False)",
            "unit/test_determinism.py::test_configuration_fixes_threads_and_algorithms"),
    mutant("threads", "the number of threads is fixed", _DETERMINISM,
            "torch.set_num_threads(threads)", "pass",
            "unit/test_safeguards.py::test_the_number_of_threads_is_the_one_asked_for_whatever_the_machine_has"),
    mutant("tf32", "a GPU rounds nothing to TF32", _DETERMINISM,
            "torch.backends.cudnn.allow_tf32 = False", "pass",
            "unit/test_determinism.py::test_on_a_gpu_nothing_is_rounded_to_tf32_and_cublas_keeps_one_workspace"),
    mutant("key-label", "a member's digest names its label", _SPEC,
            "image_digest.encode(), label.encode())", "image_digest.encode())",
            "unit/test_spec.py::test_a_member_is_its_image_and_its_label"),
    mutant("key-order", "a prompt's key names the order of arrival", _SPEC,
            '"\\n".join(members)', '"\\n".join(sorted(members))',
            "unit/test_spec.py::test_a_prompts_key_names_backbone_training_and_members_in_their_order"),
    mutant("arrival", "members are listed in order of arrival", "service/registry/samples.py",
            "SampleRow.cluster_id == cluster_id).order_by(SampleRow.seq)",
            "SampleRow.cluster_id == cluster_id).order_by(SampleRow.id)",
            "contract/test_safeguards.py::test_members_are_listed_as_they_arrived_whatever_their_ids[sqlite]"),
    mutant("rerank", "float64 decides among FAISS's candidates", _ROUTER,
            "best = np.argmax(exact, axis=1)", "best = np.argmax(scores, axis=1)",
            "unit/test_safeguards.py::test_float64_decides_where_float32_sees_a_tie"),
    mutant("exact-dot", "scores are summed in float64", _ROUTER,
            "left.astype(np.float64, copy=False) * right.astype(np.float64, copy=False)", "left * right",
            "unit/test_safeguards.py::test_float64_decides_where_float32_sees_a_tie"),
    mutant("router-ties", "of equal prototypes the first is the nearest", _ROUTER,
            "order = np.argsort(candidates, axis=1)", "order = np.argsort(-candidates, axis=1)",
            "unit/test_router.py::test_ties_go_to_the_lower_index"),
    mutant("diverged", "a prompt that is not finite is never published", _TRAIN_ONE,
            "if not prompt.is_finite or ", "if ",
            "contract/test_training.py::test_a_training_that_diverges_is_shown_with_its_remedy_and_never_served[sqlite]"),
]

LOADING = [  # what is read is what was written
    mutant("artifact-digest", "an artifact's tensors have the recorded digest", "models/checkpoint.py",
            "if _data_digest(data) != digest:", "if False:",
            "unit/test_checkpoint.py::test_a_flipped_bit_in_the_tensors_is_refused"),
    mutant("artifact-identity", "an artifact of another backbone is refused", "models/checkpoint.py",
            '        "backbone": identity.backbone_digest,\n        "training": json', '        "training": json',
            "unit/test_checkpoint.py::test_another_prompt_than_the_one_asked_for_is_refused"),
    mutant("sample-digest", "a sample's pixels have the recorded digest", "service/core/sample_file.py",
            ' or pixel_digest(pixels) != digest', '',
            "contract/test_erasure.py::test_a_cluster_that_cannot_be_retrained_is_shown_as_failed_and_recovers"
            "[sqlite-one bit]"),
    mutant("unwritten-memory", "a worker looks for reads of memory that was never written", "models/determinism.py",
            "fill_uninitialized_memory = True", "fill_uninitialized_memory = False",
            "contract/test_environment.py::test_a_training_that_reads_what_nobody_has_written_is_refused_at_start[sqlite]"),
    mutant("bank-wiped", "nothing of a withdrawn prompt stays in the bank", "models/bank.py",
            "self._stack.weights[row.index] = 0.0", "pass",
            "unit/test_bank.py::test_a_prompt_goes_into_the_row_that_another_has_left_and_nothing_of_that_one_is_kept"),
    mutant("bank-padding", "a head never answers with another's label", "models/bank.py",
            "-torch.inf)", "0.0)",
            "unit/test_bank.py::test_labels_that_a_head_does_not_have_are_impossible"),
]
# fmt: on
