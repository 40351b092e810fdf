"""The story: three tills sell, one loses its network, both sides change one price, and all end up equal."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, NoReturn

import click

from tidewire_hub.demo import brokers
from tidewire_hub.demo.failure import DemoFailed
from tidewire_hub.demo.network import Cable
from tidewire_hub.demo.playground import commands_to_try
from tidewire_hub.demo.processes import Child, Processes
from tidewire_hub.demo.readings import ITEM, Digest, Instruments, Reading
from tidewire_hub.demo.screen import Screen, make_screen
from tidewire_hub.demo.tills import TABLES, Till
from tidewire_link.command_line import ExitCode
from tidewire_schemas.errors import SettingError

NAMES: Final = ("till-1", "till-2", "till-3")

NEAR_CENTS: Final = 250
"""What till-1 makes of the price while till-3 is away."""

FAR_CENTS: Final = 280
"""What till-3 makes of it meanwhile."""

START_TIMEOUT_S: Final = 30.0
OFFLINE_TIMEOUT_S: Final = 10.0
EQUAL_TIMEOUT_S: Final = 30.0

FRAME_S: Final = 0.125
"""Time between two looks at files and hub."""


class Lengths(NamedTuple):
    """How long the acts last."""

    selling_s: float
    alone_s: float
    after_s: float


SHOWN: Final = Lengths(5.0, 6.0, 2.0)
FAST: Final = Lengths(1.0, 1.0, 0.5)


def tell(*, keep: bool, fast: bool, broker: str) -> int:
    """Run the demo and return its exit code; nothing that it started is left."""
    screen = make_screen()
    directory = Path(tempfile.mkdtemp(prefix="tidewire-demo-"))
    with _signals_end_it():
        try:
            with Processes(directory) as processes:
                try:
                    Demo(directory, processes, screen, FAST if fast else SHOWN).run(broker, keep=keep)
                except DemoFailed as failure:
                    screen.settle()
                    _explain(failure, processes, directory)
                    return ExitCode.ERROR
                finally:
                    screen.settle()
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    shutil.rmtree(directory, ignore_errors=True)
    return ExitCode.OK


class Demo:
    """The acts, in order. Each shows what it reads while it lasts."""

    def __init__(self, directory: Path, processes: Processes, screen: Screen, lengths: Lengths) -> None:
        self._directory = directory
        self._processes = processes
        self._screen = screen
        self._lengths = lengths
        self._began_at = time.monotonic()
        self._hub_data = directory / "hub"
        self._tills = [Till(name, directory) for name in NAMES]
        self._instruments = Instruments(self._tills, self._hub_data)
        self._agents: dict[str, Child] = {}

    def run(self, choice: str, *, keep: bool) -> None:
        """All of it.

        Raises:
            DemoFailed: something is not as it should be.
            SettingError: the broker that was asked for cannot be had.
        """
        broker = self._choose_broker(choice)
        cable = self._bring_up(broker)
        self._sell()
        self._lose_network(cable)
        self._come_back(cable)
        self._compare()
        self._show_conflict()
        self._screen.say()
        self._screen.say(f"Done in {time.monotonic() - self._began_at:.0f} s: three files and the hub hold equal rows.")
        if keep:
            self._keep(broker)

    def _choose_broker(self, choice: str) -> brokers.Broker:
        mosquitto = None if choice == "embedded" else brokers.find_mosquitto()
        if choice == "auto" and mosquitto is None and brokers.can_install():
            self._screen.say("Mosquitto is not installed: installing it (apt-get install mosquitto) …")
            mosquitto = brokers.install()
        if choice == "mosquitto" and mosquitto is None:
            raise SettingError("Mosquitto is not installed", hint="as root: apt-get install mosquitto")
        if choice == "auto" and mosquitto is None:
            self._screen.say("Mosquitto is not installed and cannot be: using the embedded broker.")
        self._began_at = time.monotonic()
        return brokers.start(self._processes, self._directory, mosquitto)

    def _bring_up(self, broker: brokers.Broker) -> Cable:
        cable = Cable(broker.port)
        url = "mqtt://127.0.0.1:{}"
        common = ["--protocol", broker.protocol]
        hub = [sys.executable, "-m", "tidewire_hub", "run", "--data", str(self._hub_data)]
        self._processes.start("hub", [*hub, "--broker", url.format(broker.port), *common])
        for till in self._tills:
            port = cable.port if till is self._tills[-1] else broker.port
            agent = [sys.executable, "-m", "tidewire_agent", "run", "--db", str(till.path), "--device", till.name]
            tables = [word for table in TABLES for word in ("--table", table)]
            # For people who watch: look often, and dial again soon.
            pace = ["--status-interval-s", "0.2", "--reconnect-delay-max-s", "1"]
            command = [*agent, "--broker", url.format(port), *common, *tables, *pace]
            self._agents[till.name] = self._processes.start(f"agent-{till.name}", command)
        cable.start()
        self._screen.say(f"broker  {broker.name} on 127.0.0.1:{broker.port}")
        self._screen.say(f"hub     tidewire-hub run --data {self._hub_data}")
        self._screen.say(f"tills   {', '.join(till.path.name for till in self._tills)}, a tidewire-agent beside each")
        self._processes.wait_for(self._all_live, START_TIMEOUT_S, "all agents are live")
        return cable

    def _sell(self) -> None:
        self._screen.headline("1  Three tills sell: each app writes plain SQL into its own SQLite file.")
        self._tills[0].print_price_list()
        self._wait_for(self._prices_everywhere, START_TIMEOUT_S, "the price list of till-1 is in all files")
        for till in self._tills:
            till.open()
        self._show_for(self._lengths.selling_s)

    def _lose_network(self, cable: Cable) -> None:
        near, *_others, far = self._tills
        self._screen.headline(f"2  {far.name} loses its network. All go on selling, and both sides change one price:")
        self._screen.say(f"   {near.name} sets {ITEM} to {NEAR_CENTS}, {far.name} sets it to {FAR_CENTS}.")
        cable.pull()
        self._wait_for(
            lambda: self._instruments.state(far) == "offline",
            OFFLINE_TIMEOUT_S,
            f"{far.name} notices that it is offline",
        )
        self._show_for(self._lengths.alone_s / 3)
        near.set_price(ITEM, NEAR_CENTS)
        far.set_price(ITEM, FAR_CENTS)
        self._show_for(self._lengths.alone_s * 2 / 3)
        # On a machine that is slow it may still wait to be sent; who comes back shall be the later one.
        self._wait_for(self._near_price_is_out, EQUAL_TIMEOUT_S, f"the price of {near.name} is in the other file")

    def _come_back(self, cable: Cable) -> None:
        far = self._tills[-1]
        self._screen.headline(f"3  {far.name} is back: it sends what it kept, and replays what it missed.")
        cable.plug_in()
        self._wait_for(self._all_live, EQUAL_TIMEOUT_S, f"{far.name} is live again")
        self._show_for(self._lengths.after_s)
        for till in self._tills:
            till.close()
        self._wait_for(self._at_rest, EQUAL_TIMEOUT_S, "all files hold all orders, and nothing is on its way")

    def _compare(self) -> None:
        self._screen.headline("4  Equal? Rows and digest of each table, from each file and from the hub:")
        sold = sum(till.sold for till in self._tills)
        hub = self._instruments.hub_digests()
        files = {till.path.name: self._instruments.file_digests(till) for till in self._tills}
        self._screen.table(
            ("", *(word for table in TABLES for word in (table, "digest"))),
            [(name, *_digest_cells(digests)) for name, digests in {**files, "hub": hub}.items()],
        )
        different = [name for name, digests in files.items() if digests != hub]
        if different:
            raise DemoFailed(f"not equal to the hub: {', '.join(different)}")
        orders = hub[TABLES.index("orders")].rows
        if orders != sold:
            raise DemoFailed(f"{sold} orders were committed by the apps, {orders} are in the hub")

    def _show_conflict(self) -> None:
        self._screen.headline("5  What the hub recorded where both sides had written the same row:")
        conflicts = self._instruments.conflicts()
        self._screen.table(
            ("row", "later write", "lost write", "lost value", "entry"),
            [
                (f"{one.table} {' '.join(map(str, one.key))}", one.winner, one.loser, _cells(one.lost), f"#{one.seq}")
                for one in conflicts
            ],
        )
        expected = ("prices", [ITEM], NAMES[0], {"cents": NEAR_CENTS})
        if expected not in [(one.table, one.key, one.loser, one.lost) for one in conflicts]:
            raise DemoFailed("the hub's conflict log does not have the price of till-1")

    def _keep(self, broker: brokers.Broker) -> None:
        self._screen.say()
        for line in commands_to_try(self._directory, broker, self._agents[NAMES[1]]):
            self._screen.say(line)
        try:
            while True:
                signal.pause()
        except (KeyboardInterrupt, SystemExit):
            self._screen.say()

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> Reading:
        self._processes.check()
        for till in self._tills:
            till.check()
        reading = self._instruments.read()
        self._screen.show(reading)
        return reading

    def _show_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            time.sleep(FRAME_S)

    def _wait_for(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            self._look()
            if time.monotonic() > end:
                raise DemoFailed(f"not within {timeout_s:g} s: {what}")
            time.sleep(FRAME_S)
        self._look()

    def _all_live(self) -> bool:
        return all(self._instruments.state(till) == "live" for till in self._tills)

    def _prices_everywhere(self) -> bool:
        return all(till.price is not None for till in self._instruments.read().tills)

    def _near_price_is_out(self) -> bool:
        return self._instruments.read().tills[1].price == NEAR_CENTS

    def _at_rest(self) -> bool:
        reading = self._instruments.read()
        sold = sum(till.sold for till in self._tills)
        return len({till.price for till in reading.tills}) == 1 and all(
            (till.state, till.orders, till.seq, till.waiting) == ("live", sold, reading.head, 0)
            for till in reading.tills
        )


def _digest_cells(digests: Sequence[Digest]) -> Iterator[str]:
    for digest in digests:
        yield str(digest.rows)
        yield digest.digest[:16]


def _cells(values: Mapping[str, object]) -> str:
    return ", ".join(f"{column} {value}" for column, value in values.items())


def _explain(failure: DemoFailed, processes: Processes, directory: Path) -> None:
    for name, lines in processes.tails():
        click.echo(f"\n── the end of {name}.log\n{lines}", err=True)
    click.echo(f"\nerror: {failure}\nhint: files and logs are kept in {directory}", err=True)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM, a closed terminal and Ctrl-C all end the demo by an exception, so that it cleans up; once."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
