"""That it runs as operators expect: what is told, how it stops, what workers survive."""

from tests.safeguards.mutant import mutant

_LEASES = "service/registry/leases.py"
_LOG = "service/log.py"
_SERVER = "service/api/server.py"
_TRAIN_ONE = "service/core/training.py"

# fmt: off
TELLING = [  # operators learn how it is doing, and nothing about anybody
    mutant("quoted-words", "a database's words, which quote values, are not logged", _LOG,
            'return str(code) if isinstance(code, str) else ""', "return str(error)",
            "unit/test_log.py::test_what_led_to_an_exception_is_told_and_a_database_s_words_are_not"),
    mutant("printed-rows", "libraries that print what they read are not heard", _LOG,
            "level=logging.WARNING, force=True", "level=level, force=True",
            "unit/test_log.py::test_rows_that_a_library_would_print_are_not_heard"),
    mutant("span-words", "no span holds an exception's words", "service/tracing.py",
            "record_exception=False,", "record_exception=True,",
            "unit/test_tracing.py::test_an_exception_is_told_by_its_kind"),
    mutant("span-paths", "FastAPI's own telemetry, which records paths, is off", "service/api/app.py",
            '"tracing": False, ', '',
            "unit/test_tracing.py::test_other_libraries_record_nothing"),
    mutant("tally-done", "a training is counted by the transaction that publishes it", _TRAIN_ONE,
            "counters.observe(session, counters.TRAINING, built.seconds)", "pass",
            "contract/test_stats.py::test_counts_are_what_happened[sqlite]"),
    mutant("one-question", "a registry that hangs holds up one thread of the metrics, not one a scrape",
            "service/api/metrics.py",
            "self._asked is None or (self._asked.done() and ", "self._asked is None or (True and ",
            "unit/test_scrape.py::test_a_question_that_hangs_is_not_asked_again"),
]

STOPPING = [  # who is told to stop is asked nothing more, and owes nothing
    mutant("drain-wait", "an API that was told to stop answers while proxies notice", _SERVER,
            "self._drain_seconds if served else 0.0", "0.0",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
    mutant("drain-said", "... and says so", "service/api/routes/health.py",
            "draining = request.app.state.draining", "draining = False",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
    mutant("drain-finish", "requests under way end before the process does", _SERVER,
            "timeout_graceful_shutdown=settings.serving.finish_seconds", "timeout_graceful_shutdown=0",
            "integration/test_draining.py::test_it_says_so_answers_and_leaves"),
]

_CHILD, _TURNS = "service/decoding/child.py", "service/decoding/turns.py"
_DECODERS = "contract/test_decoders.py::"
DECODING = [  # no stranger's file holds the service up
    mutant("decode-time", "an image that takes too much of a processor's time is refused", _CHILD,
            "signal.setitimer(signal.ITIMER_PROF, rules.cpu_seconds)", "signal.setitimer(signal.ITIMER_PROF, 0.0)",
            _DECODERS + "test_an_image_that_takes_too_much_time_is_refused_and_its_neighbours_are_not"),
    mutant("decode-memory", "... and one that takes too much memory", _CHILD,
            "resource.setrlimit(resource.RLIMIT_AS, (most, most))", "pass",
            _DECODERS + "test_an_image_that_takes_too_much_memory_is_refused_and_its_neighbours_are_not"),
    mutant("decode-orphan", "a decoder ends with an API that is killed", _CHILD, " | os.O_ASYNC", "",
            _DECODERS + "test_decoders_end_with_an_api_that_is_killed"),
    mutant("decode-core", "no picture is written to a core file", _CHILD,
            "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", "pass",
            _DECODERS + "test_a_process_has_no_tensors_no_secrets_and_writes_no_core"),
    mutant("decode-gone", "nothing is decoded for a client that has gone", "service/decoding/decoders.py",
            "killing.start()", "pass",
            _DECODERS + "test_when_the_client_has_gone_its_decoder_is_free_again"),
    mutant("decode-turns", "a caller of many pictures goes behind the others", _TURNS,
            "self._waiting[caller] = queue  # behind all other callers",
            "self._waiting = {caller: queue, **self._waiting}",
            "unit/test_turns.py::test_one_picture_does_not_wait_for_the_many_of_another_caller"),
    mutant("decode-most", "no caller holds every decoder", _TURNS,
            "if self._in_hand[caller] < self._most", "if True",
            "unit/test_turns.py::test_a_caller_who_holds_all_it_may_waits_for_others"),
    mutant("decode-scans", "a JPEG of very many scans is refused unseen", "models/image.py",
            "            check_scans(data)\n", "            pass\n",
            "unit/test_image_files.py::test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded"),
]

WORKING = [  # workers hear, look, and are not killed for ever
    mutant("tries-taken-over", "a lease that had to expire counts as a failed try", _TRAIN_ONE,
            "    count(session, claim, failure=leases.KILLED, retry_at=retry_at)\n", "",
            "contract/test_tries.py::test_a_cluster_that_kills_whoever_trains_it_is_put_aside_and_shown[sqlite]"),
    mutant("tries-left-behind", "a worker that was killed counts its try when it is back", _LEASES,
            "        row.attempts += 1\n", "",
            "contract/test_tries.py::test_a_worker_that_was_killed_counts_its_try_when_it_comes_back[sqlite]"),
    mutant("tries-registry", "a registry that is away is no fault of the cluster", _TRAIN_ONE,
            "with suppress(Unavailable):", "with suppress():",
            "contract/test_tries.py::test_a_registry_that_is_away_during_a_training_is_no_failed_try[sqlite]"),
    mutant("give-back", "a worker told to stop gives its lease back before the batch ends", "workers/heartbeat.py",
            "self._lease.give_back()  # at once", "pass  # at once",
            "contract/test_trainer.py::test_told_to_stop_it_gives_its_lease_back_before_the_batch_ends[sqlite]"),
    mutant("stalled-broker", "a broker that takes nothing stalls no worker", "workers/liveness.py",
            "            if not taken:\n                self._sending_since = None\n                return False\n", "",
            "unit/test_liveness.py::test_a_broker_that_takes_nothing_stalls_no_worker"),
    mutant("stalled-busy", "a training under way is no stall", "workers/liveness.py",
            "if self._busy or not work_waits:", "if not work_waits:",
            "unit/test_liveness.py::test_a_long_training_is_no_stall"),
    mutant("deletions-first", "deletions are heard before additions", "service/messaging/folder_transport.py",
            "        self.pos = 0\n", "",
            "contract/test_reconciling.py::test_deletions_are_heard_first_by_a_worker_that_listens_to_both"),
    mutant("deletions-only", "a worker for deletions claims nothing else", _LEASES,
            "        ClusterRow.urgent if urgent else sa.true(),\n", "",
            "contract/test_reconciling.py::test_a_worker_for_deletions_claims_nothing_else[sqlite]"),
    mutant("unacknowledged", "a message that cannot be acknowledged does not deafen",
            "service/messaging/redis_transport.py",
            "            virtual.QoS.ack(self, delivery_tag)\n", "",
            "integration/test_redis.py::test_a_message_that_cannot_be_acknowledged_does_not_deafen"),
    mutant("garbage", "no message ends a worker", "service/messaging/redis_transport.py",
            "except (AttributeError, KeyError, TypeError, ValueError) as error:", "except ZeroDivisionError as error:",
            "integration/test_redis_faults.py::test_messages_that_are_none_of_ours_are_dropped"),
    mutant("notifier-thread", "who notifies does not wait for the broker", "service/messaging/notifier.py",
            "            self._changed.notify_all()\n\n    def flush",
            "        self.notify_now(urgent=urgent)\n\n    def flush",
            "contract/test_reconciling.py::test_a_broker_that_hangs_delays_nobody"),
]
# fmt: on
