"""Consumer groups of the classic protocol: who gets what, and who is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.protocol.commit import OffsetCommitRequest

from tests.brokers import BrokerUnderTest, admin_client
from tests.conformance.clients import committed_offset, consumer, write
from tests.conformance.wire import (
    FENCED_INSTANCE_ID,
    ILLEGAL_GENERATION,
    INCONSISTENT_GROUP_PROTOCOL,
    NONE,
    REBALANCE_IN_PROGRESS,
    UNKNOWN_MEMBER_ID,
    RawMember,
    Wire,
    member,
    wire,
)
from tests.polling import eventually


class Rebalances(ConsumerRebalanceListener):
    """Counts how often a consumer was given partitions."""

    def __init__(self) -> None:
        self.count = 0

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        pass

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.count += 1


class EverythingToTheEager(AbstractPartitionAssignor):
    """Gives all partitions to the member whose user data is `eager`; tells everyone who that is.

    aiokafka takes an instance where it asks for a class.
    """

    name = "everything-to-the-eager"

    def __init__(self, mood: bytes) -> None:
        self.mood = mood
        self.told: bytes | None = None

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, list(topics), self.mood)

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        moods = b",".join(sorted(metadata.user_data for metadata in members.values()))
        topics = {topic for metadata in members.values() for topic in metadata.subscription}
        everything = [(topic, sorted(cluster.partitions_for_topic(topic))) for topic in topics]
        return {
            name: ConsumerProtocolMemberAssignment(
                0, everything if metadata.user_data == b"eager" else [], moods
            )
            for name, metadata in members.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        self.told = assignment.user_data


def partitions(client: AIOKafkaConsumer) -> set[int]:
    """The partition numbers that a consumer has."""
    return {tp.partition for tp in client.assignment()}


async def formed(members: list[RawMember], assignments: list[bytes]) -> None:
    """Have members join one after the other, and the leader assign; the group is then stable."""
    for number, newcomer in enumerate(members):
        joining = asyncio.create_task(newcomer.join())
        for one in members[:number]:
            await eventually(partial(answers_with, one, REBALANCE_IN_PROGRESS))
        rejoined = await asyncio.gather(joining, *(one.join() for one in members[:number]))
        assert set(rejoined) == {NONE}
    plan = {one.member_id: data for one, data in zip(members, assignments, strict=True)}
    answers = await asyncio.gather(*(one.sync(plan if one.leader else None) for one in members))
    assert answers == [(NONE, data) for data in assignments]


async def test_members_share_the_partitions(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=4)
    group = f"{kafka.prefix}group"
    async with (
        consumer(kafka, group_id=group) as first,
        consumer(kafka, group_id=group) as second,
    ):
        first.subscribe([topic])
        second.subscribe([topic])

        await eventually(lambda: len(partitions(first)) == len(partitions(second)) == 2)
        assert partitions(first) | partitions(second) == {0, 1, 2, 3}


async def test_a_member_that_leaves_hands_its_partitions_over_at_once(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t", partitions=4)
    options = {"group_id": f"{kafka.prefix}group", "session_timeout_ms": 60_000}
    async with consumer(kafka, **options) as stays:
        stays.subscribe([topic])
        async with consumer(kafka, **options) as leaves:
            leaves.subscribe([topic])
            await eventually(lambda: len(partitions(stays)) == len(partitions(leaves)) == 2)

        await eventually(lambda: len(partitions(stays)) == 4, within=30)


async def test_a_group_goes_on_from_its_committed_offset(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    tp = TopicPartition(topic, 0)
    group = f"{kafka.prefix}group"
    await write(kafka, topic, [b"0", b"1", b"2"])
    async with consumer(kafka, group_id=group) as client:
        client.subscribe([topic])
        assert (await client.getone()).value == b"0"
        await client.commit({tp: OffsetAndMetadata(1, "note")})

    async with consumer(kafka, group_id=group) as client:
        client.subscribe([topic])
        assert (await client.getone()).value == b"1"


async def test_an_assignor_of_ones_own_gets_and_gives_user_data(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=3)
    group = f"{kafka.prefix}group"
    lazy, eager = EverythingToTheEager(b"lazy"), EverythingToTheEager(b"eager")
    async with (
        consumer(kafka, group_id=group, partition_assignment_strategy=[lazy]) as first,
        consumer(kafka, group_id=group, partition_assignment_strategy=[eager]) as second,
    ):
        first.subscribe([topic])
        second.subscribe([topic])

        await eventually(lambda: lazy.told == eager.told == b"eager,lazy")
        await eventually(lambda: (partitions(first), partitions(second)) == (set(), {0, 1, 2}))


async def test_the_leader_sees_all_metadata_and_everyone_gets_their_assignment(
    kafka: BrokerUnderTest,
) -> None:
    group = f"{kafka.prefix}group"
    async with (
        member(kafka, group, metadata=b"a's") as a,
        member(kafka, group, metadata=b"b's") as b,
    ):
        await formed([a, b], [b"for a", b"for b"])

        leader, follower = (a, b) if a.leader else (b, a)
        assert leader.members == {a.member_id: b"a's", b.member_id: b"b's"}
        assert follower.members == {}


async def test_a_joining_member_makes_the_others_join_again(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group) as old, member(kafka, group) as new:
        await formed([old], [b"all"])
        assert await old.heartbeat() == NONE

        joining = asyncio.create_task(new.join())
        await eventually(lambda: answers_with(old, REBALANCE_IN_PROGRESS))
        before = old.generation
        assert await asyncio.gather(old.join(), joining) == [NONE, NONE]

        assert old.generation == new.generation == before + 1


async def test_a_member_of_an_earlier_generation_is_told(kafka: BrokerUnderTest) -> None:
    async with member(kafka, f"{kafka.prefix}group") as one:
        await formed([one], [b"all"])
        one.generation -= 1

        assert await one.heartbeat() == ILLEGAL_GENERATION
        assert (await one.sync())[0] == ILLEGAL_GENERATION


async def test_a_member_nobody_knows_is_told(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group) as one, member(kafka, group) as stranger:
        await formed([one], [b"all"])
        stranger.member_id, stranger.generation = "nobody", one.generation

        assert await stranger.heartbeat() == UNKNOWN_MEMBER_ID
        assert await stranger.join() == UNKNOWN_MEMBER_ID


async def test_a_member_with_no_protocol_in_common_is_refused(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group) as one, member(kafka, group, protocol="other") as other:
        await formed([one], [b"all"])

        assert await other.join() == INCONSISTENT_GROUP_PROTOCOL


async def test_a_member_that_vanishes_is_out_when_its_session_ends(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group) as stays:
        async with member(kafka, group, session_timeout_ms=1000) as vanishes:
            await formed([stays, vanishes], [b"half", b"half"])

        await eventually(lambda: answers_with(stays, REBALANCE_IN_PROGRESS))
        assert await stays.join() == NONE

        assert stays.leader
        assert set(stays.members) == {stays.member_id}


async def test_heartbeats_keep_a_session_alive(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with (
        member(kafka, group, session_timeout_ms=3000) as alive,
        member(kafka, group, session_timeout_ms=1000) as silent,
    ):
        await formed([alive, silent], [b"half", b"half"])

        await eventually(lambda: answers_with(alive, REBALANCE_IN_PROGRESS))

        assert await silent.heartbeat() == UNKNOWN_MEMBER_ID


async def test_a_static_member_comes_back_without_a_rebalance(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group, metadata=b"other") as other:
        async with member(kafka, group, instance_id="one", metadata=b"one") as before:
            await formed([other, before], [b"for other", b"for one"])

        async with member(kafka, group, instance_id="one", metadata=b"one") as after:
            assert await after.join() == NONE
            assert await after.sync() == (NONE, b"for one")

            assert after.generation == before.generation
            assert after.member_id != before.member_id
            assert await after.heartbeat() == NONE
        assert await other.heartbeat() == NONE


async def test_a_static_leader_comes_back_without_a_rebalance(kafka: BrokerUnderTest) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group, instance_id="one") as before:
        await formed([before], [b"all"])
        assert before.leader

    async with member(kafka, group, instance_id="one") as after:
        assert await after.join() == NONE
        assert await after.sync() == (NONE, b"all")
        assert after.generation == before.generation


async def test_the_second_of_two_static_members_with_one_name_fences_the_first(
    kafka: BrokerUnderTest,
) -> None:
    group = f"{kafka.prefix}group"
    async with (
        member(kafka, group, instance_id="one") as first,
        member(kafka, group, instance_id="one") as second,
    ):
        await formed([first], [b"all"])

        assert await second.join() == NONE

        assert (await first.sync())[0] == FENCED_INSTANCE_ID
        assert await first.join() == FENCED_INSTANCE_ID
        # Heartbeats as aiokafka sends them carry no instance id.
        assert await first.heartbeat() == UNKNOWN_MEMBER_ID


async def test_a_static_member_that_stays_away_is_out_when_its_session_ends(
    kafka: BrokerUnderTest,
) -> None:
    group = f"{kafka.prefix}group"
    async with member(kafka, group) as other:
        async with member(kafka, group, instance_id="one", session_timeout_ms=1000) as one:
            await formed([other, one], [b"half", b"half"])

        await eventually(lambda: answers_with(other, REBALANCE_IN_PROGRESS))


async def test_a_static_consumer_restarts_unnoticed(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=4)
    options = {"group_id": f"{kafka.prefix}group", "session_timeout_ms": 60_000}
    rebalances = Rebalances()
    async with consumer(kafka, **options) as other:
        other.subscribe([topic], listener=rebalances)
        async with consumer(kafka, group_instance_id="one", **options) as client:
            client.subscribe([topic])
            await eventually(lambda: len(partitions(client)) == len(partitions(other)) == 2)
            before = partitions(client), rebalances.count

        async with consumer(kafka, group_instance_id="one", **options) as client:
            client.subscribe([topic])
            await eventually(lambda: partitions(client))

            assert (partitions(client), rebalances.count) == before


async def test_offsets_are_committed_by_members_of_this_generation_alone(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with wire(kafka) as connection, member(kafka, group) as one:
        await formed([one], [b"all"])
        generation, name = one.generation, one.member_id

        assert await commit(connection, group, generation, name, topic, 1) == NONE
        assert await commit(connection, group, generation - 1, name, topic, 2) == ILLEGAL_GENERATION
        assert await commit(connection, group, generation, "nobody", topic, 3) == UNKNOWN_MEMBER_ID
        assert await commit(connection, group, -1, "", topic, 4) == UNKNOWN_MEMBER_ID

    assert await committed_offset(kafka, group, topic) == 1


async def test_offsets_of_a_group_without_members_may_be_set(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with wire(kafka) as connection:
        assert await commit(connection, group, -1, "", topic, 4) == NONE

    assert await committed_offset(kafka, group, topic) == 4


async def test_groups_are_listed_and_described(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=2)
    group = f"{kafka.prefix}group"
    async with (
        admin_client(kafka.bootstrap) as admin,
        consumer(kafka, group_id=group, client_id="someone") as client,
    ):
        client.subscribe([topic])
        await eventually(lambda: partitions(client))

        listed = await admin.list_consumer_groups()
        [response] = await admin.describe_consumer_groups([group])

    assert (group, "consumer") in {tuple(entry[:2]) for entry in listed}
    [described] = response.to_object()["groups"]
    [only] = described["members"]
    assert (described["group"], described["state"]) == (group, "Stable")
    assert described["protocol_type"] == "consumer"
    assert only["client_id"] == "someone"
    assignment = ConsumerProtocolMemberAssignment.decode(only["member_assignment"])
    assert assignment.partitions() == [TopicPartition(topic, 0), TopicPartition(topic, 1)]


async def test_a_group_nobody_knows_is_described_as_dead(kafka: BrokerUnderTest) -> None:
    async with admin_client(kafka.bootstrap) as admin:
        [response] = await admin.describe_consumer_groups([f"{kafka.prefix}nobody"])

    [described] = response.to_object()["groups"]
    assert (described["state"], described["members"]) == ("Dead", [])


async def answers_with(one: RawMember, error: int) -> bool:
    """Whether a heartbeat is answered with this error."""
    return await one.heartbeat() == error


async def commit(
    connection: Wire, group: str, generation: int, name: str, topic: str, offset: int
) -> int:
    """Commit an offset for the topic's first partition; the error code."""
    request = OffsetCommitRequest(group, generation, name, -1, [(topic, [(0, offset, "")])])
    response = await connection.to_group(group, request)
    [(_, [(_, error)])] = response.topics
    return int(error)
