# SPDX-License-Identifier: GPL-2.0-or-later
"""Until when a node may write, and from when on another may: one arithmetic for both sides, without I/O.

t0 is the boot clock *before* the last successful renewal was sent, T the time that the store then gives, R the period
of renewal, m = 0.5 s + T/500 what scheduling and unequal clocks may cost, W the watchdog's time-out, B the sum of the
budgets of the cut (W and B are 0 where there is neither)::

    t0            t0 + 3R         t0+T-m-W-B     t0+T-m-W     t0+T-m      t0+T          + m
    | renewed     | expiring      | stop:        | last pet   | silent    | the store   | the taker
    |             |               | no new open, | of the     |           | forgets us  | may write
    |             |               | the cut      | watchdog   |           | at earliest |

The store counts its T from when the renewal reached it, which is later than t0 whatever the network does; a deadline
counted from the *answer* would be late by as long as the answer took. 3R must fit before ``stop``, so that two lost
renewals in a row harm nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

MARGIN_S = 0.5  # scheduling
DRIFT = 1 / 500  # clocks that run unequally
RENEWALS = 3  # a lease outlives two lost renewals
SECOND_NS = 1_000_000_000


def margin_s(ttl_s: float) -> float:
    """m: what the holder stops earlier, and a taker waits longer, than the TTL says; seconds."""
    return MARGIN_S + ttl_s * DRIFT


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The arithmetic of one session. All times are boot clock nanoseconds of the node that holds it."""

    ttl_s: float
    renew_s: float = 0.0
    watchdog_s: float = 0.0
    cut_s: float = 0.0

    @property
    def margin_s(self) -> float:
        """m, seconds."""
        return margin_s(self.ttl_s)

    def silent_ns(self, sent_ns: int) -> int:
        """By then nothing of this node reaches a disk any more; ``sent_ns`` is t0."""
        return sent_ns + int((self.ttl_s - self.margin_s) * SECOND_NS)

    def last_pet_ns(self, sent_ns: int) -> int:
        """The watchdog is not fed at or after this, so that it bites before ``silent_ns``."""
        return self.silent_ns(sent_ns) - int(self.watchdog_s * SECOND_NS)

    def stop_ns(self, sent_ns: int) -> int:
        """From then on nothing new is opened, and the cut begins: the kernel's deadline."""
        return self.last_pet_ns(sent_ns) - int(self.cut_s * SECOND_NS)

    def expiring_ns(self, sent_ns: int) -> int:
        """From then on every renewal that may fail has failed."""
        return sent_ns + int(RENEWALS * self.renew_s * SECOND_NS)

    def renewed_ns(self, before_ns: int, sent_ns: int, answered_ns: int) -> int:
        """The new t0: of the renewal that was sent at ``sent_ns`` and answered at ``answered_ns``.

        A t0 never goes back, and an answer that is older than what it gives is worth nothing.
        """
        return max(before_ns, sent_ns) if answered_ns < self.silent_ns(sent_ns) else before_ns

    def taker_waits_ns(self) -> int:
        """How long a session must have been seen gone, on the taker's own clock, before its holder counts as silent."""
        return int(self.margin_s * SECOND_NS)

    @property
    def needed_s(self) -> float:
        """3R + B + W + m: the shortest TTL that holds it all, seconds."""
        return RENEWALS * self.renew_s + self.cut_s + self.watchdog_s + self.margin_s

    @property
    def most_renew_s(self) -> float:
        """The longest period of renewal that this TTL allows, in whole tenths of a second, at least one."""
        room_s = self.ttl_s - self.margin_s - self.cut_s - self.watchdog_s
        return max(0.1, int(room_s / RENEWALS * 10) / 10)

    def problem(self) -> str:
        """What is wrong with these figures, as the beginning of a sentence; "" if they fit."""
        if self.needed_s <= self.ttl_s:
            return ""
        parts = [f"{RENEWALS} x renew ({self.renew_s:g}s)"]
        parts += [f"cut ({self.cut_s:g}s)"] if self.cut_s else []
        parts += [f"watchdog ({self.watchdog_s:g}s)"] if self.watchdog_s else []
        parts += [f"margin ({MARGIN_S:g}s + ttl/{1 / DRIFT:g} = {self.margin_s:g}s)"]
        return f"{' + '.join(parts)} = {self.needed_s:g}s, which is more than ttl ({self.ttl_s:g}s)"

    def worst_takeover_s(self, store_slack_s: float = 0.0, looks_every_s: float = 0.0) -> float:
        """How long after its death a holder with a self-fencing guarantee is in the way at most, seconds.

        It died right after a renewal; ``store_slack_s`` is what the store takes beyond the TTL to forget a session. The
        margin counts from when the taker has seen that, and without anybody who waits it looks that often.
        """
        return self.ttl_s + store_slack_s + looks_every_s + self.margin_s
