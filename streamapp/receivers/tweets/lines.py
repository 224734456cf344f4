"""What a line of the filtered stream is: a tweet, a notice, or nothing that can be used."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

__all__ = ["Garbage", "Notice", "Tweet", "envelopes", "read_line"]


class _Data(msgspec.Struct):
    id: str
    lang: str | None = None
    edit_history_tweet_ids: list[str] = []


class _Error(msgspec.Struct):
    title: str = "an error without a title"
    detail: str = ""
    disconnect_type: str | None = None


class _Line(msgspec.Struct):
    data: _Data | None = None
    errors: list[_Error] = []
    title: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tweet:
    """A tweet: its id, whether it is a later version of another, has a language, lacks a part."""

    id: int
    edited: bool
    has_language: bool
    partial: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """What the server says about the stream; whether it is about to end it."""

    text: str
    disconnect: bool


@dataclass(frozen=True, slots=True)
class Garbage:
    """A line that is none of these, and why."""

    reason: str


_DECODER: Final = msgspec.json.Decoder(_Line)
_LARGEST_ID: Final = (1 << 63) - 1


def read_line(line: bytes) -> Tweet | Notice | Garbage:
    """Tell what a line is."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Garbage(f"not a line of the X API v2: {error}")
    data = found.data
    if data is not None:
        if not data.id.isascii() or not data.id.isdigit() or int(data.id) > _LARGEST_ID:
            return Garbage("the tweet's id is not a number")
        return Tweet(
            int(data.id),
            len(data.edit_history_tweet_ids) > 1,
            data.lang is not None,
            bool(found.errors),
        )
    if found.errors:
        text = "; ".join(f"{error.title} {error.detail}".strip() for error in found.errors)
        gone = any(
            error.disconnect_type is not None or "disconnect" in error.title
            for error in found.errors
        )
        return Notice(text, gone)
    if found.title is not None:
        return Notice(f"{found.title} {found.detail}".strip(), found.title == "ConnectionException")
    return Garbage("neither a tweet nor a notice of the X API v2 (of another version, perhaps)")


def envelopes(answer: dict[str, Any], rule: dict[str, str]) -> list[bytes]:
    """The tweets of a search, oldest first, each as the stream would have sent it."""
    users = {user.get("id"): user for user in answer.get("includes", {}).get("users", ())}
    found = []
    for tweet in reversed(answer.get("data") or ()):
        envelope: dict[str, Any] = {"data": tweet, "matching_rules": [rule]}
        if author := users.get(tweet.get("author_id")):
            envelope["includes"] = {"users": [author]}
        found.append(msgspec.json.encode(envelope))
    return found
