"""The rules of the filtered stream: what they are on the server, and making them what they should be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from tweepy import HTTPException, StreamRule
from tweepy.asynchronous import AsyncStreamingClient

from streamapp.receivers.tweets.api import (
    Api,
    BearerToken,
    RuleError,
    XApiUnavailable,
    keep_out_of_logs,
    refusal,
    status_of,
)

__all__ = ["Rule", "RuleBook", "RuleChanges", "read_rules"]

MOST_LETTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Rule:
    """What to select, in X's language; a tag to tell it by; its id on the server."""

    value: str
    tag: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class RuleChanges:
    """What was done to the rules on the server."""

    added: Sequence[Rule]
    deleted: Sequence[Rule]
    kept: Sequence[Rule]

    def __str__(self) -> str:
        counts = f"{len(self.added)} added, {len(self.deleted)} deleted, {len(self.kept)} kept"
        return f"rules: {counts}"


def read_rules(path: Path) -> list[Rule]:
    """A rule a line; a tag may stand before it with a tab between. `//` begins a comment line.

    Raises:
        RuleError: the file cannot be read, or has no rules.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"cannot read the rules in {path}: {error}") from error
    rules = []
    for line in lines:
        if line.strip() and not line.startswith("//"):
            tag, tab, value = line.partition("\t")
            rules.append(Rule(value.strip(), tag.strip()) if tab else Rule(line.strip()))
    if not rules:
        raise RuleError(f"{path} has no rules: write one a line, as 'python lang:en'")
    return rules


class RuleBook:
    """The rules on the server; a context that holds a connection.

    Every method raises `XApiError` when the server refuses us, `XApiUnavailable` when it cannot be
    reached, and `RuleError` when a rule is wrong.
    """

    def __init__(self, token: BearerToken, api: Api | None = None) -> None:
        keep_out_of_logs(token)
        self._token = token
        self._api = api or Api()
        self._client = AsyncStreamingClient(token.reveal(), return_type=dict)

    async def __aenter__(self) -> Self:
        self._client.session = self._api.session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.session.close()

    async def list(self) -> Sequence[Rule]:
        """All rules, with their ids."""
        answer = await self._ask("get_rules")
        return [_rule(found) for found in answer.get("data", ())]

    async def add(self, rules: Iterable[Rule]) -> Sequence[Rule]:
        """Add rules, all or none; return them with their ids."""
        wanted = list(rules)
        for rule in wanted:
            if not 0 < len(rule.value) <= MOST_LETTERS:
                raise RuleError(
                    f"rule {rule.value[:60]!r} has {len(rule.value)} letters, and must have 1 to"
                    f" {MOST_LETTERS}"
                )
        if not wanted:
            return []
        answer = await self._ask("add_rules", [StreamRule(r.value, r.tag) for r in wanted])
        if errors := answer.get("errors"):
            raise RuleError(f"the X API takes none of the rules: {_complaints(errors)}")
        return [_rule(found) for found in answer.get("data", ())]

    async def delete(self, ids: Iterable[str]) -> int:
        """Delete rules by their ids, and return how many there were."""
        wanted = list(ids)
        if not wanted:
            return 0
        answer = await self._ask("delete_rules", wanted)
        return int(answer.get("meta", {}).get("summary", {}).get("deleted", 0))

    async def ensure(self, rules: Iterable[Rule]) -> RuleChanges:
        """Add those of `rules` that are missing; others stay."""
        there = await self.list()
        wanted = _unique(rules)
        known = {(rule.value, rule.tag) for rule in there}
        added = await self.add(rule for rule in wanted if (rule.value, rule.tag) not in known)
        return RuleChanges(added, [], there)

    async def sync(self, rules: Iterable[Rule]) -> RuleChanges:
        """Make the rules on the server equal to `rules`: what is new is added before others go.

        A rule whose tag has changed is deleted first: the server takes no value twice.
        """
        there = await self.list()
        wanted = {(rule.value, rule.tag): rule for rule in _unique(rules)}
        gone = [rule for rule in there if (rule.value, rule.tag) not in wanted]
        known = {(rule.value, rule.tag) for rule in there}
        new = [rule for key, rule in wanted.items() if key not in known]
        values = {rule.value for rule in new}
        retagged = [rule for rule in gone if rule.value in values]
        await self.delete(rule.id for rule in retagged if rule.id)
        added = await self.add(new)
        await self.delete(rule.id for rule in gone if rule.id and rule not in retagged)
        return RuleChanges(added, gone, [rule for rule in there if rule not in gone])

    async def _ask(self, method: str, *arguments: object) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await getattr(self._client, method)(*arguments)
        except HTTPException as error:
            status = status_of(error)
            if known := refusal(status, self._token, "the stream's rules"):
                raise known from None
            text = "; ".join(map(str, error.api_messages)) or type(error).__name__
            if status == 400:
                raise RuleError(
                    f"the X API takes none of the rules: {_complaints(error.api_errors) or text}"
                ) from None
            raise XApiUnavailable(f"the X API answers {status} about the rules: {text}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise XApiUnavailable(
                f"the X API cannot be reached ({type(error).__name__}): try again later"
            ) from None
        return answer


def _rule(found: dict[str, str]) -> Rule:
    return Rule(found["value"], found.get("tag"), found["id"])


def _unique(rules: Iterable[Rule]) -> Sequence[Rule]:
    """Of rules with one value, the last."""
    return list({rule.value: rule for rule in rules}.values())


def _complaints(errors: Iterable[Any]) -> str:
    parts = []
    for error in errors:
        if isinstance(error, dict):
            details = ", ".join(map(str, error.get("details", ())))
            parts.append(f"{error.get('value', '')!r}: {error.get('title', '')} {details}".strip())
        else:
            parts.append(str(error))
    return "; ".join(parts)
