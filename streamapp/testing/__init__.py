"""Testing agents without a broker.

    async def test_errors_are_counted():
        async with app.test() as t:
            await t.send(log_lines, b"[Sun Dec 04 04:47:44 2005] [error] mod_jk …")
            assert error_counts.value("mod_jk", at=datetime(2005, 12, 4, 4, 47, 44)) == 1
            await t.advance(120)                       # windows close
            assert [r.value.final for r in t.output(error_windows)][-1]

A fixture is as short: `async with app.test() as t: yield t`.
"""

from streamapp.engine.dead_letters import DeadLetter
from streamapp.testing.app_test import AppTest
from streamapp.testing.records import Sent

__all__ = ["AppTest", "DeadLetter", "Sent"]
