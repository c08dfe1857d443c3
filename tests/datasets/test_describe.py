"""docs/data.md says what the code writes."""

from datasets.describe import PAGE, page


def test_the_page_is_that_of_the_code() -> None:
    """If not: python -m datasets.describe."""
    assert PAGE.read_text("utf-8") == page()
