"""Balances of the exchange's customers, exact: what one side of a fill pays the other receives.

The simulated flow has an account without limit, so that over all accounts and the fees taken every
currency is conserved.
"""

from collections import defaultdict
from decimal import Decimal
from typing import Annotated

import msgspec

from market.ledger import EXACT
from sim.auth import ApiKey

FLOW = None  # The owner of all orders that are nobody's.
ZERO = Decimal(0)


class AccountConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A customer at the start."""

    owner: Annotated[str, msgspec.Meta(min_length=1)]
    balances: Annotated[dict[str, Decimal], msgspec.Meta(description="currency -> amount")] = (
        msgspec.field(default_factory=lambda: {"USD": Decimal(100_000)})
    )
    keys: tuple[ApiKey, ...] = ()

    def __post_init__(self) -> None:
        for currency, amount in self.balances.items():
            if not amount.is_finite() or amount < 0:
                raise ValueError(f"balances of {self.owner}: {amount} {currency} is no amount")


class Accounts:
    """What everyone owns, what open orders hold of it, and the fees taken."""

    def __init__(self, accounts: tuple[AccountConfig, ...]) -> None:
        self.owners = tuple(account.owner for account in accounts)
        self._total: defaultdict[tuple[str | None, str], Decimal] = defaultdict(lambda: ZERO)
        self._held: defaultdict[tuple[str | None, str], Decimal] = defaultdict(lambda: ZERO)
        self.fees: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)
        for account in accounts:
            for currency, amount in account.balances.items():
                self._total[account.owner, currency] = amount

    def total(self, owner: str | None, currency: str) -> Decimal:
        """All that an owner has of a currency, held or not; negative for the flow alone."""
        return self._total[owner, currency]

    def held(self, owner: str, currency: str) -> Decimal:
        """What open orders hold of it."""
        return self._held[owner, currency]

    def available(self, owner: str, currency: str) -> Decimal:
        """What an order can still use."""
        return EXACT.subtract(self.total(owner, currency), self.held(owner, currency))

    def currencies(self, owner: str) -> list[str]:
        """Currencies that an owner has a wallet for, in order of their names."""
        return sorted(currency for whose, currency in self._total if whose == owner)

    def hold(self, owner: str, currency: str, amount: Decimal) -> None:
        """Hold more of a currency, or less if negative; never more than there is."""
        held = EXACT.add(self.held(owner, currency), amount)
        assert ZERO <= held <= self.total(owner, currency), (owner, currency, amount)
        self._held[owner, currency] = held

    def move(self, owner: str | None, currency: str, amount: Decimal) -> None:
        """Add to what an owner has, or take from it if negative."""
        total = EXACT.add(self.total(owner, currency), amount)
        assert owner is FLOW or total >= self.held(owner, currency), (owner, currency, amount)
        self._total[owner, currency] = total

    def take_fee(self, owner: str, currency: str, fee: Decimal) -> None:
        """Take a fee from an owner."""
        self.move(owner, currency, EXACT.minus(fee))
        self.fees[currency] = EXACT.add(self.fees[currency], fee)

    def sum(self, currency: str) -> Decimal:
        """All that exists of a currency: it never changes."""
        amounts = [total for (_, held), total in self._total.items() if held == currency]
        found = self.fees[currency]
        for amount in amounts:
            found = EXACT.add(found, amount)
        return found
