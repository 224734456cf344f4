"""`make chaos`: runs of faults by seed, on one broker and on three, under each guarantee.

    python -m tests.chaos --faults 60 --brokers 3 --guarantee exactly_once --seed 7

A run that fails leaves its logs behind, and prints the command that runs it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path

from tests.chaos.drama import run

GUARANTEES = ("exactly_once", "at_least_once", "at_most_once")


def main() -> int:
    """Run what the command line asks for; 1 when a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first run; the next ones count up")
    parser.add_argument("--faults", type=int, default=40, help="in each run")
    parser.add_argument("--brokers", type=int, nargs="*", default=[1, 3], choices=(1, 3))
    parser.add_argument("--guarantee", nargs="*", default=GUARANTEES, choices=GUARANTEES)
    parser.add_argument("--standbys", type=int, nargs="*", default=[0, 1], help="of each task")
    parser.add_argument("--runs", type=int, default=1, help="of each combination")
    asked = parser.parse_args()
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    # Brokers that go away are what this is about.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    failed = total = 0
    for number, (_, brokers, guarantee, standbys) in enumerate(
        product(range(asked.runs), asked.brokers, asked.guarantee, asked.standbys)
    ):
        directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        again = (
            f"python -m tests.chaos --seed {seed + number} --faults {asked.faults}"
            f" --brokers {brokers} --guarantee {guarantee} --standbys {standbys}"
        )
        print(f"== {again}", flush=True)
        try:
            report = asyncio.run(
                run(
                    directory,
                    seed + number,
                    asked.faults,
                    brokers=brokers,
                    guarantee=guarantee,
                    standbys=standbys,
                    tell=lambda line: print(line, flush=True),
                )
            )
        except AssertionError as error:
            failed += 1
            print(f"FAILED: {error}\nlogs: {directory}\nagain: {again}", flush=True)
        else:
            total += report.faults
            print(f"   {report}", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
    print(f"{total} faults survived, {failed} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
