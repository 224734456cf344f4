"""`faust -A … worker` with the options of the engine."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import warnings
from typing import Any

import mode
from faust import Worker as FaustWorker
from faust.cli.base import option
from faust.cli.worker import worker as faust_worker
from faust.exceptions import AlreadyConfiguredWarning
from mode import ServiceT

from streamapp.cli.printing import printing_to_log
from streamapp.cli.recovery_bar import show_recovery, terminal
from streamapp.cli.troubles import trouble_of_worker
from streamapp.engine.app import App
from streamapp.errors import StreamappError
from streamapp.pulse import VARIABLE, beating

__all__ = ["EngineWorker", "worker"]


class worker(faust_worker):
    """Start worker instance for given app."""

    options = [
        # Faust's own default turns the web server on whatever the application says, and the second
        # worker of a host then finds its port taken.
        option(
            "--with-web/--without-web",
            default=None,
            help="Enable/disable web server and related components (default: as the application says).",
        ),
        *faust_worker.options[1:],
        option(
            "--once",
            is_flag=True,
            default=False,
            help="Process what is there, commit, close what the watermark closes, and exit.",
        ),
        option(
            "--name",
            default=None,
            help="Identity of this worker: fixes its state directory and makes it a static member of its groups.",
        ),
    ]

    @property
    def _Worker(self) -> type[mode.Worker]:
        return EngineWorker if isinstance(self.app, App) else super()._Worker

    def as_service(
        self,
        loop: asyncio.AbstractEventLoop,
        *args: Any,
        once: bool = False,
        name: str | None = None,
        with_web: bool | None = None,
        **kwargs: Any,
    ) -> ServiceT:
        """Return the application, with the engine's options set."""
        enabled = self.app.conf.web_enabled if with_web is None else with_web
        with warnings.catch_warnings():
            # Faust assigns the settings of the command line, changed or not, and warns of it.
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)
            service = super().as_service(loop, *args, with_web=enabled, **kwargs)
        app = self.app
        if isinstance(app, App):
            app.once = once
            if name is not None:
                app.engine_settings = dataclasses.replace(app.engine_settings, worker_name=name)
            app.task(_show_recovery)
            if once:
                app.task(_stop_when_finished)
            if VARIABLE in os.environ:
                app.task(_keep_pulse)
        return service


class EngineWorker(FaustWorker):
    """Faust's worker, which ends on the engine's own errors with their message and exit code 1.

    They say what is wrong and what to do; a stack of service starts says neither.
    """

    async def start(self) -> None:
        """Start the services."""
        try:
            await super().start()
        except StreamappError as error:
            self._tell(error)
            raise SystemExit(1) from None

    def _redirect_stdouts(self) -> None:
        self.add_context(printing_to_log(self.redirect_stdouts_level))

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Keep aiokafka's tables of subscriptions out of the log, unless it is for debugging."""
        super().on_setup_root_logger(logger, level)
        if level > logging.DEBUG:
            logging.getLogger("aiokafka").setLevel(max(level, logging.WARNING))

    async def on_startup_finished(self) -> None:
        """Say that the worker is at work, and on what."""
        await super().on_startup_finished()
        engine = getattr(self.app, "engine", None)
        if engine is not None and not self.quiet:
            print(f"worker {engine.worker} runs {engine.running}", file=sys.__stdout__, flush=True)

    def _shutdown_loop(self) -> None:
        error = self.crash_reason
        if not isinstance(error, StreamappError):
            super()._shutdown_loop()
            return
        self._crash_reason = None
        super()._shutdown_loop()
        self._tell(error)
        raise SystemExit(1)

    @staticmethod
    def _tell(error: StreamappError) -> None:
        print(f"streamapp: {error}", file=sys.__stderr__, flush=True)


async def _keep_pulse(app: App) -> None:
    async with beating(trouble_of_worker(app)):
        await asyncio.Event().wait()


async def _show_recovery(app: App) -> None:
    stream = terminal()
    if stream is not None and app.engine is not None:
        await show_recovery(app.engine.recovery, stream)


async def _stop_when_finished(app: App) -> None:
    if app.engine is not None:
        await app.engine.finished.wait()
    signal.raise_signal(signal.SIGTERM)
