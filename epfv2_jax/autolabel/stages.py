"""Stages of a pipeline: a thread for each, joined by short queues."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def run_ahead(items: Generator[Item], depth: int) -> Generator[Item]:
    """Returns the items, computed by a thread of their own that is at most `depth` of them ahead.

    An exception in that thread is raised here. Closing the result stops the thread and closes `items`.
    """
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_work, args=(items, ready, stopped), daemon=True)

    def take() -> Iterator[Item]:
        thread.start()
        try:
            while True:
                kind, value = ready.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield value
        finally:
            stopped.set()
            thread.join()

    return take()


def _work(items: Generator[Item], ready: queue.Queue, stopped: threading.Event) -> None:
    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in items:
            if not put("item", item):
                break
        else:
            put("end", None)
    except BaseException as error:
        put("error", error)
    finally:
        items.close()
