"""What is in place of a batch's writes once the batch is over."""

from __future__ import annotations

from typing import Any, NoReturn

from streamapp.errors import BatchEnded

__all__ = ["Ended"]


class Ended:
    """Refuses whatever is done with it.

    A live side's containers are replaced by one when its batch is over, so that only who comes late
    pays for being found out: there is no check on the way of those who are in time.

    Arguments:
        what: what is used too late, for the error.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def _refuse(self) -> NoReturn:
        raise BatchEnded(
            f"{self._what} was used by something that outlived its batch: the batch was finished or taken back, "
            "and this would have landed in another one. Await every task that an agent starts before it asks for "
            "the next batch; asyncio.TaskGroup also ends the others when one raises, which asyncio.gather does not"
        )

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def __getitem__(self, key: Any) -> NoReturn:
        self._refuse()

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self._refuse()

    def __contains__(self, key: Any) -> bool:
        self._refuse()

    def __iter__(self) -> Any:
        self._refuse()
