"""Metrics for Prometheus. Of this process: requests, batches, time to withdraw. Of the registry: everything else.

Facts of the registry are asked for when they are scraped, so every replica tells the same and a restart loses none;
take the maximum over replicas, not the sum. What happens in workers is counted in the registry (`registry.counters`).
No label holds anything that a person could be known by: routes are templates, replicas are hosts and process ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from service.core.stats import Stats
from service.registry import counters
from service.registry.counters import CounterValues
from service.serving.batcher import Batcher
from service.serving.quality import Measured

log = logging.getLogger(__name__)
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # each is one more series, without use

Result = TypeVar("Result")

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFUSALS = ("missing", "unknown", "expired", "scope")
KEPT_SECONDS = 1.0  # so long an answer of the registry is given again
PATIENCE = 2.0  # seconds: Prometheus gives up after ten by default, and the registry may be away


class Metrics:
    """The instruments of one process, and the registry of Prometheus' client that holds them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        known: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("oubli_requests", "Requests answered.", labels, **known)
        self.request_seconds = Histogram(
            "oubli_request_seconds", "Time to answer.", labels[:2], buckets=REQUEST_SECONDS, **known
        )
        self.withdraw_seconds = Histogram(
            "oubli_time_to_withdraw_seconds",
            "From the arrival of a request to forget until it was accepted: from then on nothing seen in it is used.",
            buckets=REQUEST_SECONDS,
            **known,
        )
        self.batch_images = Histogram("oubli_batch_images", "Images computed together.", buckets=BATCH_IMAGES, **known)
        self.batch_seconds = Histogram(
            "oubli_batch_seconds", "Time that a batch took to compute.", buckets=BATCH_SECONDS, **known
        )
        words = "Requests whose API key was not accepted: missing, unknown or revoked, expired, without the scope."
        self._refusals = Counter("oubli_authentication_failures", words, ("reason",), **known)
        for reason in REFUSALS:  # from zero on, or the first would not be a rise
            self._refusals.labels(reason)
        ProcessCollector(registry=self.registry)

    def key_refused(self, reason: str) -> None:
        """Count a refusal, by reason alone: series by key or by sender would have no end."""
        self._refusals.labels(reason if reason in REFUSALS else "unknown").inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch of the batcher."""
        self.batch_images.observe(size)
        self.batch_seconds.observe(seconds)


class Patient(Generic[Result]):
    """Asks a question in a thread of its own and waits so long for the answer, which is kept for a moment.

    One question is under way at a time: callers that ask meanwhile wait for the same answer. A database that hangs
    blocks one thread, not one for each scrape.
    """

    def __init__(self, ask: Callable[[], Result], *, seconds: float = PATIENCE, kept: float = KEPT_SECONDS) -> None:
        self._ask = ask
        self._seconds = seconds
        self._kept = kept
        self._lock = threading.Lock()
        self._asked: Future[Result] | None = None
        self._since = 0.0  # monotonic seconds

    def answer(self) -> Result:
        """Raises TimeoutError, or what asking raised."""
        with self._lock:
            stale = time.monotonic() - self._since > self._kept
            if self._asked is None or (self._asked.done() and (stale or self._asked.exception() is not None)):
                self._asked, self._since = Future(), time.monotonic()
                threading.Thread(target=self._run, args=(self._asked,), name="scrape", daemon=True).start()
            asked = self._asked
        return asked.result(self._seconds)

    def _run(self, asked: Future[Result]) -> None:
        try:
            asked.set_result(self._ask())
        except BaseException as error:  # told to every caller that waits
            asked.set_exception(error)


class Collector:
    """Collects the registry's figures and this process's queue at every scrape; while the registry is away, the queue.

    snapshot_epoch  the serving epoch that this replica's snapshot was taken at.
    measured        the quality of this replica's closed form; None while there is no report.
    evaluated       the same on the evaluation set.
    """

    def __init__(
        self,
        gather: Callable[[], Stats],
        snapshot_epoch: Callable[[], int],
        batcher: Batcher[Any, Any],
        measured: Callable[[], Measured | None] = lambda: None,
        evaluated: Callable[[], Measured | None] = lambda: None,
    ) -> None:
        self._stats = Patient(gather)
        # The answer of a moment ago may count what is erased since; and what is kept of it names no label.
        self._quality = Patient(lambda: _figures(measured()), kept=0.0)
        self._evaluation = Patient(lambda: _figures(evaluated()), kept=0.0)
        self._snapshot_epoch = snapshot_epoch
        self._batcher = batcher

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus' client."""
        yield from self._of_queue()
        snapshot = self._snapshot_epoch()  # before the registry's: it cannot be ahead then
        try:
            stats, quality, evaluation = self._stats.answer(), self._quality.answer(), self._evaluation.answer()
        except Exception as error:
            log.warning("the registry does not answer (%s): metrics tell of this process alone", type(error).__name__)
            yield _gauge("oubli_registry_up", "1 if the registry has answered this scrape.", 0)
            return
        yield _gauge("oubli_registry_up", "1 if the registry has answered this scrape.", 1)
        lag = max(stats.epoch - snapshot, 0)
        yield _gauge("oubli_epoch_lag", "Serving epochs that this replica has not taken note of yet.", lag)
        yield from _of_stats(stats)
        yield from _of_counters(stats.counters)
        yield from _of_quality(quality)
        yield from _of_evaluation(evaluation)

    def _of_queue(self) -> Iterator[Metric]:
        batcher = self._batcher
        yield _gauge("oubli_queue_images", "Images that wait to be computed.", batcher.depth)
        yield _gauge("oubli_queue_limit_images", "Most images that may wait.", batcher.max_queue)
        words = "Images refused because too many waited."
        yield CounterMetricFamily("oubli_queue_refused_images", words, value=batcher.refused)
        words = "Images refused because they had waited for too long."
        yield CounterMetricFamily("oubli_queue_late_images", words, value=batcher.late)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _by(label: str, name: str, words: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _of_stats(stats: Stats) -> Iterator[Metric]:
    yield _gauge("oubli_serving_epoch", "The registry's serving epoch.", stats.epoch)
    yield _gauge("oubli_samples", "Samples on record.", stats.samples)
    yield _by("state", "oubli_clusters", "Clusters by state.", dict(stats.clusters))
    yield _by("state", "oubli_erasures", "Erasures by state.", dict(stats.erasures))
    words = "Age of the oldest erasure that is not completed; 0 if there is none."
    yield _gauge("oubli_erasure_oldest_seconds", words, stats.oldest_erasure)
    yield _gauge("oubli_erasures_overdue", "Erasures not completed by their due date.", stats.overdue)
    words = "Age of the oldest change of a cluster that its prompt does not know yet; 0 if there is none."
    yield _gauge("oubli_cluster_oldest_change_seconds", words, stats.oldest_change)
    yield _gauge("oubli_objects_owed", "Objects that must be destroyed.", stats.pending_deletions)
    words = "Clusters that deletions have set back again and again, and that are not retrained yet for it."
    yield _gauge("oubli_clusters_pausing", words, stats.pausing)
    words = "Erasures of which some cluster does not serve a new prompt yet, completed or not."
    yield _gauge("oubli_erasures_unrestored", words, stats.unrestored)
    yield _gauge("oubli_workers_alive", "Workers heard from lately.", stats.workers)
    words = "Removed samples that a replica's closed-form tier has not taken out yet."
    yield _by("replica", "oubli_replica_removals_behind", words, dict(stats.behind))


def _figures(measured: Measured | None) -> tuple[float, float, int] | None:
    """Accuracy, calibration error and samples."""
    if measured is None or not measured.report.samples:
        return None
    return measured.report.accuracy, measured.report.calibration_error, measured.report.samples


def _of_quality(figures: tuple[float, float, int] | None) -> Iterator[Metric]:
    if figures is None:
        return
    accuracy, calibration_error, samples = figures
    words = "Share of samples that the closed form recognises when each is left out; missing while there is no report."
    yield _gauge("oubli_quality_accuracy", words, accuracy)
    yield _gauge("oubli_quality_calibration_error", "Expected calibration error of the same.", calibration_error)
    yield _gauge("oubli_quality_samples", "Samples that the report of quality counts.", samples)


def _of_evaluation(figures: tuple[float, float, int] | None) -> Iterator[Metric]:
    if figures is None:
        return
    accuracy, calibration_error, samples = figures
    words = "Share of evaluation samples that the closed form recognises; missing while there is no report, or no set."
    yield _gauge("oubli_evaluation_accuracy", words, accuracy)
    yield _gauge("oubli_evaluation_calibration_error", "Expected calibration error of the same.", calibration_error)
    yield _gauge("oubli_evaluation_samples", "Evaluation samples that this report counts.", samples)


def _of_counters(counted: CounterValues) -> Iterator[Metric]:
    words = "Time that a published training took."
    yield _histogram("oubli_training_seconds", words, counted, counters.TRAINING)
    words = "From the acceptance of an erasure until it was completed."
    yield _histogram("oubli_time_to_complete_seconds", words, counted, counters.COMPLETION)
    epochs = int(counted.plain(counters.SAMPLE_EPOCHS).total)
    words = "Samples trained on, once for each epoch, in published trainings."
    yield CounterMetricFamily("oubli_training_sample_epochs", words, value=epochs)
    failures = counted.plain(counters.FAILURES).count
    yield CounterMetricFamily("oubli_training_failures", "Trainings that have failed.", value=failures)


def _histogram(name: str, words: str, counted: CounterValues, histogram: counters.Histogram) -> Metric:
    return HistogramMetricFamily(name, words, buckets=counted.buckets(histogram), sum_value=counted.total(histogram))
