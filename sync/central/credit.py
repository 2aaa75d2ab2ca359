"""How much of a work order each gateway may make. Pure.

Credit is escrow: what a gateway holds nobody else gets, because it may use it without a line. It is one number that counts from
the order's beginning, so a late document never adds to it twice, and it never falls.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator said. ``quantity``: units in all, at all gateways of the order together. ``step``: what one gateway may
    begin at first; with ``after_receipt`` it gets as much again, as the records of what it used come back."""

    quantity: int
    step: int
    after_receipt: bool


def credit(terms: Terms, *, granted: int, used: int, elsewhere: int) -> int:
    """Units that a gateway may begin in all.

    ``granted`` is what it may already, ``used`` what its records say that it began, ``elsewhere`` what the others hold. More is
    granted when half of a step is left, so that a line on the network never stands still for it; it is never more than one step
    ahead of the records.
    """
    wanted = terms.step
    if terms.after_receipt and granted:
        wanted = granted if granted - used > terms.step // 2 else used + terms.step
    return max(granted, min(wanted, terms.quantity - elsewhere))


def held(granted: int, used: int, *, over: bool) -> int:
    """How much of the quantity a gateway keeps from others: what it may use, or what it used once it begins nothing more."""
    return used if over else max(granted, used)
