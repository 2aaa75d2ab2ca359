"""What people and other systems use of central: the REST interface, the page, the alerts, the adapters; wired together."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.protocols.server import Endpoint
from gateway.schema import Table
from sync.central.adapters.feed import Feed
from sync.central.adapters.settings import build_adapters
from sync.central.alerts import Watcher, WatchOptions
from sync.central.operators import Operators
from sync.central.pages import Pages
from sync.central.rest import RestEndpoint
from sync.central.rest_answers import ROUTES
from sync.central.routes import Parts


@dataclass(frozen=True, slots=True)
class DeskOptions:
    """``operators`` is their file; ``folder`` is where relative paths of ``adapters`` begin."""

    operators: Path
    adapters: Mapping[str, Table]
    folder: Path
    watch: WatchOptions


class Desk:
    """Raises ConfigError for adapters that cannot be built."""

    def __init__(self, parts: Parts, options: DeskOptions) -> None:
        self._rest = RestEndpoint(ROUTES, parts, Operators(options.operators))
        self._pages = Pages()
        self._watcher = Watcher(parts.store, parts.clock, options.watch)
        adapters = build_adapters(options.adapters, options.folder, parts.clock)
        self._feeds = {adapter.name: Feed(parts.store, parts.clock, adapter) for adapter in adapters}

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The last one answers every other path."""
        return self._rest, self._pages

    def work(self) -> tuple[tuple[str, Coroutine[object, object, None]], ...]:
        """What runs in the background, with its names."""
        feeds = ((f"adapter-{name}", feed.run()) for name, feed in self._feeds.items())
        return ("alerts", self._watcher.run()), ("answers", self._rest.run()), *feeds
