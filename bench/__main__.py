"""`python -m bench`: what exactly-once counting costs beside a bare aiokafka loop.

Both read the same events from the same embedded broker (a process of its own), each in a fresh
process, in turn. What counts is CPU time a record of the reading process, and its ratio in the
same round: absolute figures hold for one machine on one day.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.workload import PARTITIONS, Totals, load

FORMS = {
    "bare": "bare aiokafka loop, no guarantee",
    "batch": "engine, exactly once, a batch at a time",
    "record": "engine, exactly once, a record at a time",
}


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def broker() -> Iterator[str]:
    """Run the embedded broker in a process of its own; yield its address."""
    command = [sys.executable, "-m", "streamapp", "broker", "--port", "0", "--partitions", "4"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(
                "the embedded broker did not start: does it have kio (the extra 'broker')?"
            )
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait()


def measure(
    form: str, bootstrap: str, expected: Totals, name: str, profile: Path | None = None
) -> dict[str, float]:
    """Run one contender in a fresh process, check what it counted, and return its figures."""
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as state:
        command = [sys.executable, "-m", "bench.contenders", form]
        command += ["--bootstrap", bootstrap, "--name", name, "--state", state]
        if profile is not None:
            command += ["--profile", str(profile)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"the contender {form!r} failed with status {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    counted = {(start, user): count for start, user, count in figures.pop("counts")}
    if counted != expected:
        wrong = sum(counted.get(key) != expected.get(key) for key in {*counted, *expected})
        raise SystemExit(
            f"the contender {form!r} counted {sum(counted.values()):,} of {expected.total():,} events and is wrong "
            f"in {wrong:,} of {len(expected):,} windows and users"
        )
    figures["cpu_us"] = figures["cpu"] / expected.total() * 1e6
    return figures


def summary(rounds: list[dict[str, dict[str, float]]], records: int) -> dict[str, dict[str, float]]:
    """Return the medians over all rounds; ratios are taken within a round."""
    result: dict[str, dict[str, float]] = {}
    for form in rounds[0]:
        runs = [figures[form] for figures in rounds]
        result[form] = {
            "cpu_us_per_record": median(run["cpu_us"] for run in runs),
            "ratio": median(
                figures[form]["cpu_us"] / figures["bare"]["cpu_us"] for figures in rounds
            ),
            "records_per_second": median(records / run["wall"] for run in runs),
            "rss_mib": median(run["rss"] for run in runs) / 2**20,
            "checkpoints": median(run.get("checkpoints", 0) for run in runs),
        }
    return result


def show(result: dict[str, dict[str, float]], limit: float) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "CPU µs a record", "ratio", "records/s", "RSS MiB", "checkpoints"):
        table.add_column(column, justify="right" if column else "left")
    for form, figures in result.items():
        ratio = figures["ratio"]
        table.add_row(
            FORMS[form],
            f"{figures['cpu_us_per_record']:.2f}",
            f"{ratio:.2f}" + (" over the limit" if ratio > limit else ""),
            f"{figures['records_per_second']:,.0f}",
            f"{figures['rss_mib']:.0f}",
            f"{figures['checkpoints']:.0f}" if figures["checkpoints"] else "",
        )
    Console(width=120).print(table)


def profile(form: str, bootstrap: str, expected: Totals, directory: Path) -> None:
    """Write a profile of one contender, and print where its time goes."""
    path = directory / f"{form}.txt"
    figures = measure(form, bootstrap, expected, f"bench-profile-{form}", path)
    say(f"\n{FORMS[form]}: {figures['cpu_us']:.2f} µs a record, in {path}")
    say(path.read_text())


def main() -> int:
    """Run the comparison; return 1 when the engine costs more than the limit allows."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1.3, help="highest ratio to the bare loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--form", action="append", choices=("batch", "record"), help="only this one"
    )
    parser.add_argument("--profile", type=Path, metavar="DIR", help="profile instead of measuring")
    options = parser.parse_args()
    forms = ["bare", *(options.form or ("batch", "record"))]
    with broker() as bootstrap:
        say(f"publishing {options.records:,} events to {PARTITIONS} partitions of {bootstrap}")
        expected = asyncio.run(load(bootstrap, options.records, options.seed))
        if options.profile is not None:
            options.profile.mkdir(parents=True, exist_ok=True)
            for form in forms:
                profile(form, bootstrap, expected, options.profile)
            return 0
        rounds = []
        for number in range(1, options.rounds + 1):
            # Each form goes first once: a machine that gets slower in a round favours nobody.
            turn = number % len(forms)
            measured = {
                form: measure(form, bootstrap, expected, f"bench-{form}-{number}")
                for form in forms[turn:] + forms[:turn]
            }
            rounds.append({form: measured[form] for form in forms})
            shown = ", ".join(f"{form} {measured[form]['cpu_us']:.2f}" for form in forms)
            say(f"round {number} of {options.rounds}: CPU µs a record: {shown}")
    result = summary(rounds, options.records)
    over = [form for form in forms[1:] if result[form]["ratio"] > options.limit]
    if options.json:
        outcome = {
            "records": options.records,
            "rounds": options.rounds,
            "limit": options.limit,
            "within_limit": not over,
            "contenders": result,
        }
        print(json.dumps(outcome))
    else:
        show(result, options.limit)
        say("the results of all runs are as expected")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
