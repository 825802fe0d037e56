"""What an operator has set of a canary: which version, for which share, and when it is taken back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """Beyond any one of these a canary is rolled back.

    error_share: of the newest bars, 0 to 1, that it may fail to answer. latency_s: that 95 % of its newest
    answers take at most. drawdown: that its account may lose from its highest equity, 0 to 1. worse_by_bps:
    of equity a bar that it may certainly earn less than the champion; 0: it may not certainly earn less.
    deadline_s: in which it answers, or counts as failed.
    """

    error_share: float = 0.1
    latency_s: float = 1.0
    drawdown: float = 0.1
    worse_by_bps: float = 0.0
    deadline_s: float = 2.0


@dataclass(frozen=True, slots=True)
class CanarySetting:
    """share: of the callers, 0 to 1; at 0 its accounts are kept and nobody is answered with it.

    attempt: a version that was rolled back begins anew under a higher one, and under no other.
    """

    version: str
    share: float
    attempt: int = 1
    limits: CanaryLimits = field(default_factory=CanaryLimits)
