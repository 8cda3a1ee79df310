"""`python -m workers worker|beat`: what `oubli worker` and `oubli beat` become."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import warnings

from celery.exceptions import SecurityWarning

from service import log
from service.core.doorbell import make_celery
from service.errors import Misconfigured, ServiceError
from service.settings import Settings, load_settings
from workers.schedule import schedule


def run_worker(settings: Settings, name: str) -> None:
    """Train until told to stop. `solo`: the process that loads torch is the one that trains; nothing forks."""
    from celery.signals import (
        worker_ready,
        worker_shutdown,
        worker_shutting_down,
    )  # late, with torch: beat needs neither

    from workers.tasks import register
    from workers.trainer import Trainer

    trainer = Trainer(settings, name)
    app = make_celery(settings)
    register(app, trainer)
    worker_ready.connect(lambda **_: trainer.start(), weak=False)
    worker_shutting_down.connect(lambda **_: trainer.interrupt(), weak=False)
    worker_shutdown.connect(lambda **_: trainer.stop(), weak=False)
    arguments = ["--quiet", "worker", "--pool", "solo", "--hostname", name, "--loglevel", "WARNING"]
    app.worker_main([*arguments, "--without-gossip", "--without-mingle", "--without-heartbeat"])


def run_beat(settings: Settings) -> None:
    """Ring from a timer. The schedule is kept in memory: nothing is lost when it is."""
    app = make_celery(settings)
    schedule(app, settings)
    app.Beat(scheduler_cls="celery.beat:Scheduler", loglevel="WARNING", quiet=True).run()


def main() -> None:
    """Parse, configure, run."""
    parser = argparse.ArgumentParser(prog="python -m workers")
    parser.add_argument("role", choices=["worker", "beat"])
    parser.add_argument("--device")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SecurityWarning)  # running as root is the administrator's choice
    try:
        settings = load_settings(device=arguments.device)
        log.configure(settings.log_level)
        if arguments.role == "beat":
            run_beat(settings)
        else:
            run_worker(settings, arguments.name)
    except Misconfigured as error:
        print(f"oubli: {error.detail}", file=sys.stderr)  # noqa: T201  # for the operator, as `oubli` itself does
        sys.exit(2)  # no restart can help: the supervisor ends
    except ServiceError as error:
        print(f"oubli: {error.detail}", file=sys.stderr)  # noqa: T201
        sys.exit(1)  # as when the store is away: its supervisor tries again


if __name__ == "__main__":
    main()
