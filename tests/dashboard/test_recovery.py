"""`/recovery/`: on the web port of any application, without a line of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamapp import App
from streamapp.dashboard.recovery import Recovery as Page
from streamapp.engine.engine import Engine
from tests.engine.tasks import an_app


class Request:
    def __init__(self, **headers: str) -> None:
        self.headers = headers


@pytest.fixture
def app() -> App:
    app = an_app()
    app.engine = Engine(app)
    return app


async def asked(app: App, **headers: str) -> Any:
    return await Page(app, app.web).get(Request(**headers))


def test_every_application_has_the_page(app: App) -> None:
    app.web.blueprints.apply(app.web)
    assert "/recovery/" in app.web.views


async def test_programs_get_figures(app: App) -> None:
    assert app.engine is not None
    with app.engine.recovery.opening("count/<0>") as opening:
        opening.begin(100)
        opening.move(done=100, records=90, size=900)
        found = json.loads((await asked(app)).body)
        assert found["active"] is True
        [task] = found["tasks"]
        assert task["task"] == "count/<0>"
        assert (task["records"], task["bytes"], task["offsets_done"]) == (90, 900, 100)
        assert found["total"]["offsets_total"] == 100


async def test_browsers_get_a_page(app: App) -> None:
    assert app.engine is not None
    with app.engine.recovery.opening("count/<0>") as opening:
        opening.begin(200)
        opening.move(done=100, records=90, size=900)
        page = (await asked(app, Accept="text/html,*/*")).body.decode()
    assert "count/&lt;0&gt;" in page
    assert "<td>50 %</td><td>90</td>" in page


async def test_a_worker_without_batch_agents_has_nothing_to_tell() -> None:
    app = an_app()
    assert json.loads((await asked(app)).body)["tasks"] == []
