"""An Op that computes nothing and has no gradient: it makes a black box of a model."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op


class Identity(Op):
    """Returns its vector; `calls` counts the evaluations, and what raises is up to `guard`."""

    def __init__(self, guard=None):
        self.calls = 0
        self.guard = guard

    def make_node(self, x):
        x = pt.as_tensor_variable(x)
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        self.calls += 1
        if self.guard is not None:
            self.guard(inputs[0])
        outputs[0][0] = np.array(inputs[0])


def block_gradient(model: pm.Model, guard=None) -> Identity:
    """Let the log density of `model` pass through an Op without gradient; its values stay.

    The Op sees all value variables of the model joined, that is, the unconstrained vector.
    """
    op = Identity(guard)
    with model:
        joined = pt.concatenate([pt.flatten(v) for v in model.value_vars])
        # the difference is zero, but no rewrite can know that
        pm.Potential("blocked", pt.sum(op(joined) - joined))
    return op
