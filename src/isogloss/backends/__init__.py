"""Engines that run models: where routers are found, routing is captured, and plans are applied."""
