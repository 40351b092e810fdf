"""`tidewire-hub demo`: a broker, a hub and three agents on this machine, and a story told with what they really hold.

Quick to import, as every `tidewire-hub --help` does it: the parts are imported when the demo begins.
"""

from __future__ import annotations

import click

from tidewire_schemas.errors import SettingError


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Leave everything running at the end, with commands to try, until Ctrl-C.")
@click.option("--fast", is_flag=True, help="Shorter acts, for tests.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "mosquitto", "embedded"]),
    default="auto",
    show_default=True,
    help="auto: Mosquitto, installed by apt-get where that needs no password; else the embedded broker.",
)
def command(keep: bool, fast: bool, broker: str) -> None:
    """Show three databases on one machine in step, also after one of them was cut off.

    A broker, a hub and three agents run on free ports of 127.0.0.1 and in a temporary directory; all of it is gone at
    the end. Takes half a minute; exit code 1 if anything is not as it should be.
    """
    try:
        from tidewire_hub.demo.story import tell  # noqa: PLC0415  # see the module's docstring
    except ImportError as error:
        hint = "pip install 'tidewire[demo]'"
        raise SettingError(f"the demo needs a package that is not installed ({error.name})", hint=hint) from None
    raise SystemExit(tell(keep=keep, fast=fast, broker=broker))
