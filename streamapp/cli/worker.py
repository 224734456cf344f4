"""`faust -A … worker` with the options of the engine."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import Any

from faust.cli.base import option
from faust.cli.worker import worker as faust_worker
from mode import ServiceT

from streamapp.engine.app import App

__all__ = ["worker"]


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
        service = super().as_service(loop, *args, with_web=enabled, **kwargs)
        app = self.app
        if isinstance(app, App):
            app.once = once
            if name is not None:
                app.engine_settings = dataclasses.replace(app.engine_settings, worker_name=name)
            if once:
                app.task(_stop_when_finished)
        return service


async def _stop_when_finished(app: App) -> None:
    if app.engine is not None:
        await app.engine.finished.wait()
    signal.raise_signal(signal.SIGTERM)
