"""Product ids in a text: the table finds just those that it holds, and what it does not hold."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ids import find_id, id_table, next_other
from market.products import UNIVERSE

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
IDS = [product.id for product in UNIVERSE]
ID = re.compile(rb'"product_id" ?: ?"([A-Z0-9]{1,20}-[A-Z0-9]{1,20})"')


def test_every_id_of_the_universe_is_found_where_it_stands() -> None:
    table = id_table({name: n for n, name in enumerate(IDS)})
    for n, name in enumerate(IDS):
        assert find_id(f'ab"{name}","'.encode(), 3, table) == (n, 3 + len(name))


@pytest.mark.parametrize(
    "text", ["", '"', "BTC-USD", 'BTC-US"', 'BTC-USDC"', 'btc-usd"', 'TC-USD"']
)
def test_what_is_no_id_of_the_table_is_not_found(text: str) -> None:
    table = id_table({"BTC-USD": 0, "ETH-USD": 1})
    assert find_id(text.encode(), 0, table)[1] == -1
    assert find_id(text.encode(), -1, table)[1] == -1
    assert find_id(text.encode(), len(text) + 1, table)[1] == -1
    assert find_id(b'BTC-USD"', 0, id_table({}))[1] == -1


def test_an_id_has_at_most_32_characters_that_json_writes_in_one_way() -> None:
    longest = "A" * 32
    table = id_table({longest: 1, longest + "A": 2, 'A"B': 3, "A\\B": 4, "": 5, "Ä": 6})
    assert find_id(longest.encode() + b'"', 0, table) == (1, 32)
    for other in (longest + "A", 'A"B', "A\\B", "", "Ä"):
        assert find_id(other.encode() + b'"', 0, table)[1] == -1


@STEADY
@given(st.sets(st.text("AB-", min_size=1, max_size=6), max_size=60), st.text("AB-", max_size=6))
def test_ids_that_are_alike_are_told_apart(names: set[str], other: str) -> None:
    numbers = {name: n for n, name in enumerate(sorted(names))}
    table = id_table(numbers)
    for name in {*names, other}:
        number, at = find_id(name.encode() + b'"', 0, table)
        assert (number if at >= 0 else None) == numbers.get(name)


PIECES = [b'"product_id"', b":", b" ", b'"', b"_i", b"BTC-USD", b"ETH-USD", b"x" * 70, b"\n"]
PIECES += [b'"product_id":"BTC-USD"', b'"product_id" : "ETH-USD"', b'"product_id":"A-B"', b"\\"]


@STEADY
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_keys_of_other_ids_are_found_as_a_regular_expression_finds_them(
    pieces: list[bytes],
) -> None:
    data, table = b"".join(pieces), id_table({"BTC-USD": 0})
    found, at = [], next_other(data, 0, table)
    while at >= 0:
        assert data.startswith(b'"product_id"', at)
        if match := ID.match(data, at):
            found.append((at, match[1]))
        at = next_other(data, at + 1, table)
    wanted = [(m.start(), m[1]) for m in ID.finditer(data) if m[1] != b"BTC-USD"]
    assert found == wanted
