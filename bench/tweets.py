"""`python -m bench.tweets`: what the receiver of tweets costs beside a bare loop of tweepy and aiokafka.

Both read the same stream as fast as they can, from a stand-in for the X API, and publish to the same
embedded broker; both of these are processes of their own. Each contender is a fresh process on one
core. What counts is its CPU time a tweet, and the ratio of the two in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from bench.__main__ import broker, say
from bench.workload import PARTITIONS
from bench.x_api import AUTHORITY

FORMS = {
    "bare": "bare loop of tweepy and aiokafka, no guarantee",
    "receiver": "receiver, exactly once",
}


@contextmanager
def x_api(count: int, seed: int, directory: Path) -> Iterator[str]:
    """Run the stand-in in a process of its own; yield its address."""
    command = [sys.executable, "-m", "bench.x_api", str(count), str(seed), str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise SystemExit("the stand-in for the X API did not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.terminate()


def measure(
    form: str, bootstrap: str, count: int, seed: int, name: str, profile: Path | None = None
) -> dict[str, float]:
    """Run one contender in a fresh process, check the topic, and return its figures."""
    asyncio.run(create(bootstrap, name))
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as found:
        directory = Path(found)
        with x_api(count, seed, directory) as host:
            command = [sys.executable, "-m", "bench.tweet_contenders", form]
            command += ["--bootstrap", bootstrap, "--topic", name, "--count", str(count)]
            command += ["--host", host, "--authority", str(directory / AUTHORITY)]
            if profile is not None:
                command += ["--profile", str(profile)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"the contender {form!r} failed with status {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    check(form, asyncio.run(published(bootstrap, name)), count)
    figures["cpu_us"] = figures["cpu"] / count * 1e6
    return figures


async def create(bootstrap: str, topic: str) -> None:
    """Make the topic of one contender."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()


def check(form: str, ids: Counter[bytes], count: int) -> None:
    """End the run unless so many tweets are there, each once."""
    if len(ids) != count or ids.total() != count:
        raise SystemExit(
            f"the contender {form!r} published {len(ids):,} of {count:,} tweets,"
            f" and {ids.total() - len(ids):,} records too many"
        )


async def published(bootstrap: str, topic: str) -> Counter[bytes]:
    """How often each tweet is on the topic, for a reader of committed records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    ids: Counter[bytes] = Counter()
    try:
        targets = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(targets)
        await consumer.seek_to_beginning(*targets)
        ends = await consumer.end_offsets(targets)
        while any([await consumer.position(tp) < ends[tp] for tp in targets]):
            for records in (await consumer.getmany(timeout_ms=50)).values():
                ids.update(record.key for record in records)
    finally:
        await consumer.stop()
    return ids


def summary(rounds: list[dict[str, dict[str, float]]], count: int) -> dict[str, dict[str, float]]:
    """Return the medians over all rounds; ratios are taken within a round."""
    result: dict[str, dict[str, float]] = {}
    for form in rounds[0]:
        runs = [figures[form] for figures in rounds]
        result[form] = {
            "cpu_us_per_tweet": median(run["cpu_us"] for run in runs),
            "ratio": median(
                figures[form]["cpu_us"] / figures["bare"]["cpu_us"] for figures in rounds
            ),
            "tweets_per_cpu_second": median(1e6 / run["cpu_us"] for run in runs),
            "tweets_per_second": median(count / run["wall"] for run in runs),
            "rss_mib": median(run["rss"] for run in runs) / 2**20,
        }
    return result


def show(result: dict[str, dict[str, float]], limit: float) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "CPU µs a tweet", "ratio", "tweets/CPU s", "tweets/s", "RSS MiB"):
        table.add_column(column, justify="right" if column else "left")
    for form, figures in result.items():
        ratio = figures["ratio"]
        table.add_row(
            FORMS[form],
            f"{figures['cpu_us_per_tweet']:.1f}",
            f"{ratio:.2f}" + (" over the limit" if ratio > limit else ""),
            f"{figures['tweets_per_cpu_second']:,.0f}",
            f"{figures['tweets_per_second']:,.0f}",
            f"{figures['rss_mib']:.0f}",
        )
    Console(width=120).print(table)


def main() -> int:
    """Run the comparison; return 1 when the receiver costs more than the limit allows."""
    parser = argparse.ArgumentParser(prog="python -m bench.tweets", description=__doc__)
    parser.add_argument("--tweets", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=2.0, help="highest ratio to the bare loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="profile instead of measuring")
    options = parser.parse_args()
    forms = list(FORMS)
    with broker() as bootstrap:
        if options.profile is not None:
            options.profile.mkdir(parents=True, exist_ok=True)
            for form in forms:
                path = options.profile / f"tweets-{form}.txt"
                measure(form, bootstrap, options.tweets, options.seed, f"profile-{form}", path)
                say(f"\n{FORMS[form]}: in {path}\n{path.read_text()}")
            return 0
        rounds = []
        for number in range(1, options.rounds + 1):
            # The two take turns at going first: a machine that gets slower favours neither.
            measured = {
                form: measure(
                    form, bootstrap, options.tweets, options.seed, f"tweets-{form}-{number}"
                )
                for form in forms[:: 1 if number % 2 else -1]
            }
            rounds.append({form: measured[form] for form in forms})
            shown = ", ".join(f"{form} {measured[form]['cpu_us']:.1f}" for form in forms)
            say(f"round {number} of {options.rounds}: CPU µs a tweet: {shown}")
    result = summary(rounds, options.tweets)
    within = result["receiver"]["ratio"] <= options.limit
    if options.json:
        outcome = {
            "tweets": options.tweets,
            "rounds": options.rounds,
            "limit": options.limit,
            "within_limit": within,
            "contenders": result,
        }
        print(json.dumps(outcome))
    else:
        show(result, options.limit)
        say("every tweet of every run is on its topic once")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
