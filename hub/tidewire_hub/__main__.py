"""The command `tidewire-hub`, which is `python -m tidewire_hub` as well."""

from tidewire_link import startup


def main() -> None:
    """Run the command."""
    startup.prepare()
    from tidewire_hub.cli import main as command  # noqa: PLC0415  # prepared for

    command(prog_name="tidewire-hub")


if __name__ == "__main__":
    main()
