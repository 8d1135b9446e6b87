"""Runs llama.cpp's own converters, as they are but for the tokenizer: ours is none that they know by its hash.

``python convert.py SOURCE SCRIPT ARGUMENT…`` runs one script; texts are given to llama.cpp as token ids, so how it
would cut them does not matter.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main():
    """Run the script of the command line."""
    source, script, *arguments = sys.argv[1:]
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    import conversion  # noqa: PLC0415 - llama.cpp's, found by the path above

    find = conversion.get_model_class

    def found(*given, **options):
        model_class = find(*given, **options)
        model_class.set_vocab = lambda self: self._set_vocab_gpt2()
        model_class.get_vocab_base_pre = lambda _self, _tokenizer: "gpt-2"
        return model_class

    conversion.get_model_class = found
    sys.argv = [script, *arguments]
    runpy.run_path(str(Path(source) / script), run_name="__main__")


if __name__ == "__main__":
    main()
