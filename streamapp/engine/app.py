"""The application: a Faust app with batch agents and the engine that runs them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import faust
import venusian
from faust.app.base import SCAN_AGENT, SCAN_IGNORE
from faust.app.base import BootStrategy as FaustBootStrategy
from mode.types import ServiceT

from streamapp.clients import COMMON
from streamapp.engine.agent import AgentFunction, BatchAgent, named_in
from streamapp.engine.engine import Engine
from streamapp.engine.error_policy import ErrorPolicy, OnError
from streamapp.engine.foreach import ForeachBatch, ForeachFunction, foreach
from streamapp.engine.key_by import KeyBy
from streamapp.engine.provisioning import Provisioning
from streamapp.engine.receiving import DeclaredReceiver, ReceiverFunction, Receiving
from streamapp.engine.settings import EngineSettings, Guarantee
from streamapp.engine.topic import Topic
from streamapp.engine.topology import Topology, build_topologies
from streamapp.errors import ConfigurationError
from streamapp.state.aggregates import Aggregate
from streamapp.state.table import BatchTable, Table

if TYPE_CHECKING:
    from streamapp.testing import AppTest

__all__ = ["App"]


class BootStrategy(FaustBootStrategy):
    """Which services a worker starts: Faust's consumer, agents and tables only when there are any."""

    app: App

    def _should_enable_kafka_consumer(self) -> bool:
        return self.app.classic and super()._should_enable_kafka_consumer()

    def _should_enable_kafka_producer(self) -> bool:
        return self.app.classic and super()._should_enable_kafka_producer()

    def agents(self) -> Iterable[ServiceT]:
        """Return Faust's own agents."""
        return super().agents() if self.app.classic else []

    def server(self) -> Iterable[ServiceT]:
        """Return the services of a worker: topics are made first; the engine is last, and stops first."""
        engine = self.app.engine_services()
        return self._chain(self.app.provisioning_services(), super().server(), engine)


class App(faust.App):
    """A stream processing application.

    Everything of `faust.App` works as in Faust. Batch agents, batch tables and `key_by` run on the
    engine, with the guarantee that `processing_guarantee` names.

    Arguments, beside Faust's:
        processing_guarantee: `exactly_once` (default), `at_least_once` or `at_most_once`.
        state_dir: where stores live; `STREAMAPP_STATE` or `.streamapp/state` without one.
        worker_name: as `EngineSettings.worker_name`.
        engine: more settings of the engine, by the names of `EngineSettings`.
    """

    BootStrategy: ClassVar[Any] = BootStrategy

    def __init__(
        self,
        id: str,
        *,
        processing_guarantee: str | Guarantee = Guarantee.EXACTLY_ONCE,
        state_dir: str | Path | None = None,
        worker_name: str | None = None,
        engine: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("Topic", Topic)
        # Faust's pages listen on one port of all addresses: the second worker of a host would fail.
        options.setdefault("web_enabled", False)
        directory = state_dir or os.environ.get("STREAMAPP_STATE") or ".streamapp/state"
        if not {"F_DATADIR", "FAUST_DATADIR"} & os.environ.keys():
            # Faust makes `{id}-data` where it is started; ours belongs to the rest of the state.
            options.setdefault("datadir", Path(directory) / "faust" / id)
        try:
            guarantee = Guarantee(processing_guarantee)
        except ValueError:
            raise ConfigurationError(
                f"processing_guarantee={processing_guarantee!r}: it is one of {', '.join(Guarantee)}"
            ) from None
        known = {field.name for field in dataclasses.fields(EngineSettings)}
        if unknown := set(engine or {}) - known:
            raise ConfigurationError(
                f"engine={{…}} has no setting {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}"
            )
        self.engine_settings = EngineSettings(
            guarantee=guarantee,
            state_dir=Path(directory),
            worker_name=worker_name or os.environ.get("STREAMAPP_WORKER"),
            **(engine or {}),
        )
        self.batch_agents: dict[str, BatchAgent] = {}
        self.batch_tables: dict[str, Table[Any]] = {}
        self.receivers: dict[str, DeclaredReceiver] = {}
        self.engine: Engine | None = None
        self.provisioning: Provisioning | None = None
        self.receiving: Receiving | None = None
        #: Process what is there and stop (`worker --once`).
        self.once = False
        #: How long to wait for a broker at the start, in seconds.
        self.broker_patience = float(os.environ.get("STREAMAPP_BROKER_PATIENCE", "60"))
        self.failure: BaseException | None = None
        super().__init__(id, **options)

    # ------------------------------------------------------------------ declaring

    def topic(self, *topics: str, **options: Any) -> Topic:
        """Declare a topic, with Faust's options and those of `streamapp.engine.topic.Topic`."""
        return Topic(self, topics=topics, **options)

    def batch_agent(
        self,
        topic: Topic | str,
        *,
        name: str | None = None,
        topology: str | None = None,
        within: float = 1.0,
        max_records: int = 10_000,
        sink: Topic | Sequence[Topic] = (),
        uses: Iterable[Any] = (),
        errors: ErrorPolicy | Mapping[type[Exception], OnError] | None = None,
    ) -> Callable[[AgentFunction], BatchAgent]:
        """Declare a batch agent.

        Arguments:
            topic: whose partitions it takes.
            name: the function's name without one.
            topology: agents that share tables name the same one; the agent's name without one. It
                is part of group, transactional ids and topics: one that is renamed is migrated.
            within: seconds after its first record at which a batch is processed.
            max_records: records at which it is processed at once.
            sink: where what the agent yields goes.
            uses: tables, `key_by`s and topics that the function does not name in its own body.
            errors: what follows when it raises: a policy, or directives by exception type; without
                one `EngineSettings.errors`.

        Raises:
            ConfigurationError: the name is taken, or an option makes no sense.
        """
        source = self._source(topic)
        sinks = (sink,) if isinstance(sink, Topic) else tuple(sink)

        def declare(function: AgentFunction) -> BatchAgent:
            agent_name = name or function.__name__
            agent = BatchAgent(
                agent_name,
                function,
                source,
                topology or agent_name,
                within,
                max_records,
                sinks,
                frozenset({*uses, *named_in(function, (Table, Topic))}),
                None if errors is None else ErrorPolicy.of(errors),
            )
            self._add_agent(agent, function)
            return agent

        return declare

    def foreach_batch(
        self,
        topic: Topic | str,
        *,
        name: str | None = None,
        within: float = 1.0,
        max_records: int = 10_000,
        errors: ErrorPolicy | Mapping[type[Exception], OnError] | None = None,
    ) -> Callable[[ForeachFunction], ForeachBatch]:
        """Declare a function that writes batches to an outside system.

            @app.foreach_batch(orders)
            async def keep(batch: Batch) -> None:
                await database.write(batch, insert)

        It is given one batch a partition at a time. Under `exactly_once`, one that comes again after a
        failure is the same batch, with the same `batch.id` and the same records: a system that keeps
        the id in the same transaction as the rows has each batch once (`streamapp.sinks`).

        Arguments:
            topic: whose partitions it takes; a `key_by` too.
            name: the function's name without one; it is the topology's name, too.
            within: seconds after its first record at which a batch is written.
            max_records: records at which it is written at once.
            errors: what follows when it raises; single records are not skipped. Without one
                `EngineSettings.errors`, where it says `SKIP_RECORD` the batch is retried.

        Raises:
            ConfigurationError: the name is taken, or it works with tables or a `key_by`.
        """
        source = self._source(topic)

        def declare(function: ForeachFunction) -> ForeachBatch:
            agent = foreach(
                name or function.__name__,
                function,
                source,
                within,
                max_records,
                None if errors is None else ErrorPolicy.of(errors),
            )
            self._add_agent(agent, function)
            return agent

        return declare

    def _source(self, topic: Topic | str) -> Topic:
        return self.topic(topic, value_type=bytes) if isinstance(topic, str) else topic

    def _add_agent(self, agent: BatchAgent, function: Callable[..., Any]) -> None:
        if agent.name in self.batch_agents:
            raise ConfigurationError(
                f"there are two batch agents named {agent.name}: give one of them name='…'"
            )
        self.batch_agents[agent.name] = agent
        venusian.attach(function, lambda scanner, found, item: None, category=SCAN_AGENT)

    def receiver(
        self, topic: Topic | str, *, name: str | None = None
    ) -> Callable[[ReceiverFunction], ReceiverFunction]:
        """Declare a receiver that the workers run, one at a time; another takes over when it dies.

            @app.receiver(log_lines)
            def access_log(**place):
                return FileReceiver("/var/log/access.log", follow=True, **place)

        The function is called in each worker, with what every receiver takes: `topic`, `name`,
        `bootstrap` and `partitions`. `worker --once` runs none.

        Arguments:
            topic: where its records go.
            name: under which its position is kept; the function's name without one.

        Raises:
            ConfigurationError: the name is taken.
        """

        def declare(function: ReceiverFunction) -> ReceiverFunction:
            receiver_name = name or function.__name__
            if receiver_name in self.receivers:
                raise ConfigurationError(
                    f"there are two receivers named {receiver_name}: give one of them name='…'"
                )
            self.receivers[receiver_name] = DeclaredReceiver(receiver_name, topic, function)
            venusian.attach(function, lambda scanner, found, item: None, category=SCAN_AGENT)
            return function

        return declare

    def BatchTable(
        self,
        name: str,
        *,
        default: Callable[[], Any] | None = None,
        aggregate: Aggregate | None = None,
        key_type: Any = None,
        value_type: Any = None,
    ) -> BatchTable:
        """Declare a table that batch agents keep: see `streamapp.state.BatchTable`."""
        if name in self.batch_tables:
            raise ConfigurationError(f"there are two tables named {name}")
        return BatchTable(
            self,
            name,
            default=default,
            aggregate=aggregate,
            key_type=key_type,
            value_type=value_type,
        )

    def add_table(self, table: Table[Any]) -> None:
        """Register a table; `.tumbling()` and `.hopping()` replace the one that they were made of."""
        self.batch_tables[table.name] = table

    def key_by(
        self,
        name: str,
        *,
        aggregate: Aggregate | None = None,
        pane: float | None = None,
        key_type: Any = Any,
        value_type: Any = None,
        partitions: int | None = None,
    ) -> KeyBy:
        """Declare a stream that goes to the owner of its key: see `streamapp.engine.key_by.KeyBy`.

        Its topic is `{app id}-{name}-by-key`.
        """
        return KeyBy(
            self,
            topics=(f"{self._default_options[0]}-{name}-by-key",),
            aggregate=aggregate,
            pane=pane,
            key_type=key_type,
            value_type=value_type,
            partitions=partitions,
        )

    # ------------------------------------------------------------------ what follows from it

    def topologies(self) -> list[Topology]:
        """Return the topologies of the batch agents."""
        return build_topologies(self.conf.id, self.batch_agents.values())

    @property
    def dead_letter_topic(self) -> str:
        """Where records go that could not be processed."""
        return f"{self.conf.id}-dead-letters"

    def kafka_options(self) -> dict[str, Any]:
        """Return what every aiokafka client of the engine is given: addresses and credentials."""
        options: dict[str, Any] = {
            **COMMON,
            "bootstrap_servers": ",".join(
                f"{url.host}:{url.port or 9092}" for url in self.conf.broker
            ),
        }
        credentials: Any = self.conf.broker_credentials
        if credentials is not None:
            options["security_protocol"] = credentials.protocol.value
            if getattr(credentials, "context", None) is not None:
                options["ssl_context"] = credentials.context
            if getattr(credentials, "username", None) is not None:
                options["sasl_mechanism"] = credentials.mechanism.value
                options["sasl_plain_username"] = credentials.username
                options["sasl_plain_password"] = credentials.password
        return options

    def engine_services(self) -> list[ServiceT]:
        """Return the receivers and the engine, where there are any."""
        services: list[ServiceT] = []
        options: dict[str, Any] = {"loop": self.loop, "beacon": self.beacon}
        if self.receivers and not self.once:
            self.receiving = Receiving(
                self, session_timeout=self.engine_settings.receiver_timeout, **options
            )
            services.append(self.receiving)
        if self.batch_agents:
            self.provisioning = Provisioning(self, **options)
            self.engine = Engine(self, once=self.once, provisioning=self.provisioning, **options)
            services.append(self.engine)
        return services

    def provisioning_services(self) -> list[ServiceT]:
        """Return what makes the engine's topics, where there is an engine."""
        return [] if self.provisioning is None else [self.provisioning]

    def discover(
        self,
        *extra_modules: str,
        categories: Iterable[str] | None = None,
        ignore: Iterable[Any] = SCAN_IGNORE,
    ) -> None:
        """Find what the application's modules declare: nothing in this package, which would be imported whole."""
        ours = re.compile(r"streamapp\.").match
        super().discover(*extra_modules, categories=categories, ignore=[*ignore, ours])

    def worker_init(self) -> None:
        """Make the project's forms of Faust's commands known."""
        from streamapp.cli import (  # noqa: F401  (they register themselves)
            audit,
            batches,
            dead_letters,
            declared,
            drain,
            migrate,
            replay,
            reset,
            worker,
        )

        super().worker_init()

    def _new_web(self) -> Any:
        web = super()._new_web()
        web.blueprints.add("/recovery", "streamapp.dashboard.recovery:blueprint")
        return web

    @property
    def classic(self) -> bool:
        """Whether there are agents or tables of Faust's own."""
        return bool(self.agents) or bool(self.tables.data)

    async def _wait_for_table_recovery_completed(self) -> bool:
        if self.classic:
            return bool(await super()._wait_for_table_recovery_completed())
        return False

    def failed(self, error: BaseException) -> None:
        """The engine cannot go on: remember why, and crash the worker."""
        self.failure = error
        self.loop.create_task(self.crash(error))

    def _create_directories(self) -> None:
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        super()._create_directories()

    # ------------------------------------------------------------------ testing

    def test(self, **options: Any) -> AppTest:
        """Return a harness that runs the batch agents without a broker: see `streamapp.testing`."""
        from streamapp.testing import AppTest

        return AppTest(self, **options)
