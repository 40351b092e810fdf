"""The queue between the network and the log: bounded, fair between devices, emptied a group at a time."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Sequence

from tidewire_hub.actions import QueuedBatch


class IngestQueue:
    """Whole batches in the order each device sent them.

    A group takes one batch of each device in turn, so a device that empties a month's backlog holds nobody up. Over a
    limit the device that holds the most gives up its newest: it is not acked, so its device sends it again.

    Args:
        batches_max: how many batches it holds.
        bytes_max: how many bytes they may have together.
    """

    def __init__(self, *, batches_max: int, bytes_max: int) -> None:
        self._batches_max = batches_max
        self._bytes_max = bytes_max
        self._queues: OrderedDict[str, deque[bytes]] = OrderedDict()
        self._bytes_of: dict[str, int] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def bytes_held(self) -> int:
        """Bytes of all batches that wait."""
        return self._bytes

    def put(self, device: str, payload: bytes) -> set[str]:
        """Queue a batch; the devices of which a batch had to go (perhaps this very one)."""
        self._queues.setdefault(device, deque()).append(payload)
        self._bytes_of[device] = self._bytes_of.get(device, 0) + len(payload)
        self._count += 1
        self._bytes += len(payload)
        shed: set[str] = set()
        while self._count > self._batches_max or self._bytes > self._bytes_max:
            greediest = max(self._bytes_of, key=self._bytes_of.__getitem__)
            self._taken(greediest, self._queues[greediest].pop())
            shed.add(greediest)
        return shed

    def take(self, *, batches_max: int, bytes_max: int) -> tuple[QueuedBatch, ...]:
        """The next group: at least one batch if any waits, else within both limits."""
        group: list[QueuedBatch] = []
        size = 0
        while self._queues and len(group) < batches_max:
            device, queue = next(iter(self._queues.items()))
            if group and size + len(queue[0]) > bytes_max:
                break
            payload = queue.popleft()
            size += len(payload)
            group.append(QueuedBatch(device, payload))
            self._queues.move_to_end(device)
            self._taken(device, payload)
        return tuple(group)

    def put_back(self, batches: Sequence[QueuedBatch], *, served: Collection[str]) -> None:
        """Put what a group did not come to back in front of what its devices sent later.

        Devices of `served` had a turn in that group, so others come first. What was in the queue before is not shed
        again: limits are kept the next time something new comes.
        """
        for device, payload in reversed(batches):
            self._queues.setdefault(device, deque()).appendleft(payload)
            self._queues.move_to_end(device, last=device in served)
            self._bytes_of[device] = self._bytes_of.get(device, 0) + len(payload)
            self._count += 1
            self._bytes += len(payload)

    def _taken(self, device: str, payload: bytes) -> None:
        self._count -= 1
        self._bytes -= len(payload)
        self._bytes_of[device] -= len(payload)
        if not self._queues[device]:
            del self._queues[device], self._bytes_of[device]
