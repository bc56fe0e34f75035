"""Suites of tests that your own classes can inherit."""
