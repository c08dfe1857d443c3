"""Serve is imported where its warnings are no errors, for these tests too."""

import tests.serve_app.conftest  # noqa: F401
