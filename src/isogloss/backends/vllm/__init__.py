"""Runs models on vLLM, steered and recorded by the plugin of `isogloss.backends.vllm.plugin`.

vLLM imports this package in each of its processes to reach the plugin, so it imports nothing itself.
"""
