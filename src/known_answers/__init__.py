"""Routing and models whose answers are known: what a method finds is held against what was planted.

For tests, documents and benches; no part of the wheel.
"""
