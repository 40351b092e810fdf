"""The command `tidewire-agent`, which is `python -m tidewire_agent` as well."""

from tidewire_link import startup


def main() -> None:
    """Run the command."""
    startup.prepare()
    from tidewire_agent.cli import main as command  # noqa: PLC0415  # prepared for

    command(prog_name="tidewire-agent")


if __name__ == "__main__":
    main()
