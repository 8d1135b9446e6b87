"""Map and steer how Mixture-of-Experts language models route the world's languages.

The rooms, in the order in which data flows: `corpora`, `backends` (capture), `runs`, `analysis`, `steering`,
`backends` (steer), `evaluation`, `report`; `studies` are the use cases behind the commands.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
