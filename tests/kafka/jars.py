"""Where Apache Kafka's jars come from: Maven Central, once for each version of `pom.xml`."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
STATE = HERE.parents[1] / ".kafka"
"""Everything that Kafka leaves behind is in this folder of the checkout, which git ignores."""

OLDEST_JAVA = 17


class KafkaUnavailable(RuntimeError):
    """Apache Kafka cannot be run on this machine; the message says what is missing or failed."""


def fetch_jars() -> Path:
    """Return the folder with Kafka's jars, fetching them with Maven the first time.

    Safe to call from several processes at once. Raises `KafkaUnavailable` when Java or Maven
    is missing or fails.
    """
    require_java()
    version = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    jars = STATE / f"jars-{version}"
    STATE.mkdir(exist_ok=True)
    with (STATE / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(dir=STATE, prefix="fetching-") as scratch:
                fetched = Path(scratch) / "jars"
                _run_maven(fetched)
                fetched.rename(jars)
    return jars


def require_java() -> None:
    """Raise `KafkaUnavailable` unless a Java that runs Kafka is on the path."""
    if shutil.which("java") is None:
        raise KafkaUnavailable(f"`java` is not on the path; install Java {OLDEST_JAVA} or newer")
    result = subprocess.run(["java", "-version"], capture_output=True, text=True)
    found = re.search(r'version "(\d+)', result.stderr)
    if result.returncode != 0 or found is None:
        raise KafkaUnavailable(f"`java -version` failed: {result.stderr.strip() or 'no version'}")
    if int(found[1]) < OLDEST_JAVA:
        raise KafkaUnavailable(f"Java {found[1]} found; Kafka needs {OLDEST_JAVA} or newer")


def _run_maven(target: Path) -> None:
    if shutil.which("mvn") is None:
        raise KafkaUnavailable("`mvn` is not on the path; install Maven to fetch Apache Kafka")
    command = [
        *("mvn", "--batch-mode", "--quiet", "-Dstyle.color=never", "--file", str(POM)),
        *("package", f"-Djars={target}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0 or not any(target.glob("kafka_*.jar")):
        output = (result.stdout + result.stderr).splitlines()
        errors = [line.partition("[ERROR] ")[2] for line in output if "[ERROR] " in line] or output
        reason = errors[0] if errors else "no jars and no message"
        raise KafkaUnavailable(f"`mvn` exited with {result.returncode}: {reason[:600]}")
