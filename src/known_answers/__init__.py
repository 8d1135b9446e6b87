"""Routing and models with known answers: what a method finds is compared with what was planted.

For tests, documents and benches; no part of the wheel.
"""
