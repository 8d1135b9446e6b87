# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The organism from end to end
#
# A whole study in ten lines: record how a Mixture-of-Experts model routes three languages, see where they meet, steer
# the experts that word problems use, and measure whether that helped. The model is the small one that ships with
# isogloss, so everything here runs on a laptop without a network.

# %%
import isogloss as ig

model = ig.load("organism")
model

# %% [markdown]
# ## Texts and their routing
#
# A corpus has the same items in every language. Capturing it runs the model once over every text and writes a *Run*:
# per text and layer, the mean weight that each expert got, and how often it was chosen. If it is stopped, the same line
# goes on where it was.

# %%
texts = ig.corpus("organism", languages=["en", "de", "sw"], n_items=60)
texts

# %%
run = ig.capture(model, texts, "out/run")
run

# %% [markdown]
# ## Where languages meet
#
# *Divergence* says how differently a text and its translation are routed, from 0 (alike) to 1 (no expert in common).
# English is the pivot, the language that the others are compared with.

# %%
analysis = ig.analyze(run, pivot="en")
analysis

# %%
analysis.plot("divergence")

# %% [markdown]
# The dashed curves compare texts that are *not* translations: only what lies below them is due to meaning.
#
# Everything is also a table. `to_frame()` gives the divergence; other names give other parts.

# %%
divergence = analysis.to_frame("divergence")
divergence.groupby("language")["value"].describe()[["mean", "min", "max"]].round(3)

# %% [markdown]
# ## Experts of a task
#
# Which experts do English word problems use more than other English text? The rule `delta` takes those whose share of
# chosen tokens is at least 0.1 greater, in layers 4 to 9.

# %%
problems = ig.corpus("organism:problems", languages=["en"], n_items=60)
maths = ig.capture(model, problems, "out/maths")
experts = ig.find_experts(maths, base=run, rule="delta", threshold=0.1, layers=(4, 9))
experts

# %% [markdown]
# ## Steer
#
# A plan says what to do with them. `soft` adds half a standard deviation of a token's logits to theirs, before experts
# are scored and chosen. Inside `with` the model is steered, after it, it is as before.

# %%
plan = experts.plan("soft", strength=0.5)
plan

# %%
question = problems.texts["eng_Latn"][0].split("\n")[0] + "\n"
with ig.steer(model, plan):
    steered = model.generate([question], max_new_tokens=24)
print(question)
print("without:", *model.generate([question], max_new_tokens=24))
print("with:   ", *steered)

# %% [markdown]
# ## Did it help?
#
# The same problems without the plan, with it, and with as many random experts in the same layers. Only what exceeds the
# random plans is an effect of *these* experts.

# %%
task = ig.task("organism", languages=["en", "de", "sw"], n_items=20)
result = ig.evaluate(model, plan, task=task, arms=["random:2"], out="out/eval")
result

# %%
result.plot()

# %% [markdown]
# Twenty problems a language show only large effects, as the width of the intervals says. [The findings](../findings.md)
# have the same with more items: a plan made by counting shows no effect on this model, one that is
# [learned](learning.py) does.
#
# ## A report
#
# One HTML file with all figures and tables, that needs no network:

# %%
ig.report(analysis, result, out="out/report.html")
