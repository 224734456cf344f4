"""Tweets into a topic, each exactly once, through tweepy and the X API v2."""

from streamapp.receivers.tweets.api import Api, BearerToken, RuleError, XApiError
from streamapp.receivers.tweets.progress import Progress, Summary, TweetPosition
from streamapp.receivers.tweets.receiver import TweetReceiver
from streamapp.receivers.tweets.rules import Rule, RuleBook, RuleChanges

__all__ = [
    "Api",
    "BearerToken",
    "Progress",
    "Rule",
    "RuleBook",
    "RuleChanges",
    "RuleError",
    "Summary",
    "TweetPosition",
    "TweetReceiver",
    "XApiError",
]
