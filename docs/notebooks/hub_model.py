# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model from the hub
#
# The same steps with a model that you choose and texts of your own. `MODEL` is the id of a repository on the hub, or a
# folder. Qwen3-30B-A3B needs a GPU of 80 GB in bfloat16, or several with `device="auto"`.
#
# **The outputs on this page come from a tiny model of the same class with random weights**, which `ISOGLOSS_MODEL`
# named when the page was made. They show what you get, not what Qwen3 does.

# %%
import json
import os
from pathlib import Path

import isogloss as ig

MODEL = os.environ.get("ISOGLOSS_MODEL", "Qwen/Qwen3-30B-A3B")
model = ig.load(MODEL)
model

# %% [markdown]
# ## Your texts
#
# One JSON object per line, with `id`, `language` and `text`; lines with the same `id` mean the same. A hundred
# sentences per language are enough to start with. `ig.corpus("flores_plus", languages=["en", "de", "sw"])` reads
# FLORES+ instead.

# %%
SENTENCES = {
    "en": [
        "The river is wide.",
        "The children are asleep.",
        "We bought bread at the market.",
        "It will rain tomorrow.",
    ],
    "de": [
        "Der Fluss ist breit.",
        "Die Kinder schlafen.",
        "Wir haben auf dem Markt Brot gekauft.",
        "Morgen regnet es.",
    ],
    "sw": ["Mto ni mpana.", "Watoto wamelala.", "Tulinunua mkate sokoni.", "Kesho mvua itanyesha."],
}
lines = [
    json.dumps({"id": f"s{place}", "language": language, "text": text}, ensure_ascii=False)
    for language, texts in SENTENCES.items()
    for place, text in enumerate(texts)
]
Path("sentences.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
corpus = ig.corpus("sentences.jsonl")
corpus

# %% [markdown]
# ## Capture and analyse

# %%
run = ig.capture(model, corpus, "out/run")
analysis = ig.analyze(run, pivot="en")
analysis

# %%
analysis.plot("divergence")

# %% [markdown]
# With a middle, `analysis.middle` has its first and last layer; without one, `analysis.no_middle` says why.

# %%
analysis.middle if analysis.has_middle else analysis.no_middle

# %% [markdown]
# ## Experts of a language, and a plan that acts on its requests alone

# %%
experts = ig.find_experts(run, rule="specificity", languages=["en", "de", "sw"], target=["sw"], top=4)
experts

# %%
plan = experts.plan("soft", strength=0.5)
with ig.steer(model, plan):
    steered = model.generate(["Jua ni"], max_new_tokens=8)
plan

# %% [markdown]
# ## Your questions
#
# A folder with one `xxx_Xxxx.tsv` per language: on each line a question, a tab, and a number. By name there are more:
# `isogloss tasks` lists them, such as `mgsm`.

# %%
QUESTIONS = {
    "eng_Latn": [("What is 2 + 3?", 5), ("What is 9 - 4?", 5), ("What is 3 + 4?", 7)],
    "swh_Latn": [("2 + 3 ni ngapi?", 5), ("9 - 4 ni ngapi?", 5), ("3 + 4 ni ngapi?", 7)],
}
folder = Path("sums")
folder.mkdir(exist_ok=True)
for language, questions in QUESTIONS.items():
    rows = "".join(f"{question}\t{answer}\n" for question, answer in questions)
    (folder / f"{language}.tsv").write_text(rows, encoding="utf-8")

result = ig.evaluate(model, plan, task="./sums", arms=["random:1"], out="out/eval")
result

# %% [markdown]
# ## Report, and the token view

# %%
ig.report(analysis, result, out="out/report.html")

# %%
ig.show(model, {language: texts[0] for language, texts in SENTENCES.items()}, "out/tokens.html", plan=plan)
