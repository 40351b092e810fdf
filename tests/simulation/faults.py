"""The faults: each a named plug-in that strikes a world now and then, and says whether it did.

To add one, write a function under `@fault`. A fault that is not survivable yet is switched off by its `on`; it can be
asked for by name. What has struck is counted: a run in which a fault that is on never struck fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from simulation.process import Clock
from simulation.virtual_time import BORN_MS

if TYPE_CHECKING:
    from simulation.world import World

Strike = Callable[["World"], Awaitable[bool]]

DAY_MS: Final = 86_400_000
YEAR_MS: Final = 365 * DAY_MS


class Fault(NamedTuple):
    """One kind of bad luck."""

    name: str
    weight: float
    """How often it strikes, relative to the others."""
    on: bool
    strike: Strike

    @property
    def text(self) -> str:
        """What it is, for people."""
        return (self.strike.__doc__ or "").split("\n")[0]


FAULTS: Final[dict[str, Fault]] = {}


def fault(weight: float, *, on: bool = True) -> Callable[[Strike], Strike]:
    """Register a fault under its function's name."""

    def registered(strike: Strike) -> Strike:
        name = strike.__name__
        FAULTS[name] = Fault(name, weight, on, strike)
        return strike

    return registered


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────


@fault(4)
async def agent_killed(world: World) -> bool:
    """An agent is killed between two steps, and started again."""
    device = world.any_running()
    if device is None:
        return False
    device.kill()
    world.start_again(device)
    return True


@fault(4)
async def agent_killed_inside_a_call(world: World) -> bool:
    """An agent is killed inside one of its transactions."""
    device = world.any_running()
    if device is None:
        return False
    device.die_inside(int(10 ** world.chance.uniform(0.5, 4)))
    world.write(device)
    return False  # counted when it has died


@fault(1)
async def agent_stopped(world: World) -> bool:
    """An agent is stopped by its service manager, and started again."""
    device = world.any_running()
    if device is None:
        return False
    await device.stop()
    world.start_again(device)
    return True


@fault(3)
async def hub_killed(world: World) -> bool:
    """The hub is killed between two steps, and started again."""
    if not world.hub.running:
        return False
    world.hub.kill()
    world.start_again(world.hub)
    return True


@fault(4)
async def hub_killed_inside_a_call(world: World) -> bool:
    """The hub is killed inside a transaction of its log or its state."""
    if not world.hub.running:
        return False
    world.hub.die_inside(int(10 ** world.chance.uniform(0.5, 4)))
    return False  # counted when it has died


@fault(1)
async def hub_stopped(world: World) -> bool:
    """The hub is stopped by its service manager, and started again."""
    if not world.hub.running:
        return False
    await world.hub.stop()
    world.start_again(world.hub)
    return True


@fault(1)
async def two_hubs(world: World) -> bool:
    """A second hub takes over the log while the first still talks; later one of them goes."""
    return world.start_second_hub()


# ── disks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault(3)
async def power_cut_at_a_device(world: World) -> bool:
    """A device loses its power, and with it what was not synced."""
    device = world.any_device()
    lost = device.cut_power()
    world.start_again(device)
    return lost


@fault(2)
async def power_cut_at_the_hub(world: World) -> bool:
    """The hub loses its power, and with it the unsynced tail of its state."""
    if not world.hub.running:
        return False
    lost = world.hub.cut_power()
    world.start_again(world.hub)
    return lost


@fault(1)
async def hub_state_deleted(world: World) -> bool:
    """The hub's state is deleted while it is down: it is made anew from the log."""
    if not world.hub.running or not world.hub.can_make_state_anew:
        return False
    world.hub.kill()
    world.hub.lose_state()
    world.start_again(world.hub)
    return True


@fault(2)
async def hub_rolled_back(world: World) -> bool:
    """The hub's files go back to an older copy; its snapshots do not."""
    return world.roll_hub_back(state=True)


@fault(5)
async def hub_loses_its_tail(world: World) -> bool:
    """The hub's log goes back to an older copy, and its state does not."""
    return not world.short_log and world.roll_hub_back(state=False)


@fault(0.7)
async def hub_files_lost(world: World) -> bool:
    """The hub loses all its files and begins another log, which each device adopts."""
    return world.lose_hub()


@fault(1)
async def hub_disk_full(world: World) -> bool:
    """The hub has no space left for a while."""
    hub = world.hub
    world.later(world.chance.uniform(0.2, 4), hub.free_disk)
    return hub.fill_disk()


@fault(2)
async def device_rolled_back(world: World) -> bool:
    """A device's database is put back from an older backup."""
    saved = [device for device in world.devices if device.backups]
    if not saved:
        return False
    device = world.chance.choice(saved)
    world.copied(device)
    device.put_back(world.chance.choice(device.backups))
    world.start_again(device)
    return True


@fault(0.6)
async def device_cloned(world: World) -> bool:
    """A device's card is copied into a second machine: both run under one name."""
    device = world.any_device()
    if device.app.holds:
        return False
    return world.clone(device)


@fault(1)
async def wal_checkpoint(world: World) -> bool:
    """SQLite copies the write-ahead log into the database, and begins it anew."""
    device = world.any_device()
    device.app.checkpoint()
    return True


# ── clocks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault(1)
async def device_clock_jumps(world: World) -> bool:
    """A device's clock jumps by days or years, or back to 1970."""
    _jump(world, world.any_device().clock)
    return True


@fault(1)
async def hub_clock_jumps(world: World) -> bool:
    """The hub's clock jumps, and so does that of the next hub on this machine."""
    _jump(world, world.hub.clock)
    return True


def _jump(world: World, clock: Clock) -> None:
    jumps = (0, DAY_MS, -DAY_MS, 3 * YEAR_MS, -3 * YEAR_MS, -BORN_MS)
    clock.offset_ms = world.chance.choice(jumps)


# ── network and broker ────────────────────────────────────────────────────────────────────────────────────────────


@fault(4)
async def connection_cut(world: World) -> bool:
    """A connection is cut; both ends notice."""
    return world.cut_a_connection(late=False)


@fault(3)
async def connection_cut_in_one_direction(world: World) -> bool:
    """A client loses its connection while the broker still takes what it had sent, and notices late."""
    return world.cut_a_connection(late=True)


@fault(2)
async def device_offline(world: World) -> bool:
    """A device is without a network for a while."""
    device = world.any_device()
    world.weather.offline.add(device.label)
    for client in world.network.of_machine(device.label):
        client.cut()
    world.later(world.chance.uniform(0.5, 8), lambda: world.weather.offline.discard(device.label))
    return True


@fault(1.5)
async def device_far_behind(world: World) -> bool:
    """A device is without a network for long, and comes back by a snapshot where the hub's log is kept short."""
    device = world.any_device()
    world.weather.offline.add(device.label)
    for client in world.network.of_machine(device.label):
        client.cut()
    world.later(world.chance.uniform(4, 20), lambda: world.weather.offline.discard(device.label))
    return False  # counted when it loads a snapshot


@fault(1)
async def broker_restarted(world: World) -> bool:
    """The broker restarts and has lost its store."""
    world.network.restart_broker()
    return True


@fault(1)
async def broker_down(world: World) -> bool:
    """The broker is gone for a while, and its store with it."""
    world.network.restart_broker()
    world.weather.broker_down = True
    world.later(world.chance.uniform(0.5, 6), lambda: setattr(world.weather, "broker_down", False))
    return True


@fault(2)
async def slow_network(world: World) -> bool:
    """Messages take up to seconds."""
    world.weather.slow_share = world.chance.choice((0.05, 0.5))
    world.later(world.chance.uniform(1, 8), lambda: setattr(world.weather, "slow_share", 0.0))
    return True


@fault(3)
async def duplicates(world: World) -> bool:
    """The last messages of a topic come again."""
    world.weather.again_share = world.chance.choice((0.05, 0.4))
    world.later(world.chance.uniform(1, 8), lambda: setattr(world.weather, "again_share", 0.0))
    return False  # counted when it happens


@fault(2)
async def overtaking(world: World) -> bool:
    """Messages on different topics of one publisher overtake each other, as MQTT allows."""
    world.weather.overtaking = True
    world.later(world.chance.uniform(1, 8), lambda: setattr(world.weather, "overtaking", False))
    return True


@fault(2)
async def broker_drops(world: World) -> bool:
    """The broker takes messages and drops some, as from a full queue."""
    world.weather.lost_share = world.chance.choice((0.02, 0.2))
    world.later(world.chance.uniform(0.5, 4), lambda: setattr(world.weather, "lost_share", 0.0))
    return False  # counted when it happens


@fault(1)
async def broker_delivers_nothing(world: World) -> bool:
    """The broker grants a device's subscriptions and delivers nothing for a while."""
    device = world.any_device()
    world.weather.deaf.add(device.label)
    world.later(world.chance.uniform(1, 6), lambda: world.weather.deaf.discard(device.label))
    return False  # counted when it happens


# ── apps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault(2)
async def app_holds_the_lock(world: World) -> bool:
    """An app leaves its transaction open for a while."""
    device = world.any_device()
    if not device.attached or not device.app.write(hold=True):
        return False

    def commit() -> None:
        if device.app.finish():
            device.tell()

    world.later(world.chance.uniform(0.01, 3), commit)
    return True


@fault(1)
async def app_killed(world: World) -> bool:
    """An app is killed, perhaps inside a transaction."""
    device = world.any_device()
    device.app.stop()
    device.app.start()
    return True


@fault(1)
async def commit_unnoticed(world: World) -> bool:
    """The agent is not told of a commit: it finds it at its next look."""
    device = world.any_device()
    return device.attached and device.app.write()


@fault(1.5)
async def table_taken_anew(world: World) -> bool:
    """A table is detached and attached again while the agent is down."""
    return await world.attach_anew(_any_table(world), world.any_device())


@fault(1.5)
async def column_comes(world: World) -> bool:
    """An app adds a column to a table, on this device alone, or gives one another name."""
    return world.change_columns(world.any_device())


@fault(1)
async def column_dropped(world: World) -> bool:
    """An app drops a column that it has added, while its table is detached."""
    device = world.any_running()
    return device is not None and await world.drop_column(device)


def _any_table(world: World) -> str:
    return world.chance.choice(("users", "tags", "orders", "pairs"))
