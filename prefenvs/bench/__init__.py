"""Benchmark tables: suites of cells, a runner for one machine or a Ray cluster, results with provenance, reports."""

from prefenvs.bench.cells import Cell, Data, Limits
from prefenvs.bench.methods import Method, find_method, list_methods
from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites import find_suite, list_suites

__all__ = [
    "Cell",
    "Data",
    "Grid",
    "Limits",
    "Method",
    "Suite",
    "find_method",
    "find_suite",
    "list_methods",
    "list_suites",
]
