"""`python -m workers worker|beat`: what `oubli worker` and `oubli beat` become."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import warnings
from collections.abc import Sequence

from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from service import log, tracing
from service.core.privacy import keep_private
from service.core.text import check_text
from service.errors import Misconfigured, ServiceError
from service.loading import loading
from service.messaging.celery_app import make_celery, queue_name
from service.messaging.queues import QUEUES
from service.settings import Settings, load_settings
from workers.schedule import schedule


def run_worker(settings: Settings, name: str, queues: Sequence[str]) -> int:
    """Train until told to stop; the exit status. Pool `solo`: the process that loads torch trains; nothing forks."""
    with loading():  # late, with torch: beat needs neither
        from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

        from workers.tasks import register
        from workers.trainer import FAILED, Trainer

        trainer = Trainer(settings, name, queues)
    app = make_celery(settings)
    app.conf.worker_consumer = "workers.consumer:PausingConsumer"
    register(app, trainer)
    worker_ready.connect(lambda **_: trainer.start(), weak=False)
    worker_shutting_down.connect(lambda **_: trainer.interrupt(), weak=False)
    worker_shutdown.connect(lambda **_: trainer.stop(), weak=False)
    arguments = ["--quiet", "worker", "--pool", "solo", "--hostname", name, "--loglevel", "WARNING"]
    listening = ["--queues", ",".join(queue_name(queue) for queue in queues)]
    try:
        app.worker_main([*arguments, *listening, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    except SystemExit:  # how Celery's own command ends
        if not trainer.status and trainer.told_to_stop:
            raise
    return trainer.status or (0 if trainer.told_to_stop else FAILED)  # not told to end: the supervisor starts it again


def run_beat(settings: Settings) -> None:
    """Send notifications from a timer. The schedule is kept in memory alone: losing it loses nothing."""
    app = make_celery(settings)
    schedule(app, settings)
    app.Beat(scheduler_cls="workers.schedule:Timer", loglevel="WARNING", quiet=True).run()


def _speak_as_we_do(settings: Settings) -> None:
    """Log Celery's own lines in the service's format, also those that it prints when it is told to stop."""
    from celery.apps import worker
    from celery.signals import setup_logging

    setup_logging.connect(lambda **_: None, weak=False)

    def say(words: str, stream: object = None) -> None:
        log.say(str(words), settings.log_format)

    worker.safe_say = say  # type: ignore[attr-defined]  # which its stubs leave out


def main() -> None:
    """Parse, configure, run."""
    parser = argparse.ArgumentParser(prog="python -m workers")
    parser.add_argument("role", choices=["worker", "beat"])
    parser.add_argument("--device")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}")
    parser.add_argument("--queues", default=",".join(QUEUES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SecurityWarning)  # running as root is the administrator's choice
    warnings.simplefilter("ignore", CPendingDeprecationWarning)  # of what `solo` has no use for
    try:
        settings = load_settings(device=arguments.device)
        log.configure(settings.log_level, settings.log_format)
        _speak_as_we_do(settings)
        keep_private(settings)
        if settings.tracing:
            tracing.start(arguments.role)
        if arguments.role == "beat":
            run_beat(settings)
        else:
            sys.exit(run_worker(settings, check_text("--name", arguments.name, most=200), arguments.queues.split(",")))
    except Misconfigured as error:
        print(f"oubli: {error.detail}", file=sys.stderr)  # noqa: T201  # for the operator, as `oubli` itself does
        sys.exit(2)  # no restart can help: the supervisor ends
    except ServiceError as error:
        print(f"oubli: {error.detail}", file=sys.stderr)  # noqa: T201
        sys.exit(1)  # as when the store is unavailable: the supervisor starts it again


if __name__ == "__main__":
    main()
