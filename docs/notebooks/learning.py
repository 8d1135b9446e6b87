# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Learn a plan
#
# Choosing experts by counting shows no effect on the included model. Here the plan is *learned*: one number per expert
# and layer, added to the router's logits, found by gradient from worked problems, with all weights of the model frozen.
# To keep this page quick it takes 100 examples of one language; [the findings](../findings.md) take 600 of four.

# %%
import isogloss as ig
from isogloss.learning import LearnOptions

model = ig.load("organism")

# %% [markdown]
# Swahili is among the languages that this model knows least. Items of the task's *dev* split are divided into examples,
# which are learned from, and dev items, which choose the best step. The test split is not read.

# %%
learned = ig.learn(
    model,
    task="organism",
    examples="organism:reference",
    languages=["sw"],
    n_examples=100,
    n_dev=30,
    options=LearnOptions(steps=80, dev_every=40),
    out="out/learned",
)
learned

# %% [markdown]
# The plan applies to requests in Swahili alone; all others stay exactly as they are. The dev value above is too good,
# since the step was chosen on it. What the plan is worth, only other items say: those of the test split, beside random
# plans of the same size.

# %%
plan = learned.plan
plan

# %%
task = ig.task("organism", languages=["en", "sw"], split="test", n_items=30)
result = ig.evaluate(model, plan, task=task, arms=["random:1"], out="out/eval")
result

# %%
result.plot()

# %% [markdown]
# From here: [serve the plan on vLLM](../serving.md), or [turn it into a router adapter](../adapters.md), a small change
# of the routers' weights for any engine.

# %%
ig.write_plan(plan, "out/plan.json")
