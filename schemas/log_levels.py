"""How much a sidecar logs: the words for it, as Envoy has them.

https://www.envoyproxy.io/docs/envoy/latest/operations/admin#post--logging
"""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec

Level = Literal["trace", "debug", "info", "warning", "error", "critical", "off"]
LEVELS: tuple[str, ...] = get_args(Level)
LoggerName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z", description="a logger of Envoy, such as http or router, or agent"),
]
AGENT = "agent"
"""Among the loggers: the agent itself. Envoy has none of that name."""
MAX_COMPONENTS = 32
# A day: who needs more changes the sidecar's settings. Below a second nobody has seen anything.
MIN_SECONDS, MAX_SECONDS = 1, 24 * 3600


class LogLevels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a sidecar logs for a time, instead of what its settings say."""

    level: Level | None = None
    """Of all loggers that are not among the components; None: as the settings say."""
    components: Annotated[dict[LoggerName, Level], msgspec.Meta(max_length=MAX_COMPONENTS)] = {}
    until: int
    """Seconds since 1970."""

    @property
    def of_agent(self) -> str | None:
        return self.components.get(AGENT, self.level)

    @property
    def of_envoy(self) -> Mapping[str, str]:
        """By logger, of those that are not at `level`."""
        return {name: level for name, level in sorted(self.components.items()) if name != AGENT}

    def __str__(self) -> str:
        """``debug, http=trace``, without the end."""
        words = [self.level] if self.level is not None else []
        return ", ".join([*words, *(f"{name}={level}" for name, level in sorted(self.components.items()))])
