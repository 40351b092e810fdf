"""Agent and hub are killed at each of their steps, while apps write on two devices.

Some steps in each run of the tests; all of them, or some, by

    python -m pytest tests/acceptance/test_killed_at_each_step.py --crash-steps all
    python -m pytest tests/acceptance/test_killed_at_each_step.py --crash-steps all -k 'is_sealed'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import connect
from typing import Final

import pytest

from support.crash_point import CrashPoint
from support.crash_steps import FEW, STEPS, Program, Situation, Step
from support.forked import Forked
from support.town import ROUND, SHORT_LOG, Town, assert_sound
from tidewire_agent.store.tables import user_tables


class Towns:
    """Towns in which one step after the other is tried: the same one again, unless something went wrong in it."""

    def __init__(self, folder: Path, programs: Forked) -> None:
        self._folder = folder
        self._programs = programs
        self._open: dict[tuple[str, ...], Town] = {}
        self._made = 0

    @contextmanager
    def town(self, *hub_options: str) -> Iterator[Town]:
        """A town with such a hub, where all is at rest."""
        town = self._open.pop(hub_options, None)
        if town is None:
            town = self.new(*hub_options).__enter__().begin()
            town.a.start()
            town.b.start()
            with town.writing():
                town.written()
            town.check()
        try:
            yield town
        except BaseException as error:
            town.__exit__(type(error), error, error.__traceback__)
            raise
        self._open[hub_options] = town

    def new(self, *hub_options: str) -> Town:
        """A town of one's own, to be entered."""
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        return Town(folder, self._programs, *hub_options)

    def close(self) -> None:
        for town in self._open.values():
            town.__exit__(None, None, None)


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Towns]:
    with Forked() as programs:
        towns = Towns(tmp_path_factory.mktemp("towns"), programs)
        yield towns
        towns.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "step" in metafunc.fixturenames:
        every = metafunc.config.getoption("--crash-steps") == "all"
        steps = [step for step in STEPS if every or str(step) in FEW]
        metafunc.parametrize("step", steps, ids=[str(step).replace(" ", "_") for step in steps])


@pytest.mark.fault("agent or hub killed at any of its steps")
def test_who_is_killed_at_a_step_goes_on_as_if_nothing_had_happened(towns: Towns, step: Step) -> None:
    """Guarantee 1. Guarantee 2. Guarantee 3. Guarantee 4. Guarantee 5. Guarantee 6. Guarantee 7."""
    SITUATIONS[step.program, step.situation](towns, step.point)


def test_all_steps_are_there_and_have_names_of_their_own() -> None:
    for step in STEPS:
        step.point.find()
    names = {str(step) for step in STEPS}
    assert len(names) == len(STEPS)
    assert names >= FEW


# ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def agent_while_apps_write(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        town.b.kill()
        with town.writing():
            town.start_to_die(town.b, point)
            town.wait_dead(town.b.process, point)
            town.written()
            town.b.start()
            town.written()
        town.check()


def agent_comes_back(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        town.b.kill()
        with town.writing():
            town.appended(12)
            town.start_to_die(town.b, point)
            town.wait_dead(town.b.process, point)
            town.written()
            town.b.start()
            town.written()
        town.check()


def agent_on_a_new_device(towns: Towns, point: CrashPoint) -> None:
    with towns.town(*SHORT_LOG) as town:
        with town.writing():
            town.until_trimmed(1)
        device = town.newcomer()
        town.start_to_die(device, point)
        town.wait_dead(device.process, point)
        town.writers[device.device].write(ROUND)
        device.start()
        with town.writing():
            town.appended()
        town.check()
        town.leave(device)


def agent_far_behind(towns: Towns, point: CrashPoint) -> None:
    with towns.town(*SHORT_LOG) as town:
        seq = town.b.standing().seq
        town.b.kill()
        with town.writing():
            town.until_trimmed(seq + 1)
        town.start_to_die(town.b, point)
        town.writers["b"].write(ROUND)
        town.wait_dead(town.b.process, point)
        town.writers["b"].write(ROUND)
        town.b.start()
        with town.writing():
            town.appended()
        town.check()


def agent_is_backed_up(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        copy = town.new_path("copy.db")
        with town.writing():
            town.command_dies(point, "tidewire-agent", "backup", "--db", town.b.db, copy)
            if not copy.exists():
                town.command("tidewire-agent", "backup", "--db", town.b.db, copy)
            town.written()
        town.check()
        assert_sound(copy)
        assert_no_trace(copy)


def agent_is_detached(towns: Towns, point: CrashPoint) -> None:
    """Its app rests: what it deletes while nobody looks comes back."""
    with towns.town(*SHORT_LOG) as town:
        assert town.b.stop() == 0
        command = ("tidewire-agent", "detach", "--db", town.b.db)
        town.command_dies(point, *command)
        town.command(*command)
        assert_no_trace(town.b.db)
        town.late_tables.add("b")
        with town.writing("a"):
            town.appended()
            town.b.start()
            town.appended()
        town.check()


def assert_no_trace(path: Path) -> None:
    """Nothing of Tidewire's is in a database."""
    with closing(connect(path)) as app:
        names = {name for (name,) in app.execute("SELECT name FROM sqlite_master WHERE name LIKE 'tidewire%'")}
        assert (names, len(user_tables(app))) == (set(), 5)


# ── hubs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def hub_while_apps_write(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        kill_hub_while_apps_write(town, point)


def hub_with_a_short_log(towns: Towns, point: CrashPoint) -> None:
    with towns.town(*SHORT_LOG) as town:
        kill_hub_while_apps_write(town, point)


def kill_hub_while_apps_write(town: Town, point: CrashPoint) -> None:
    town.site.hub.kill()
    with town.writing():
        town.start_hub_to_die(point)
        town.wait_dead(town.site.hub.process, point)
        town.written()
        town.site.hub.start()
        town.appended()
    town.check()


def hub_with_who_comes_back(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        town.b.kill()
        with town.writing():
            town.appended(12)
            kill_hub_by_b(town, point)
            town.appended()
        town.check()


def hub_with_who_is_far_behind(towns: Towns, point: CrashPoint) -> None:
    with towns.town(*SHORT_LOG) as town:
        seq = town.b.standing().seq
        town.b.kill()
        with town.writing():
            town.until_trimmed(seq + 1)
        kill_hub_by_b(town, point)
        with town.writing():
            town.appended()
        town.check()


def kill_hub_by_b(town: Town, point: CrashPoint) -> None:
    """It dies of what `b` asks."""
    town.site.hub.kill()
    town.start_hub_to_die(point)
    town.b.start(until=None)
    town.wait_dead(town.site.hub.process, point)
    town.site.hub.start()
    town.b.wait_state("live")


def hub_begins(towns: Towns, point: CrashPoint) -> None:
    with towns.new() as town:
        town.begin()
        town.late_tables |= {"a", "b"}
        town.site.hub.kill()
        for path in (town.site.hub.data / "main").iterdir():
            path.unlink()
        with town.writing():
            town.start_hub_to_die(point)
            town.a.start(until=None)
            town.b.start(until=None)
            town.wait_dead(town.site.hub.process, point)
            town.site.hub.start()
            town.appended()
        town.check()


def hub_is_backed_up(towns: Towns, point: CrashPoint) -> None:
    with towns.town() as town:
        copy = town.new_path("copy")
        with town.writing():
            town.command_dies(point, "tidewire-hub", "backup", "--data", town.site.hub.data, copy)
            if not (copy / "main" / "log.db").exists():
                town.command("tidewire-hub", "backup", "--data", town.site.hub.data, copy)
            town.written()
        town.check()
        assert_sound(copy / "main" / "log.db")


SITUATIONS: Final[dict[tuple[Program, Situation], Callable[[Towns, CrashPoint], None]]] = {
    ("agent", "apps write"): agent_while_apps_write,
    ("agent", "comes back"): agent_comes_back,
    ("agent", "new device"): agent_on_a_new_device,
    ("agent", "far behind"): agent_far_behind,
    ("agent", "backup"): agent_is_backed_up,
    ("agent", "detach"): agent_is_detached,
    ("hub", "apps write"): hub_while_apps_write,
    ("hub", "short log"): hub_with_a_short_log,
    ("hub", "comes back"): hub_with_who_comes_back,
    ("hub", "far behind"): hub_with_who_is_far_behind,
    ("hub", "new log"): hub_begins,
    ("hub", "backup"): hub_is_backed_up,
}
