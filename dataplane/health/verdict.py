"""From single answers to a verdict. Pure."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Verdict:
    """`contrary`: how many answers in a row have spoken against it."""

    healthy: bool
    contrary: int = 0
    reason: str = "not checked yet"
    """Of the last failure."""

    def after(self, failure: str | None, *, unhealthy_threshold: int, healthy_threshold: int) -> "Verdict":
        """`failure`: why the check failed; None: it did not. One answer to the contrary begins the count again."""
        well = failure is None
        reason = self.reason if failure is None else failure
        if well is self.healthy:
            return replace(self, contrary=0, reason=reason)
        contrary = self.contrary + 1
        if contrary >= (healthy_threshold if well else unhealthy_threshold):
            return Verdict(well, 0, reason)
        return replace(self, contrary=contrary, reason=reason)

    def __str__(self) -> str:
        return "healthy" if self.healthy else f"unhealthy: {self.reason}"
