"""The embedded broker: `python -m tidewire_hub.demo.broker PORT` runs amqtt on 127.0.0.1 until SIGTERM.

For the demo on a machine without Mosquitto, and for nothing else. amqtt speaks MQTT 3.1.1 alone, and hands every
subscriber retained messages of topics that it did not ask for; agents and hub ignore topics they do not know.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from amqtt.broker import Broker

_PLUGINS = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


async def run(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    broker = Broker({"listeners": listeners, "plugins": _PLUGINS})
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(int(sys.argv[1])))
