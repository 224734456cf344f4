"""The parts of the receiver of tweets: secrets, lines, the backlog, pacing, rules, messages."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamapp.broker import Broker
from streamapp.errors import ConfigurationError
from streamapp.receivers import State
from streamapp.receivers.tweets import (
    Api,
    BearerToken,
    Progress,
    Rule,
    RuleBook,
    RuleError,
    TweetPosition,
    TweetReceiver,
    XApiError,
)
from streamapp.receivers.tweets.backlog import CONNECTED, LINE, Backlog, BacklogFull
from streamapp.receivers.tweets.ids import id_at, time_of
from streamapp.receivers.tweets.lines import Garbage, Notice, Tweet, envelopes, read_line
from streamapp.receivers.tweets.pacing import QUOTA, Backoff, quota_delay
from streamapp.receivers.tweets.rules import read_rules
from streamapp.receivers.tweets.stream import End
from streamapp.receivers.tweets.window import Published
from streamapp.sample_tweets import generate, snowflake
from tests.receivers.topics import read_topic
from tests.receivers.tweets import (
    RULES,
    api_of,
    fast,
    published_ids,
    real_time_for_kafka,
    running,
    token,
    until,
)
from tests.x_api import TOKEN, FakeX, Fault, LoopClock

START = datetime.now(UTC)
"""Kafka deletes what is old by its timestamp: the tweets are of today."""


class TestBearerToken:
    def test_a_file_goes_before_the_environment(self, tmp_path: Path):
        path = tmp_path / "token"
        path.write_text("from-file\n")
        environment = {"STREAMAPP_X_BEARER_TOKEN": "from-environment"}
        assert BearerToken.find(path, environment).reveal() == "from-file"
        assert BearerToken.find(None, environment).reveal() == "from-environment"

    def test_none_at_all_says_where_to_put_it(self):
        with pytest.raises(ConfigurationError, match="set STREAMAPP_X_BEARER_TOKEN"):
            BearerToken.find(None, {})

    @pytest.mark.parametrize("secret", ["", "  ", "Bearer abc", "tökén"])
    def test_what_is_no_token_is_refused_without_showing_it(self, secret: str):
        with pytest.raises(ConfigurationError) as refused:
            BearerToken(secret)
        assert "abc" not in str(refused.value)

    def test_it_shows_itself_nowhere(self):
        secret = BearerToken("hidden-secret", "a file")
        assert "hidden-secret" not in f"{secret} {secret!r}"


class TestLines:
    def test_a_tweet(self):
        (envelope,) = generate(1)
        assert read_line(json.dumps(envelope).encode()) == Tweet(
            int(envelope["data"]["id"]), False, True, False
        )

    def test_an_edited_one_without_language_and_with_errors(self):
        line = b'{"data":{"id":"7","edit_history_tweet_ids":["5","7"]},"errors":[{"title":"x"}]}'
        assert read_line(line) == Tweet(7, True, False, True)

    @pytest.mark.parametrize(
        ("line", "disconnect"),
        [
            (b'{"errors":[{"title":"Over capacity"}]}', False),
            (b'{"errors":[{"title":"operational-disconnect","disconnect_type":"x"}]}', True),
            (b'{"title":"ConnectionException","detail":"too many"}', True),
        ],
    )
    def test_notices(self, line: bytes, disconnect: bool):
        notice = read_line(line)
        assert isinstance(notice, Notice)
        assert notice.disconnect is disconnect

    @pytest.mark.parametrize(
        "line",
        [
            *(b'{"data":{"id":"1234","te', b"[]", b"\xff\x00", b"{}", b'{"data":{"id":5}}'),
            *(b'{"data":{"id":"x"}}', b'{"data":{"id":"99999999999999999999"}}', b"[" * 100_000),
            b'{"id_str":"5","text":"of version 1.1","entities":{"hashtags":[{"text":"x"}]}}',
        ],
    )
    def test_garbage(self, line: bytes):
        assert isinstance(read_line(line), Garbage)

    def test_what_search_finds_looks_as_from_the_stream(self):
        answer = {
            "data": [{"id": "2", "author_id": "9"}, {"id": "1"}],
            "includes": {"users": [{"id": "9", "username": "nine"}]},
        }
        first, second = map(json.loads, envelopes(answer, {"id": "5", "tag": "t"}))
        assert first == {"data": {"id": "1"}, "matching_rules": [{"id": "5", "tag": "t"}]}
        assert second["includes"] == {"users": [{"id": "9", "username": "nine"}]}


def test_ids_and_times_agree_with_the_generator():
    moment = datetime(2026, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    tweet = snowflake(moment, sequence=77)
    assert time_of(tweet) == int(moment.timestamp() * 1000)
    assert id_at(time_of(tweet)) == tweet - 77


class TestBacklog:
    def test_order_is_kept_through_memory_and_disk(self):
        backlog = Backlog(memory=100, disk=10_000)
        entries = [(number % 3, bytes([number]) * 20) for number in range(50)]
        taken: list[tuple[int, bytes]] = []
        for kind, data in entries[:20]:
            backlog.put(kind, data)
        assert backlog.spilled == 15
        taken += backlog.take(7, 10_000)
        for kind, data in entries[20:]:
            backlog.put(kind, data)
        taken += backlog.take(1_000, 10_000)
        assert taken == entries
        assert (len(backlog), backlog.size) == (0, 0)
        backlog.put(LINE, b"again in memory")
        assert backlog.spilled == 0
        backlog.close()

    def test_without_room_it_says_so(self):
        backlog = Backlog(memory=10, disk=0)
        backlog.put(CONNECTED, b"12345678")
        with pytest.raises(BacklogFull):
            backlog.put(LINE, b"123")

    def test_no_more_is_taken_than_asked_for(self):
        backlog = Backlog(memory=1_000, disk=0)
        for _ in range(10):
            backlog.put(LINE, b"x" * 10)
        assert len(list(backlog.take(3, 1_000))) == 3
        assert len(list(backlog.take(100, 25))) == 3


class TestPacing:
    def test_pauses_grow_by_kind(self):
        def pauses(end: End) -> list[float]:
            backoff = Backoff()
            return [backoff.pause(end, lasted=0.0) for _ in range(8)]

        assert pauses(End("network")) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
        assert pauses(End("http", 503)) == [5, 10, 20, 40, 80, 160, 320, 320]
        assert pauses(End("http", 429)) == [60, 120, 240, 480, 900, 900, 900, 900]
        assert pauses(End("clean")) == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_a_connection_that_lasts_makes_up_for_failures(self):
        backoff = Backoff()
        for _ in range(5):
            backoff.pause(End("clean"), lasted=1.0)
        assert backoff.pause(End("clean"), lasted=61.0) == 1.0

    def test_the_quota_is_kept(self):
        now, connects = 0.0, list[int]()
        while now < 3600.0:
            now += quota_delay(connects, int(now * 1000)) + 0.001
            connects = [*connects, int(now * 1000)][-QUOTA:]
            assert sum(moment > (now - 900) * 1000 for moment in connects) <= QUOTA
        assert QUOTA < 50


def test_ids_below_the_floor_are_forgotten():
    published = Published(0, set())
    start = id_at(1_800_000_000_000)
    later = id_at(1_800_000_100_000)
    assert published.add(start)
    assert not published.add(start)
    published.add(later)
    published.raise_floor(later)
    assert (len(published), published.floor) == (1, later)
    assert not published.add(later)


class TestRules:
    def test_a_file_has_a_rule_a_line(self, tmp_path: Path):
        path = tmp_path / "rules"
        path.write_text("// ours\npython lang:en\n\nkafka\tstreams of kafka\n")
        assert read_rules(path) == [Rule("python lang:en"), Rule("streams of kafka", "kafka")]

    def test_a_file_without_rules_is_refused(self, tmp_path: Path):
        path = tmp_path / "rules"
        path.write_text("// nothing\n")
        with pytest.raises(RuleError, match="has no rules"):
            read_rules(path)
        with pytest.raises(RuleError, match="cannot read"):
            read_rules(tmp_path / "missing")

    def test_they_are_added_listed_deleted_and_made_equal(self, tmp_path: Path):
        async def scenario() -> None:
            async with FakeX([], LoopClock(0.0)) as fake:
                api = api_of(fake, tmp_path)
                async with RuleBook(token(), api) as book:
                    assert await book.list() == []
                    (first,) = await book.add([Rule("python", "py")])
                    assert await book.list() == [first]
                    changes = await book.ensure([Rule("python", "py"), Rule("kafka")])
                    assert [rule.value for rule in changes.added] == ["kafka"]
                    wanted = [Rule("python", "snake"), Rule("rust"), Rule("rust")]
                    changes = await book.sync(wanted)
                    assert {rule.value for rule in changes.deleted} == {"python", "kafka"}
                    there = await book.list()
                    assert {(r.value, r.tag) for r in there} == {
                        ("python", "snake"),
                        ("rust", None),
                    }
                    assert (await book.sync(wanted)).kept == there
                    assert await book.delete([there[0].id or "", "1"]) == 1

        fast(scenario)

    def test_a_rule_that_is_wrong_is_named(self, tmp_path: Path):
        async def scenario() -> None:
            async with (
                FakeX([], LoopClock(0.0)) as fake,
                RuleBook(token(), api_of(fake, tmp_path)) as book,
            ):
                with pytest.raises(RuleError, match="'\\(python': UnprocessableEntity"):
                    await book.add([Rule("(python")])
                with pytest.raises(RuleError, match="1 to 1024"):
                    await book.add([Rule("x" * 1025)])

        fast(scenario)

    def test_a_server_that_cannot_be_reached_is_told(self, unused_tcp_port: int):
        async def scenario() -> None:
            async with RuleBook(token(), Api(f"127.0.0.1:{unused_tcp_port}")) as book:
                with pytest.raises(XApiError, match="cannot be reached"):
                    await book.list()

        asyncio.run(scenario())


class TestReceiver:
    @pytest.fixture(autouse=True)
    def patience_with_kafka(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_time_for_kafka(monkeypatch)

    def test_records_are_lines_of_the_stream_keyed_by_id(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(100, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            async with Broker(port=0) as broker, FakeX(tweets, clock, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                async with running(receiver):
                    await until(lambda: receiver.summary.published == 100)
                topic = await read_topic(broker.bootstrap, "tweets")
                records = [record for part in topic.values() for record in part]
                by_id = {tweet["data"]["id"]: tweet["data"] for tweet in tweets}
                for record in records:
                    value = json.loads(record.value)
                    assert value["data"] == by_id.pop(record.key.decode())
                    assert value["matching_rules"][0]["id"]
                assert by_id == {}
                assert receiver.summary.without_language > 0
                assert receiver.summary.position is not None
                assert receiver.summary.position.newest == int(tweets[-1]["data"]["id"])

        fast(scenario)

    def test_lines_that_are_no_tweets_go_to_the_dead_letters(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(50, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            fault = [Fault(10, "malformed")]
            async with Broker(port=0) as broker, FakeX(tweets, clock, fault, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                async with running(receiver):
                    await until(lambda: receiver.summary.published == 50)
                dead = await read_topic(broker.bootstrap, "tweets-dead-letters")
                values = [record.value for part in dead.values() for record in part]
                assert values == [b'{"data":{"id":"1","text":"broken}', b"\xff\xfe\x00", b"[]"]
                assert receiver.summary.connects == 1

        fast(scenario)

    @pytest.mark.parametrize(
        ("kind", "message"),
        [("401", "set STREAMAPP_X_BEARER_TOKEN"), ("403", "access level")],
    )
    def test_a_refusal_ends_it_with_what_to_do(self, kind: str, message: str, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(50, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            fault = [Fault(10, kind)]
            async with Broker(port=0) as broker, FakeX(tweets, clock, fault, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                with pytest.raises(XApiError, match=message):
                    await receiver.run()
                assert len(fake.connects) == 2
                ids = await published_ids(broker.bootstrap, "tweets")
                assert 9 <= len(ids) == receiver.summary.published

        fast(scenario)

    def test_a_life_that_fails_is_followed_by_one_that_repeats_nothing(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(100, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            failures = [60, 30]

            def fail(progress: Progress) -> None:
                if failures and progress.published >= failures[-1]:
                    raise ValueError(f"odd after {failures.pop()}")

            async with Broker(port=0) as broker, FakeX(tweets, clock, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path, on_progress=fail)
                living = asyncio.create_task(receiver.supervised())
                await until(lambda: receiver.summary.published == 100)
                receiver.stop()
                assert await living is receiver.summary
                ids = await published_ids(broker.bootstrap, "tweets")
                assert (set(ids), max(ids.values())) == (fake.searchable(), 1)
                status = receiver.status
                assert (status.state, status.restarts) == (State.ENDED, 2)
                assert status.last_error == "ValueError: odd after 60"
                assert (status.records, receiver.summary.connects) == (100, 3)

        fast(scenario)

    def test_rules_are_seen_to_before_the_stream(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(20, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            rules = [Rule(value) for value in RULES]
            async with Broker(port=0) as broker, FakeX(tweets, clock, rules=["cats"]) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path, rules=rules)
                async with running(receiver):
                    await until(lambda: receiver.summary.published == 20)
                receiver = receiver_of(
                    fake, broker, clock, tmp_path, rules=rules[:1], replace_rules=True
                )
                async with running(receiver), RuleBook(token(), api_of(fake, tmp_path)) as book:
                    await until(lambda: receiver.summary.connects)
                    assert [rule.value for rule in await book.list()] == [RULES[0]]

        fast(scenario)

    def test_without_rules_it_does_not_begin(self, tmp_path: Path):
        async def scenario() -> None:
            clock = LoopClock(START.timestamp())
            async with Broker(port=0) as broker, FakeX([], clock) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                with pytest.raises(RuleError, match="give one with --rule"):
                    await receiver.supervised()
                assert receiver.status.state is State.FAILED

        fast(scenario)

    def test_what_search_cannot_find_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        async def scenario() -> None:
            tweets = list(generate(100, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            rules = ["sample:50"]
            async with Broker(port=0) as broker, FakeX(tweets, clock, rules=rules) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                async with running(receiver):
                    await fake.done.wait()
                    await asyncio.sleep(200)
                assert receiver.summary.unsearchable == rules
                assert 0 < receiver.summary.published < 100

        fast(scenario)
        assert "Recent search does not take rule 'sample:50'" in caplog.text

    def test_a_gap_longer_than_a_week_is_an_alarm(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        async def scenario() -> None:
            tweets = list(generate(20, start=START, rate=2.0))
            async with Broker(port=0) as broker:
                clock = LoopClock((START - timedelta(days=9)).timestamp())
                async with (
                    FakeX([], clock, rules=RULES) as fake,
                    running(receiver_of(fake, broker, clock, tmp_path)),
                ):
                    await asyncio.sleep(200)
                clock = LoopClock(START.timestamp() - 30)
                async with FakeX(tweets, clock, rules=RULES) as fake:
                    second = receiver_of(fake, broker, clock, tmp_path)
                    async with running(second):
                        await until(lambda: second.summary.published == 20, within=600.0)
                assert second.summary.alarms >= 1

        fast(scenario)
        assert "longer than the 7 days" in caplog.text

    def test_what_keeps_it_from_the_stream_is_told_while_nothing_is_published(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(60, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            faults = [Fault(10, "503"), Fault(20, "503")]
            async with Broker(port=0) as broker, FakeX(tweets, clock, faults, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path)
                assert receiver.progress.state == "starting"
                receiving = asyncio.create_task(receiver.run())
                await until(lambda: receiver.progress.state.startswith("waiting "))
                assert "503" in receiver.progress.state
                await until(lambda: receiver.progress.state == "streaming")
                receiver.stop()
                await receiving

        fast(scenario)

    def test_the_token_is_never_shown(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ):
        shown: list[str] = []

        async def scenario() -> None:
            tweets = list(generate(200, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            kinds = ("reset", "503", "malformed", "huge", "disconnect", "death", "429", "401")
            faults = [Fault(10 + 10 * place, kind) for place, kind in enumerate(kinds)]
            async with Broker(port=0) as broker, FakeX(tweets, clock, faults, rules=RULES) as fake:
                progress: list[object] = []
                receiver = receiver_of(fake, broker, clock, tmp_path, on_progress=progress.append)
                with pytest.raises(XApiError) as refused:
                    await receiver.run()
                shown.extend(map(repr, [refused.value, receiver.summary, *progress]))
                topics = ("tweets", "tweets-positions", "tweets-dead-letters")
                for topic in topics:
                    shown.append(repr(await read_topic(broker.bootstrap, topic)))

        with caplog.at_level(logging.DEBUG):
            fast(scenario)
        captured = capfd.readouterr()
        assert "Making API request" in caplog.text
        assert "[bearer token]" in caplog.text
        assert TOKEN not in "".join([caplog.text, captured.out, captured.err, *shown])

    @pytest.mark.parametrize("option", [{"overlap": 59.0}, {"backfill_minutes": 6}])
    def test_settings_out_of_range_are_refused(self, option: dict[str, float]):
        with pytest.raises(ValueError, match="must be"):
            TweetReceiver("tweets", token(), **option)  # type: ignore[arg-type]

    def test_backfill_is_asked_for(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(50, start=START, rate=2.0))
            clock = LoopClock(START.timestamp() - 30)
            async with (
                Broker(port=0) as broker,
                FakeX(tweets, clock, rules=RULES, backfill=True) as fake,
            ):
                await fake.done.wait()
                receiver = receiver_of(fake, broker, clock, tmp_path, backfill_minutes=5)
                async with running(receiver):
                    await until(lambda: receiver.summary.published == 50)
                assert receiver.summary.duplicates >= 0

        fast(scenario)

    def test_a_backlog_without_room_leaves_a_gap_that_is_filled(self, tmp_path: Path):
        async def scenario() -> None:
            tweets = list(generate(400, start=START, rate=20.0))
            clock = LoopClock(START.timestamp() - 30)
            async with Broker(port=0) as broker, FakeX(tweets, clock, rules=RULES) as fake:
                receiver = receiver_of(fake, broker, clock, tmp_path, memory=2_000, disk=1_000)
                async with running(receiver):
                    await until(lambda: receiver.summary.published == 400)
                assert receiver.summary.ends["full"] > 0
                ids = await published_ids(broker.bootstrap, "tweets")
                assert set(ids) == fake.searchable()
                assert max(ids.values()) == 1

        fast(scenario)


def receiver_of(
    fake: FakeX, broker: Broker, clock: LoopClock, directory: Path, **options: object
) -> TweetReceiver:
    return TweetReceiver(
        "tweets",
        token(),
        api=api_of(fake, directory),
        bootstrap=broker.bootstrap,
        clock=clock,
        **options,  # type: ignore[arg-type]
    )


def test_a_position_survives_its_encoding():
    import msgspec

    position = TweetPosition(5, 7, [1, 2])
    assert msgspec.json.decode(msgspec.json.encode(position), type=TweetPosition) == position
